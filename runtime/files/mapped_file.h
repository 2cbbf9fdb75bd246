#pragma once
// A whole file mapped read-only. Views into it live as long as the MappedFile; it can be moved.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace tenfold {

class MappedFile {
 public:
  // Throws bad_file where the file is missing, unreadable, empty or not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

// Lets go of the memory behind the whole pages of `part`, which must lie in a MappedFile: for
// readers that pass over a large file once. Touched again, they are read again.
void release_pages(std::span<const std::byte> part) noexcept;

}  // namespace tenfold
