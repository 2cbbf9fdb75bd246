#include "runtime/files/unpickler.h"

#include <algorithm>
#include <array>

#include "kernels/error.h"
#include "runtime/files/byte_cursor.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

using Kind = PickleValue::Kind;

constexpr std::uint64_t kMaxPickleBytes = 1u << 30;

// Values are those of Python's pickletools; names too.
enum class Op : std::uint8_t {
  mark = '(',
  stop = '.',
  none = 'N',
  binint = 'J',
  binint1 = 'K',
  binint2 = 'M',
  binfloat = 'G',
  binunicode = 'X',
  empty_dict = '}',
  empty_list = ']',
  empty_tuple = ')',
  append = 'a',
  appends = 'e',
  setitem = 's',
  setitems = 'u',
  tuple = 't',
  build = 'b',
  global = 'c',
  reduce = 'R',
  binpersid = 'Q',
  binput = 'q',
  long_binput = 'r',
  binget = 'h',
  long_binget = 'j',
  proto = 0x80,
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  newtrue = 0x88,
  newfalse = 0x89,
  long1 = 0x8a,
  short_binunicode = 0x8c,
  stack_global = 0x93,
  memoize = 0x94,
  frame = 0x95,
};

enum class GlobalId : std::uint32_t { ordered_dict, rebuild_tensor, rebuild_parameter, storage };

struct Global {
  std::string_view module, name;
  GlobalId id;
  StorageType storage = StorageType::f32;
};

constexpr std::array kGlobals{
    Global{"collections", "OrderedDict", GlobalId::ordered_dict},
    Global{"torch._utils", "_rebuild_tensor_v2", GlobalId::rebuild_tensor},
    Global{"torch._utils", "_rebuild_parameter", GlobalId::rebuild_parameter},
    Global{"torch", "FloatStorage", GlobalId::storage, StorageType::f32},
    Global{"torch", "HalfStorage", GlobalId::storage, StorageType::f16},
    Global{"torch", "BFloat16Storage", GlobalId::storage, StorageType::bf16},
    Global{"torch", "DoubleStorage", GlobalId::storage, StorageType::f64},
    Global{"torch", "LongStorage", GlobalId::storage, StorageType::i64},
    Global{"torch", "IntStorage", GlobalId::storage, StorageType::i32},
    Global{"torch", "ShortStorage", GlobalId::storage, StorageType::i16},
    Global{"torch", "CharStorage", GlobalId::storage, StorageType::i8},
    Global{"torch", "ByteStorage", GlobalId::storage, StorageType::u8},
    Global{"torch", "BoolStorage", GlobalId::storage, StorageType::boolean},
};

std::span<const std::byte> checked_size(std::span<const std::byte> bytes, std::string_view name) {
  if (bytes.size() > kMaxPickleBytes) {
    throw_file_error(name, "a pickle of {} bytes, expected at most {}", bytes.size(),
                     kMaxPickleBytes);
  }
  return bytes;
}

}  // namespace

