#include "runtime/files/zip_archive.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/error.h"
#include "runtime/files/byte_cursor.h"
#include "runtime/files/quote.h"

// Field layout: PKWARE APPNOTE.TXT sections 4.3 and 4.5.3.
namespace tenfold {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kZip64EndSignature = 0x06064b50;
constexpr std::uint32_t kZip64LocatorSignature = 0x07064b50;
constexpr std::uint64_t kCentralEntrySize = 46;
constexpr std::uint64_t kEndSize = 22;
constexpr std::uint64_t kZip64LocatorSize = 20;
constexpr std::uint64_t kZip64EndSize = 56;
constexpr std::uint16_t kMax16 = std::numeric_limits<std::uint16_t>::max();
constexpr std::uint32_t kMax32 = std::numeric_limits<std::uint32_t>::max();
constexpr unsigned kFlagEncrypted = 1u << 0 | 1u << 6 | 1u << 13;
constexpr unsigned kFlagSizesFollow = 1u << 3;  // the local header has zeros instead
constexpr std::uint16_t kZip64ExtraId = 1;

struct Directory {
  std::uint64_t n_entries, size, offset;
};

struct CentralEntry {
  std::string_view name;
  unsigned flags, method;
  std::uint64_t packed_size, size, local_offset;
};

std::uint32_t load32(Bytes file, std::uint64_t offset) {
  std::uint32_t value;
  std::memcpy(&value, file.data() + offset, sizeof(value));
  return value;
}

// The end record is last, but for a comment of up to 64 KiB whose length must match.
std::uint64_t find_end_record(Bytes file, std::string_view name) {
  if (file.size() >= kEndSize) {
    const std::uint64_t last = file.size() - kEndSize;
    for (std::uint64_t comment = 0; comment <= std::min<std::uint64_t>(last, kMax16); ++comment) {
      const std::uint64_t offset = last - comment;
      if (load32(file, offset) != kEndSignature) continue;
      std::uint16_t length;
      std::memcpy(&length, file.data() + offset + 20, sizeof(length));
      if (length == comment) return offset;
    }
  }
  throw_file_error(name, "no zip directory at the end; the file is truncated or not a zip archive");
}

// A field of the classic end record either agrees with its zip64 twin or says "see there".
void check_agrees(std::uint64_t classic, std::uint64_t escape, std::uint64_t zip64,
                  std::string_view name) {
  if (classic != escape && classic != zip64) {
    throw_file_error(name, "zip end records disagree: {} and {} (zip64)", classic, zip64);
  }
}

Directory read_zip64_end(Bytes file, std::uint64_t end_offset, const Directory& classic,
                         std::string_view name) {
  ByteCursor locator(file, name, end_offset - kZip64LocatorSize);
  locator.take(4, "signature");
  const auto disk = locator.read<std::uint32_t>("disk");
  const auto offset = locator.read<std::uint64_t>("zip64 end record offset");
  const std::uint64_t limit = end_offset - kZip64LocatorSize;
  if (disk != 0 || offset > limit || limit - offset < kZip64EndSize ||
      load32(file, offset) != kZip64EndSignature) {
    throw_file_error(name, "zip64 locator points to byte {}, where no zip64 end record is", offset);
  }
  ByteCursor end(file, name, offset);
  end.take(16, "zip64 end record");  // signature, size, versions
  const auto this_disk = end.read<std::uint32_t>("disk");
  const auto directory_disk = end.read<std::uint32_t>("disk");
  const auto entries_here = end.read<std::uint64_t>("entries");
  Directory directory{};
  directory.n_entries = end.read<std::uint64_t>("entries");
  directory.size = end.read<std::uint64_t>("directory size");
  directory.offset = end.read<std::uint64_t>("directory offset");
  if (this_disk != 0 || directory_disk != 0 || entries_here != directory.n_entries) {
    throw_error(ErrorCode::unsupported, "{}: a zip archive in several parts", name);
  }
  check_agrees(classic.n_entries, kMax16, directory.n_entries, name);
  check_agrees(classic.size, kMax32, directory.size, name);
  check_agrees(classic.offset, kMax32, directory.offset, name);
  if (directory.offset > offset || directory.size > offset - directory.offset) {
    throw_file_error(name, "zip directory of {} bytes at byte {} does not end before byte {}",
                     directory.size, directory.offset, offset);
  }
  return directory;
}

Directory find_directory(Bytes file, std::string_view name) {
  const std::uint64_t end_offset = find_end_record(file, name);
  ByteCursor end(file, name, end_offset);
  end.take(4, "signature");
  const auto this_disk = end.read<std::uint16_t>("disk");
  const auto directory_disk = end.read<std::uint16_t>("disk");
  const auto entries_here = end.read<std::uint16_t>("entries");
  Directory directory{};
  directory.n_entries = end.read<std::uint16_t>("entries");
  directory.size = end.read<std::uint32_t>("directory size");
  directory.offset = end.read<std::uint32_t>("directory offset");
  if ((this_disk != 0 && this_disk != kMax16) ||
      (directory_disk != 0 && directory_disk != kMax16) || entries_here != directory.n_entries) {
    throw_error(ErrorCode::unsupported, "{}: a zip archive in several parts", name);
  }
  if (end_offset >= kZip64LocatorSize &&
      load32(file, end_offset - kZip64LocatorSize) == kZip64LocatorSignature) {
    return read_zip64_end(file, end_offset, directory, name);
  }
  if (directory.offset > end_offset || directory.size > end_offset - directory.offset) {
    throw_file_error(name, "zip directory of {} bytes at byte {} does not end before byte {}",
                     directory.size, directory.offset, end_offset);
  }
  return directory;
}

// The zip64 extra field holds, in this order, those of the three that did not fit in 32 bits.
void apply_zip64_extra(CentralEntry& entry, Bytes extra, std::string_view name) {
  ByteCursor cursor(extra, name);
  while (cursor.remaining() >= 4) {
    const auto id = cursor.read<std::uint16_t>("zip extra field");
    const auto size = cursor.read<std::uint16_t>("zip extra field");
    ByteCursor field(cursor.take(size, "zip extra field"), name);
    if (id != kZip64ExtraId) continue;
    for (std::uint64_t* value : {&entry.size, &entry.packed_size, &entry.local_offset}) {
      if (*value == kMax32) *value = field.read<std::uint64_t>("zip64 extra field");
    }
    return;
  }
}

CentralEntry read_central_entry(ByteCursor& cursor, std::string_view name) {
  if (cursor.read<std::uint32_t>("zip directory entry") != kCentralSignature) {
    throw_file_error(name, "zip directory: no entry at byte {}", cursor.position() - 4);
  }
  cursor.take(4, "zip directory entry");  // versions
  CentralEntry entry{};
  entry.flags = cursor.read<std::uint16_t>("zip flags");
  entry.method = cursor.read<std::uint16_t>("zip method");
  cursor.take(8, "zip directory entry");  // time, date, CRC
  entry.packed_size = cursor.read<std::uint32_t>("zip size");
  entry.size = cursor.read<std::uint32_t>("zip size");
  const auto name_length = cursor.read<std::uint16_t>("zip name length");
  const auto extra_length = cursor.read<std::uint16_t>("zip extra length");
  const auto comment_length = cursor.read<std::uint16_t>("zip comment length");
  const auto disk = cursor.read<std::uint16_t>("zip disk");
  cursor.take(6, "zip directory entry");  // attributes
  entry.local_offset = cursor.read<std::uint32_t>("zip local header offset");
  entry.name = cursor.take_text(name_length, "zip entry name");
  apply_zip64_extra(entry, cursor.take(extra_length, "zip extra fields"), name);
  cursor.take(comment_length, "zip entry comment");
  if (disk != 0 && disk != kMax16) {
    throw_error(ErrorCode::unsupported, "{}: a zip archive in several parts", name);
  }
  return entry;
}

void check_supported(const CentralEntry& entry, std::string_view name) {
  if ((entry.flags & kFlagEncrypted) != 0) {
    throw_error(ErrorCode::unsupported, "{}: zip entry {} is encrypted", name, quote(entry.name));
  }
  if (entry.method != 0) {
    throw_error(ErrorCode::unsupported,
                "{}: zip entry {} is compressed (method {}); torch.save stores entries "
                "uncompressed, re-save the model",
                name, quote(entry.name), entry.method);
  }
  if (entry.packed_size != entry.size) {
    throw_file_error(name, "zip entry {}: stored size {}, expected {}", quote(entry.name),
                     entry.packed_size, entry.size);
  }
}

// Entries lie before the directory. The local header repeats what the directory says.
Bytes locate_data(const CentralEntry& entry, Bytes before_directory, std::string_view name) {
  if (entry.local_offset > before_directory.size()) {
    throw_file_error(name, "zip entry {}: local header at byte {}, expected at most {}",
                     quote(entry.name), entry.local_offset, before_directory.size());
  }
  const auto disagree = [&] {
    throw_file_error(name, "zip entry {}: its local header at byte {} says otherwise",
                     quote(entry.name), entry.local_offset);
  };
  ByteCursor cursor(before_directory, name, entry.local_offset);
  if (cursor.read<std::uint32_t>("zip local header") != kLocalSignature) disagree();
  cursor.take(2, "zip local header");  // version
  const unsigned flags = cursor.read<std::uint16_t>("zip flags");
  const unsigned method = cursor.read<std::uint16_t>("zip method");
  cursor.take(8, "zip local header");  // time, date, CRC
  const auto packed_size = cursor.read<std::uint32_t>("zip size");
  const auto size = cursor.read<std::uint32_t>("zip size");
  const auto name_length = cursor.read<std::uint16_t>("zip name length");
  const auto extra_length = cursor.read<std::uint16_t>("zip extra length");
  const std::string_view local_name = cursor.take_text(name_length, "zip entry name");
  const auto size_agrees = [&](std::uint32_t local) {
    return local == entry.size || local == kMax32 ||
           (local == 0 && (flags & kFlagSizesFollow) != 0);
  };
  if (flags != entry.flags || method != entry.method || local_name != entry.name ||
      !size_agrees(packed_size) || !size_agrees(size)) {
    disagree();
  }
  cursor.take(extra_length, "zip extra fields");
  return cursor.take(entry.size, "zip entry data");
}

}  // namespace

