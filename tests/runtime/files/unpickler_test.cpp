#include "runtime/files/unpickler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/files/memory_budget.h"
#include "tests/support/expect_error.h"
#include "tests/support/heap_use.h"
#include "tests/support/hostile_file.h"

namespace tenfold {
namespace {

using Kind = PickleValue::Kind;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace tenfold::testing;
using namespace std::string_literals;

Pickle run(std::string_view pickle) {
  return {as_bytes(pickle), "m.bin: data.pkl", std::pmr::new_delete_resource()};
}

std::string refusal(std::string_view pickle, ErrorCode code = ErrorCode::bad_file) {
  const std::vector<std::byte> exact(as_bytes(pickle).begin(), as_bytes(pickle).end());
  const std::string message = expect_error(
      code, [&] { Pickle(exact, "m.bin: data.pkl", std::pmr::new_delete_resource()); });
  EXPECT_THAT(message, StartsWith("m.bin: data.pkl: "));
  return message;
}

// Opcodes after the protocol, before STOP.
std::string body(const std::string& opcodes) { return "\x80\x02"s + opcodes + "."; }

std::string text(const std::string& value) {
  return "\x8c"s + static_cast<char>(value.size()) + value;
}

const std::string kStorage =
    "(" + text("storage") + "ctorch\nFloatStorage\n" + text("7") + text("cpu") + "K\x06tQ";
const std::string kTensor =
    "ctorch._utils\n_rebuild_tensor_v2\n(" + kStorage + "K\x01K\x02K\x01\x86K\x01K\x01\x86\x89}tR";

TEST(Unpickler, ReadsNumbersOfEveryWidth) {
  const auto integer = [](const std::string& opcodes) {
    const std::string pickle = body(opcodes);
    const PickleValue root = run(pickle).root();
    EXPECT_EQ(root.kind, Kind::integer);
    return root.integer;
  };
  EXPECT_EQ(integer("K\xff"), 255);
  EXPECT_EQ(integer("M\xff\xff"), 65535);
  EXPECT_EQ(integer("J\xfe\xff\xff\xff"), -2);
  EXPECT_EQ(integer("\x8a\x00"s), 0);
  EXPECT_EQ(integer("\x8a\x01\xff"), -1);
  EXPECT_EQ(integer("\x8a\x05\x00\x00\x00\x00\x02"s), std::int64_t{2} << 32);
  EXPECT_EQ(integer("\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80"s),
            std::numeric_limits<std::int64_t>::min());
  EXPECT_THAT(refusal(body("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"s)),
              HasSubstr("more than 64 bits"));
}

TEST(Unpickler, BuildsContainersAndMemo) {
  const std::string pickle = body("}q\x00("s + text("a") + "q\x01K\x01" + text("b") +
                                  "](K\x02K\x03" + "eK\x04" + "au" + text("c") + "h\x01s");
  const Pickle result = run(pickle);
  ASSERT_EQ(result.root().kind, Kind::dict);
  const auto items = result.items(result.root());
  ASSERT_EQ(items.size(), 6u);
  EXPECT_EQ(result.text(items[0]), "a");
  EXPECT_EQ(items[1].integer, 1);
  ASSERT_EQ(items[3].kind, Kind::list);
  EXPECT_EQ(result.items(items[3]).size(), 3u);
  EXPECT_EQ(result.items(items[3])[2].integer, 4);
  EXPECT_EQ(result.text(items[5]), "a");
}

TEST(Unpickler, ToleratesCycles) {
  const std::string pickle = body("}q\x00"s + text("self") + "h\x00s"s);
  const Pickle result = run(pickle);
  const auto items = result.items(result.root());
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[1].index, result.root().index);
}

TEST(Unpickler, DescribesTensorsAndParameters) {
  for (const bool parameter : {false, true}) {
    const std::string pickle =
        body(parameter ? "ctorch._utils\n_rebuild_parameter\n(" + kTensor + "\x88}tR" : kTensor);
    const Pickle result = run(pickle);
    ASSERT_EQ(result.root().kind, Kind::tensor);
    const PickledTensor& tensor = result.tensor(result.root());
    EXPECT_EQ(tensor.storage.type, StorageType::f32);
    EXPECT_EQ(tensor.storage.key, "7");
    EXPECT_EQ(tensor.storage.elements, 6);
    EXPECT_EQ(tensor.offset, 1);
    ASSERT_EQ(result.items(tensor.size).size(), 2u);
    EXPECT_EQ(result.items(tensor.size)[0].integer, 2);
  }
}

TEST(Unpickler, BuildsOrderedDictWithAttributes) {
  const std::string pickle = body("ccollections\nOrderedDict\n)R}b");
  EXPECT_EQ(run(pickle).root().kind, Kind::dict);
}

TEST(Unpickler, RefusesGlobalsByDottedName) {
  for (const std::string& opcodes :
       {"cos\nsystem\n"s, text("os") + text("system") + "\x93", "}cos\nsystem\nX"s}) {
    EXPECT_THAT(refusal(body(opcodes), ErrorCode::unsupported),
                HasSubstr("the pickle asks for \"os.system\", which Tenfold refuses"));
  }
  for (const char* global :
       {"builtins\neval", "torch\nload", "torch.FloatStorage\n", "torch\nfloatstorage",
        "collections\nOrderedDict ", "torch._utils\n_rebuild_tensor_v3", "numpy\ndtype",
        "torch\nComplexFloatStorage", "\ncollections.OrderedDict"}) {
    refusal(body("c"s + global + "\n"), ErrorCode::unsupported);
  }
  EXPECT_THAT(refusal(body("c\x1b[2J\nx\n"), ErrorCode::unsupported), HasSubstr("\\x1b[2J.x"));
}

TEST(Unpickler, RefusesOpcodesThatTorchDoesNotUse) {
  // Old-style instances, NEWOBJ, INST, extension registry, sets, text opcodes, POP.
  for (const char* opcode :
       {"o", "\x81", "i", "\x82", "\x8f", "I1\n", "S'a'\n", "0", "2", "\x92"}) {
    EXPECT_THAT(refusal(body("N"s + opcode), ErrorCode::unsupported), HasSubstr("pickle byte 3"));
  }
}

TEST(Unpickler, RefusesMalformedPickles) {
  const struct {
    std::string pickle, message;
  } kCases[] = {
      {"", "opcode at byte 0"},
      {"(dp0\n.", "does not start like a pickle"},
      {"\x80\x01N.", "pickle protocol 1"},
      {"\x80\x02", "opcode at byte 2 needs 1 bytes"},
      {body(""), "an empty stack"},
      {body("("), "a misplaced mark"},
      {body("\x85"), "an empty stack"},
      {body("(\x85"), "a misplaced mark"},
      {body("Nt"), "no mark on the stack"},
      {body("(u"), "an empty stack"},
      {body("}(Nu"), "a key without a value"},
      {body("](NNu"), "a dict is expected"},
      {body("}(Ne"), "a list is expected"},
      {body("h\x00"s), "a memo index that was never set"},
      {body("Nq\x01"), "a memo index out of order"},
      {body("Nr\xff\xff\xff\xff"), "a memo index out of order"},
      {body("X\xff\xff\xff\xff"), "string at byte 7 needs 4294967295 bytes"},
      {body("cos"), "module at byte 3 has no end"},
      {body("NR"), "arguments is expected"},
      {body("N)R"), "a callable is expected"},
      {body("ctorch\nFloatStorage\n)R"), "a call of a storage class"},
      {body("ccollections\nOrderedDict\nN\x85R"), "an OrderedDict with arguments"},
      {body("ctorch._utils\n_rebuild_tensor_v2\n)R"), "has not 6 or 7 arguments"},
      {body("ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR"), "a tensor's storage is expected"},
      {body("ctorch._utils\n_rebuild_parameter\n)R"), "has not 3 arguments"},
      {body("Nb"), "an empty stack"},
      {body("NNb"), "an object with attributes is expected"},
      {body("NQ"), "a storage's id is expected"},
      {body(")Q"), "not a tuple of 5"},
      {body("(NNNNNtQ"), "a storage id's tag is expected"},
      {body("(" + text("module") + "NNNNtQ"), "a persistent id that is no storage"},
      {body("(" + text("storage") + "ccollections\nOrderedDict\nNNNtQ"), "not a storage class"},
      {body("(" + text("storage") + "ctorch\nFloatStorage\nK\x01NK\x01tQ"), "storage's key"},
  };
  for (const auto& bad : kCases) {
    EXPECT_THAT(refusal(bad.pickle), HasSubstr(bad.message))
        << ::testing::PrintToString(bad.pickle);
  }
}

TEST(Unpickler, RefusesTruncationAtEveryByteAndSurvivesFlips) {
  const std::string good = body("ccollections\nOrderedDict\n)Rq\x00("s + text("w") + kTensor +
                                "u}(X\x01" + "\0\0\0aG"s + std::string(8, '\0') + "ub");
  const auto parse = [](std::span<const std::byte> pickle) {
    const Pickle parsed(pickle, "data.pkl", std::pmr::new_delete_resource());
    return std::vector<TensorSource>();
  };
  EXPECT_TRUE(survives({as_bytes(good).begin(), as_bytes(good).end()}, parse));
  expect_error_at_every_truncation(good, parse);
  expect_error_or_consistency_for_flips(good, parse);
}

// One-byte opcodes that build as much as possible must end at the budget, not in a full machine.
TEST(Unpickler, StopsAtItsMemoryBudget) {
  constexpr std::size_t kOpcodes = 200'000;
  const std::string endless[] = {std::string(kOpcodes, '}'), std::string(kOpcodes, 'N'),
                                 "N" + std::string(kOpcodes, '\x94'), std::string(kOpcodes, '(')};
  for (const std::string& opcodes : endless) {
    const std::string pickle = body(opcodes + "N");
    const HeapUse use;
    MemoryBudget budget(2 * pickle.size(), "m.bin");
    const std::string message = expect_error(
        ErrorCode::bad_file, [&] { Pickle(as_bytes(pickle), "m.bin: data.pkl", &budget); });
    EXPECT_THAT(message, HasSubstr("out of proportion to the file"));
    EXPECT_LT(use.peak(), 3 * pickle.size());
    EXPECT_EQ(budget.used(), 0u);
  }
}

}  // namespace
}  // namespace tenfold
