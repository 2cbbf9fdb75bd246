#pragma once
// A file that is written under a temporary name beside its target, synced, and renamed by
// commit(); destroyed without commit() it leaves nothing behind. What a killed process left goes
// when the same output is written again. Disk full and the like are ErrorCode::io naming the path
// and the system's reason. After an Error, only destroy it.
// A target that is a symbolic link is replaced itself, as mv does.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold {

// Throws what OutputFile would: before long work, not after.
void check_output(const std::filesystem::path& path, bool overwrite);
// Throws io where the path's file system has not so many bytes free; where it does not say, writing
// will.
void check_space(const std::filesystem::path& path, std::uint64_t bytes);

class OutputFile {
 public:
  // Throws io: "OUT.gguf: exists already; use --force to replace it" unless overwrite; also when
  // the folder is missing or not writable, or the target is no regular file (/dev/null, a folder).
  OutputFile(const std::filesystem::path& path, bool overwrite);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(std::span<const std::byte> data);
  void write(std::string_view text);
  std::uint64_t position() const noexcept { return position_; }
  void commit();
  const std::string& path() const noexcept { return path_; }

 private:
  void flush();
  std::string path_, temporary_;  // temporary_ is empty once renamed
  bool overwrite_ = false;
  int fd_ = -1;
  std::uint64_t position_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace tenfold
