#pragma once
// A restricted pickle machine: it runs the opcodes that torch.save writes and builds only numbers,
// strings, tuples, lists, dicts and descriptions of tensors. Globals come from a fixed list (see
// the table in unpickler.cpp) and are never imported or called; any other is refused by its dotted
// name. Nothing recurses, work is linear in the pickle's length, and all memory comes from the
// caller's resource.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold {

enum class StorageType : std::uint8_t { f32, f16, bf16, f64, i64, i32, i16, i8, u8, boolean };

struct PickleValue {
  enum class Kind : std::uint8_t {
    none,
    boolean,
    integer,
    real,
    string,
    tuple,
    list,
    dict,
    global,
    storage,
    tensor,
    mark
  };
  Kind kind = Kind::none;
  std::uint32_t index = 0;   // of what this is a handle to; a string's length; a global's id
  std::int64_t integer = 0;  // integer and boolean: the value; string: its offset in the pickle
};

// torch.FloatStorage and the like: the archive's entry data/<key>.
struct PickledStorage {
  StorageType type;
  std::string_view key;
  std::int64_t elements;
};

// What torch._utils._rebuild_tensor_v2 is asked for; size and stride are tuples, unchecked.
struct PickledTensor {
  PickledStorage storage;
  std::int64_t offset;  // in elements
  PickleValue size, stride;
};

class Pickle {
 public:
  // Runs `bytes` up to its STOP. Both must outlive the Pickle. `name` is what messages call it.
  // Throws bad_file for a malformed pickle, unsupported for an opcode or global not known here.
  Pickle(std::span<const std::byte> bytes, std::string_view name,
         std::pmr::memory_resource* memory);

  PickleValue root() const noexcept { return root_; }
  // Of a tuple or list, its elements; of a dict: key, value, key, value, ...
  std::span<const PickleValue> items(PickleValue container) const;
  std::string_view text(PickleValue string) const;
  const PickledTensor& tensor(PickleValue value) const { return tensors_[value.index]; }

 private:
  friend class PickleMachine;
  std::string_view bytes_;
  PickleValue root_;
  std::pmr::deque<std::pmr::vector<PickleValue>> containers_;
  std::pmr::deque<PickledStorage> storages_;
  std::pmr::deque<PickledTensor> tensors_;
};

}  // namespace tenfold
