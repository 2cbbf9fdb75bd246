#pragma once
// The directory of a zip file that is already in memory (mapped): names and spans, nothing copied.
// Only what torch.save writes: stored entries, one disk, zip64 or not. Compressed and encrypted
// entries are refused by name; duplicate names, and entries outside the file, are bad_file.

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace tenfold {

struct ZipEntry {
  std::string_view name;            // points into the file
  std::span<const std::byte> data;  // likewise
};

class ZipArchive {
 public:
  // The entry table is allocated from `memory`; `name` is what messages call the file. All of
  // file, name and memory must outlive the archive. Throws Error as described above.
  ZipArchive(std::span<const std::byte> file, std::string_view name,
             std::pmr::memory_resource* memory);

  std::span<const ZipEntry> entries() const noexcept { return entries_; }  // sorted by name
  std::string_view first_name() const noexcept { return first_name_; }     // in directory order
  std::optional<std::span<const std::byte>> find(std::string_view entry) const noexcept;

 private:
  std::pmr::vector<ZipEntry> entries_;
  std::string_view first_name_;
};

}  // namespace tenfold
