#pragma once
// Zip archives for tests, with every field open to being wrong.

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold::testing {

template <typename T>
void append_le(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

struct ZipBuilder {
  struct Entry {
    std::string name{}, data{};
    std::uint16_t method = 0, flags = 0;
    std::string local_name = name;
    bool sizes_follow = false;  // zeros in the local header, as torch's writer leaves them
  };
  std::vector<Entry> entries{};
  bool zip64 = false;  // every 32-bit field of the directory and end record escaped
  std::string comment{};
  std::uint64_t extra_count = 0;   // claimed beyond the entries that are there
  std::uint64_t offset_error = 0;  // added to each local header offset
  std::uint64_t size_error = 0;    // added to each size in the directory

  std::string build() const {
    std::string out, directory;
    for (const Entry& entry : entries) add_entry(entry, out, directory);
    const std::uint64_t start = out.size();
    const std::uint64_t count = entries.size() + extra_count;
    out += directory;
    if (zip64) {
      const std::uint64_t end64 = out.size();
      append_le(out, std::uint32_t{0x06064b50});
      append_le(out, std::uint64_t{44});
      append_le(out, std::uint32_t{45 << 16 | 45});
      append_le(out, std::uint64_t{0});  // disks
      append_le(out, count);
      append_le(out, count);
      append_le(out, std::uint64_t{directory.size()});
      append_le(out, start);
      append_le(out, std::uint32_t{0x07064b50});
      append_le(out, std::uint32_t{0});
      append_le(out, end64);
      append_le(out, std::uint32_t{1});
    }
    append_le(out, std::uint32_t{0x06054b50});
    append_le(out, std::uint32_t{0});  // disks
    append_le(out, narrow<std::uint16_t>(count));
    append_le(out, narrow<std::uint16_t>(count));
    append_le(out, narrow<std::uint32_t>(directory.size()));
    append_le(out, narrow<std::uint32_t>(start));
    append_le(out, static_cast<std::uint16_t>(comment.size()));
    return out + comment;
  }

 private:
  template <typename T>
  T narrow(std::uint64_t value) const {
    return zip64 ? std::numeric_limits<T>::max() : static_cast<T>(value);
  }

  void add_entry(const Entry& entry, std::string& out, std::string& directory) const {
    const std::uint64_t offset = out.size() + offset_error;
    const auto flags = static_cast<std::uint16_t>(entry.flags | (entry.sizes_follow ? 8 : 0));
    const auto size = static_cast<std::uint32_t>(entry.data.size());
    append_le(out, std::uint32_t{0x04034b50});
    append_le(out, std::uint16_t{20});
    append_le(out, flags);
    append_le(out, entry.method);
    append_le(out, std::uint64_t{0});  // time, date, CRC
    append_le(out, entry.sizes_follow ? 0 : size);
    append_le(out, entry.sizes_follow ? 0 : size);
    append_le(out, static_cast<std::uint16_t>(entry.local_name.size()));
    append_le(out, std::uint16_t{5});
    out += entry.local_name + std::string("FB\1\0Z", 5) + entry.data;

    append_le(directory, std::uint32_t{0x02014b50});
    append_le(directory, std::uint32_t{20 << 16 | 20});
    append_le(directory, flags);
    append_le(directory, entry.method);
    append_le(directory, std::uint64_t{0});  // time, date, CRC
    append_le(directory, narrow<std::uint32_t>(size + size_error));
    append_le(directory, narrow<std::uint32_t>(size + size_error));
    append_le(directory, static_cast<std::uint16_t>(entry.name.size()));
    append_le(directory, static_cast<std::uint16_t>(zip64 ? 28 : 0));
    append_le(directory, std::uint64_t{0});  // comment length, disk, attributes
    append_le(directory, std::uint16_t{0});
    append_le(directory, narrow<std::uint32_t>(offset));
    directory += entry.name;
    if (!zip64) return;
    append_le(directory, std::uint16_t{1});
    append_le(directory, std::uint16_t{24});
    append_le(directory, size + size_error);
    append_le(directory, size + size_error);
    append_le(directory, offset);
  }
};

}  // namespace tenfold::testing