ZipArchive::ZipArchive(Bytes file, std::string_view name, std::pmr::memory_resource* memory)
    : entries_(memory) {
  const Directory directory = find_directory(file, name);
  if (directory.n_entries > directory.size / kCentralEntrySize) {
    throw_file_error(name, "zip directory: {} entries do not fit in its {} bytes",
                     directory.n_entries, directory.size);
  }
  entries_.reserve(directory.n_entries);
  ByteCursor cursor(file.first(directory.offset + directory.size), name, directory.offset);
  for (std::uint64_t i = 0; i < directory.n_entries; ++i) {
    const CentralEntry entry = read_central_entry(cursor, name);
    check_supported(entry, name);
    entries_.push_back({entry.name, locate_data(entry, file.first(directory.offset), name)});
  }
  if (cursor.remaining() != 0) {
    throw_file_error(name, "zip directory: {} bytes after its {} entries", cursor.remaining(),
                     directory.n_entries);
  }
  if (!entries_.empty()) first_name_ = entries_.front().name;
  std::sort(entries_.begin(), entries_.end(),
            [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < entries_.size(); ++i) {
    if (entries_[i - 1].name == entries_[i].name) {
      throw_file_error(name, "zip entry {} is there twice", quote(entries_[i].name));
    }
  }
}

std::optional<Bytes> ZipArchive::find(std::string_view entry) const noexcept {
  const auto found = std::lower_bound(
      entries_.begin(), entries_.end(), entry,
      [](const ZipEntry& candidate, std::string_view wanted) { return candidate.name < wanted; });
  if (found == entries_.end() || found->name != entry) return std::nullopt;
  return found->data;
}

}  // namespace tenfold
