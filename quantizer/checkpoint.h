#pragma once
// Finished layers of a long quantization, in a folder beside the output ("OUT.gguf.work"): an
// interrupted run goes on with them. A layer's file appears when it is complete, and the folder
// goes when the output is written.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/files/mapped_file.h"

namespace tenfold {

class Checkpoint {
 public:
  enum class Start { fresh, resume };
  // identity: what must agree for finished layers to be of use (recipe, source, calibration).
  // Throws bad_request where `resume` finds another identity, or a fresh start finds a folder and
  // may not replace it; io where the folder cannot be written. Resuming without a folder starts.
  Checkpoint(const std::filesystem::path& output, const std::string& identity, Start start,
             bool replace);
  // Throws bad_request where an earlier run's folder is beside the output.
  static void refuse_leftovers(const std::filesystem::path& output);

  // The bytes of a finished layer, and what save() was told about it.
  std::optional<MappedFile> layer(std::int64_t index) const;
  std::string note(std::int64_t index) const;
  void save(std::int64_t index, const std::vector<std::span<const std::byte>>& parts,
            const std::string& note) const;
  void remove() noexcept;
  const std::filesystem::path& folder() const noexcept { return folder_; }

 private:
  std::filesystem::path layer_path(std::int64_t index) const;
  std::filesystem::path note_path(std::int64_t index) const;
  std::filesystem::path folder_;
};

}  // namespace tenfold