class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, std::string_view name,
                std::pmr::memory_resource* memory, Pickle& result)
      : cursor_(bytes, name), name_(name), result_(result), stack_(memory), memo_(memory) {}

  PickleValue run() {
    if (cursor_.read<std::uint8_t>("opcode") != static_cast<std::uint8_t>(Op::proto)) {
      throw_file_error(name_, "does not start like a pickle of protocol 2 to 5");
    }
    read_protocol();
    for (;;) {
      const auto op = static_cast<Op>(cursor_.read<std::uint8_t>("opcode"));
      if (op == Op::stop) return pop();
      if (!do_constant(op) && !do_container(op) && !do_memo(op) && !do_object(op)) refuse(op);
    }
  }

 private:
  bool do_constant(Op op) {
    switch (op) {
      case Op::none:
        push({});
        return true;
      case Op::newtrue:
      case Op::newfalse:
        push({Kind::boolean, 0, op == Op::newtrue ? 1 : 0});
        return true;
      case Op::binint:
        push({Kind::integer, 0, cursor_.read<std::int32_t>("integer")});
        return true;
      case Op::binint1:
        push({Kind::integer, 0, cursor_.read<std::uint8_t>("integer")});
        return true;
      case Op::binint2:
        push({Kind::integer, 0, cursor_.read<std::uint16_t>("integer")});
        return true;
      case Op::long1:
        push({Kind::integer, 0, read_long()});
        return true;
      case Op::binfloat:
        cursor_.take(8, "float");  // no weight depends on one
        push({Kind::real, 0, 0});
        return true;
      case Op::binunicode:
        push_string(cursor_.read<std::uint32_t>("string length"));
        return true;
      case Op::short_binunicode:
        push_string(cursor_.read<std::uint8_t>("string length"));
        return true;
      default:
        return false;
    }
  }

  bool do_container(Op op) {
    switch (op) {
      case Op::mark:
        push({Kind::mark, 0, 0});
        return true;
      case Op::empty_dict:
        push_empty(Kind::dict);
        return true;
      case Op::empty_list:
        push_empty(Kind::list);
        return true;
      case Op::empty_tuple:
        push_empty(Kind::tuple);
        return true;
      case Op::tuple1:
      case Op::tuple2:
      case Op::tuple3:
        make_tuple(last(static_cast<std::size_t>(op) - static_cast<std::size_t>(Op::tuple1) + 1));
        return true;
      case Op::tuple:
        make_tuple(above_mark());
        return true;
      case Op::append:
        extend(Kind::list, last(1));
        return true;
      case Op::appends:
        extend(Kind::list, above_mark());
        return true;
      case Op::setitem:
        extend(Kind::dict, last(2));
        return true;
      case Op::setitems:
        extend(Kind::dict, above_mark());
        return true;
      default:
        return false;
    }
  }

  bool do_memo(Op op) {
    switch (op) {
      case Op::binput:
        memoize(cursor_.read<std::uint8_t>("memo index"));
        return true;
      case Op::long_binput:
        memoize(cursor_.read<std::uint32_t>("memo index"));
        return true;
      case Op::memoize:
        memoize(memo_.size());
        return true;
      case Op::binget:
        recall(cursor_.read<std::uint8_t>("memo index"));
        return true;
      case Op::long_binget:
        recall(cursor_.read<std::uint32_t>("memo index"));
        return true;
      default:
        return false;
    }
  }

  bool do_object(Op op) {
    switch (op) {
      case Op::proto:
        read_protocol();
        return true;
      case Op::frame:
        cursor_.take(8, "frame");  // only a hint for buffering
        return true;
      case Op::global: {
        const std::string_view module = cursor_.take_line("module");
        push_global(module, cursor_.take_line("global"));
        return true;
      }
      case Op::stack_global: {
        const PickleValue global = expect(pop(), Kind::string, "a global's name");
        const PickleValue module = expect(pop(), Kind::string, "a global's module");
        push_global(result_.text(module), result_.text(global));
        return true;
      }
      case Op::binpersid:
        push_storage(expect(pop(), Kind::tuple, "a storage's id"));
        return true;
      case Op::reduce: {
        const PickleValue arguments = expect(pop(), Kind::tuple, "arguments");
        call(expect(pop(), Kind::global, "a callable"), result_.items(arguments));
        return true;
      }
      case Op::build:
        pop();  // attributes (state_dict's _metadata): not needed
        expect(top(), Kind::dict, "an object with attributes");
        return true;
      default:
        return false;
    }
  }

  void read_protocol() {
    const auto protocol = cursor_.read<std::uint8_t>("protocol");
    if (protocol < 2 || protocol > 5) {
      throw_file_error(name_, "pickle protocol {}, expected 2 to 5", protocol);
    }
  }

  std::int64_t read_long() {
    const auto bytes = cursor_.take(cursor_.read<std::uint8_t>("integer length"), "integer");
    if (bytes.size() > sizeof(std::int64_t)) fail("an integer of more than 64 bits");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      value |= std::to_integer<std::uint64_t>(bytes[i]) << 8 * i;
    }
    const std::size_t unused = 64 - 8 * bytes.size();
    if (unused == 64) return 0;
    return static_cast<std::int64_t>(value << unused) >> unused;  // sign extension
  }

  void push_string(std::uint64_t length) {
    const std::uint64_t offset = cursor_.position();
    cursor_.take(length, "string");
    push({Kind::string, static_cast<std::uint32_t>(length), static_cast<std::int64_t>(offset)});
  }

  // Values on top of the stack that an opcode consumes: from `begin`; `keep` remain.
  struct TopItems {
    std::size_t begin, keep;
  };

  TopItems last(std::size_t count) const {
    if (count > stack_.size()) fail("an empty stack");
    const std::size_t begin = stack_.size() - count;
    for (const PickleValue& value : std::span(stack_).subspan(begin)) {
      if (value.kind == Kind::mark) fail("a misplaced mark");
    }
    return {begin, begin};
  }

  TopItems above_mark() const {
    std::size_t begin = stack_.size();
    while (begin > 0 && stack_[begin - 1].kind != Kind::mark) --begin;
    if (begin == 0) fail("no mark on the stack");
    return {begin, begin - 1};
  }

  void push_empty(Kind kind) {
    result_.containers_.emplace_back();
    push({kind, static_cast<std::uint32_t>(result_.containers_.size() - 1), 0});
  }

  void make_tuple(TopItems items) {
    const auto values = std::span(stack_).subspan(items.begin);
    result_.containers_.emplace_back(values.begin(), values.end());
    stack_.resize(items.keep);
    push({Kind::tuple, static_cast<std::uint32_t>(result_.containers_.size() - 1), 0});
  }

  void extend(Kind kind, TopItems items) {
    const auto values = std::span(stack_).subspan(items.begin);
    if (kind == Kind::dict && values.size() % 2 != 0) fail("a key without a value");
    if (items.keep == 0) fail("an empty stack");
    const std::string_view expected = kind == Kind::dict ? "a dict" : "a list";
    const PickleValue target = expect(stack_[items.keep - 1], kind, expected);
    auto& container = result_.containers_[target.index];
    container.insert(container.end(), values.begin(), values.end());
    stack_.resize(items.keep);
  }

  // torch memoizes in order; an index out of order would only serve to make the table huge.
  void memoize(std::uint64_t index) {
    const PickleValue value = top();
    if (index > memo_.size()) fail("a memo index out of order");
    if (index == memo_.size()) {
      memo_.push_back(value);
    } else {
      memo_[index] = value;
    }
  }

  void recall(std::uint64_t index) {
    if (index >= memo_.size()) fail("a memo index that was never set");
    push(memo_[index]);
  }

  void push_global(std::string_view module, std::string_view global) {
    const auto found = std::find_if(kGlobals.begin(), kGlobals.end(), [&](const Global& known) {
      return known.module == module && known.name == global;
    });
    if (found == kGlobals.end()) {
      throw_error(ErrorCode::unsupported,
                  "{}: the pickle asks for {}, which Tenfold refuses; only plain tensors "
                  "are loaded from a pickle (if you trust the file, re-save it as safetensors)",
                  name_, quote(fmt::format("{}.{}", module, global)));
    }
    push({Kind::global, static_cast<std::uint32_t>(found - kGlobals.begin()), 0});
  }

  // ("storage", torch.FloatStorage, "0", "cpu", 1024)
  void push_storage(PickleValue id) {
    const auto fields = result_.items(id);
    if (fields.size() != 5) fail("a storage id that is not a tuple of 5");
    if (result_.text(expect(fields[0], Kind::string, "a storage id's tag")) != "storage") {
      fail("a persistent id that is no storage");
    }
    const Global& type = kGlobals[expect(fields[1], Kind::global, "a storage's class").index];
    if (type.id != GlobalId::storage) fail("a storage whose class is not a storage class");
    const PickleValue key = expect(fields[2], Kind::string, "a storage's key");
    const PickleValue elements = expect(fields[4], Kind::integer, "a storage's size");
    result_.storages_.push_back({type.storage, result_.text(key), elements.integer});
    push({Kind::storage, static_cast<std::uint32_t>(result_.storages_.size() - 1), 0});
  }

  void call(PickleValue callable, std::span<const PickleValue> arguments) {
    switch (kGlobals[callable.index].id) {
      case GlobalId::ordered_dict:
        if (!arguments.empty()) fail("an OrderedDict with arguments");
        push_empty(Kind::dict);
        return;
      case GlobalId::rebuild_tensor:
        push_tensor(arguments);
        return;
      case GlobalId::rebuild_parameter:
        if (arguments.size() != 3) fail("a parameter that has not 3 arguments");
        push(expect(arguments[0], Kind::tensor, "a parameter's tensor"));
        return;
      case GlobalId::storage:
        break;
    }
    fail("a call of a storage class");
  }

  // storage, storage_offset, size, stride, requires_grad, backward_hooks[, metadata]
  void push_tensor(std::span<const PickleValue> arguments) {
    if (arguments.size() != 6 && arguments.size() != 7) {
      fail("a tensor that has not 6 or 7 arguments");
    }
    const PickleValue storage = expect(arguments[0], Kind::storage, "a tensor's storage");
    const PickleValue offset = expect(arguments[1], Kind::integer, "a tensor's offset");
    result_.tensors_.push_back({result_.storages_[storage.index], offset.integer,
                                expect(arguments[2], Kind::tuple, "a tensor's size"),
                                expect(arguments[3], Kind::tuple, "a tensor's stride")});
    push({Kind::tensor, static_cast<std::uint32_t>(result_.tensors_.size() - 1), 0});
  }

  void push(PickleValue value) { stack_.push_back(value); }

  PickleValue top() const {
    if (stack_.empty()) fail("an empty stack");
    if (stack_.back().kind == Kind::mark) fail("a misplaced mark");
    return stack_.back();
  }

  PickleValue pop() {
    const PickleValue value = top();
    stack_.pop_back();
    return value;
  }

  PickleValue expect(PickleValue value, Kind kind, std::string_view what) const {
    if (value.kind != kind) {
      throw_file_error(name_, "pickle byte {}: something else where {} is expected",
                       cursor_.position(), what);
    }
    return value;
  }

  [[noreturn]] void fail(std::string_view what) const {
    throw_file_error(name_, "pickle byte {}: {}", cursor_.position(), what);
  }

  [[noreturn]] void refuse(Op op) const {
    throw_error(ErrorCode::unsupported,
                "{}: pickle byte {}: opcode 0x{:02x}, which torch.save does not use for weights",
                name_, cursor_.position() - 1, static_cast<unsigned>(op));
  }

  ByteCursor cursor_;
  std::string_view name_;
  Pickle& result_;
  std::pmr::vector<PickleValue> stack_, memo_;
};

Pickle::Pickle(std::span<const std::byte> bytes, std::string_view name,
               std::pmr::memory_resource* memory)
    : bytes_(reinterpret_cast<const char*>(checked_size(bytes, name).data()), bytes.size()),
      containers_(memory),
      storages_(memory),
      tensors_(memory) {
  root_ = PickleMachine(bytes, name, memory, *this).run();
}

std::span<const PickleValue> Pickle::items(PickleValue container) const {
  return containers_[container.index];
}

std::string_view Pickle::text(PickleValue string) const {
  return bytes_.substr(static_cast<std::size_t>(string.integer), string.index);
}

}  // namespace tenfold
