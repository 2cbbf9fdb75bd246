#include "runtime/files/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using testing::expect_error;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using testing::ScratchFolder;
using ::testing::StartsWith;

std::string message_for(std::string_view text) {
  const std::string message =
      expect_error(ErrorCode::bad_file, [&] { parse_json(text, "config.json"); });
  EXPECT_THAT(message, StartsWith("config.json: "));
  return message;
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') +
         std::string(static_cast<std::size_t>(depth), ']');
}

constexpr std::string_view kDocument =
    R"( {"a": [1, -2, 3.5, true, false, null, "x\u00e9\ud83d\ude00", {}, []],)"
    R"( "b": {"c": {"d": [[0], [[]]]}}, "big": 18446744073709551615} )";

TEST(Json, BuildsWhatTheLibraryBuilds) {
  EXPECT_EQ(parse_json(kDocument, "f"), json::parse(kDocument));
  for (const char* text : {"1", "\"s\"", "null", "[]", "{}", "[[],{},[{}]]", "-0.0", "[1e300]"})
    EXPECT_EQ(parse_json(text, "f"), json::parse(text)) << text;
}

TEST(Json, RefusesTruncationAtEveryByte) {
  const auto end = kDocument.rfind('}') + 1;
  for (std::size_t n = 0; n < end - 1; ++n) message_for(kDocument.substr(0, n));
}

TEST(Json, NamesTheByte) {
  EXPECT_THAT(message_for("{\"a\": 1, \"b\": }"), HasSubstr("byte 15: not valid JSON: "));
  EXPECT_THAT(message_for("[1] x"), HasSubstr("byte 5: not valid JSON"));
  EXPECT_THAT(message_for("[1e999]"), HasSubstr("number overflow"));
  EXPECT_THAT(message_for("\"\xff\""), HasSubstr("invalid string"));
  EXPECT_THAT(message_for("[NaN]"), HasSubstr("byte 2"));
  EXPECT_THAT(message_for("\"\x1b[2J\xc2\x9b"), Each(AllOf(Ge(' '), Le('~'))));
  EXPECT_LT(message_for("\"" + std::string(1 << 20, 'x') + "\n").size(), 300u);
}

TEST(Json, RefusesAKeyThatAppearsTwice) {
  EXPECT_THAT(message_for(R"({"a": {"b": 1, "b": 2}})"), HasSubstr("\"b\" appears twice"));
  EXPECT_NO_THROW(parse_json(R"({"a": {"b": 1}, "b": 2})", "f"));
}

TEST(Json, LimitsDepth) {
  EXPECT_NO_THROW(parse_json(nested(kMaxJsonDepth), "f"));
  EXPECT_EQ(message_for(nested(kMaxJsonDepth + 1)),
            "config.json: byte 65: nested deeper than 64 levels");
  message_for(std::string(1 << 20, '['));
  std::string objects;
  for (int i = 0; i < 1000; ++i) objects += "{\"a\":";
  EXPECT_THAT(message_for(objects), HasSubstr("nested deeper than 64 levels"));
}

TEST(Json, LimitsTheNumberOfValues) {
  std::string text = "[0";
  for (std::uint64_t i = 1; i < kMaxJsonValues; ++i) text += ",0";
  EXPECT_THAT(message_for(text + "]"), HasSubstr("more than 4194304 values"));
}

TEST(Json, LimitsTheSize) {
  const ScratchFolder folder;
  const auto path = folder.write("big.json", " ");
  std::filesystem::resize_file(path, kMaxJsonBytes + 1);
  EXPECT_EQ(expect_error(ErrorCode::bad_file, [&] { read_json_file(path); }),
            path.string() + ": 268435457 bytes of JSON, at most 268435456 are accepted");
}

TEST(Json, ReadsFiles) {
  const ScratchFolder folder;
  EXPECT_EQ(read_json_file(folder.write("a.json", kDocument)), json::parse(kDocument));
  EXPECT_THAT(expect_error(ErrorCode::bad_file, [&] { read_json_file(folder / "absent"); }),
              HasSubstr("No such file"));
}

TEST(Json, FieldsHaveTypesAndFallbacks) {
  const json object = json::parse(
      R"({"i": -5, "big": 18446744073709551615, "f": 2.5, "b": true, "s": "t", "n": null, "o": {}})");
  EXPECT_EQ(json_int(object, "i", "f"), -5);
  EXPECT_EQ(json_int_or(object, "i", 1, "f"), -5);
  EXPECT_EQ(json_int_or(object, "absent", 1, "f"), 1);
  EXPECT_EQ(json_int_or(object, "n", 1, "f"), 1);
  EXPECT_EQ(json_number_or(object, "f", 1, "f"), 2.5);
  EXPECT_EQ(json_number_or(object, "i", 1, "f"), -5.0);
  EXPECT_EQ(json_number_or(object, "n", 1, "f"), 1.0);
  EXPECT_EQ(json_bool_or(object, "b", false, "f"), true);
  EXPECT_EQ(json_bool_or(object, "absent", true, "f"), true);
  EXPECT_EQ(json_string_or(object, "s", "x", "f"), "t");
  EXPECT_EQ(json_string_or(object, "absent", "x", "f"), "x");

  const auto message = [](auto&& call) { return expect_error(ErrorCode::bad_file, call); };
  EXPECT_EQ(message([&] { json_int(object, "absent", "f"); }),
            "f: \"absent\" is missing, expected an integer");
  EXPECT_EQ(message([&] { json_int(object, "s", "f"); }),
            "f: \"s\" is the string \"t\", expected an integer");
  EXPECT_EQ(message([&] { json_int(object, "f", "f"); }), "f: \"f\" is 2.5, expected an integer");
  EXPECT_THAT(message([&] { json_int(object, "big", "f"); }), HasSubstr("18446744073709551615"));
  EXPECT_EQ(message([&] { json_number_or(object, "b", 0, "f"); }),
            "f: \"b\" is true, expected a number");
  EXPECT_THAT(message([&] { json_bool_or(object, "i", true, "f"); }), HasSubstr("true or false"));
  EXPECT_THAT(message([&] { json_string_or(object, "o", "", "f"); }), HasSubstr("an object"));
  EXPECT_EQ(message([&] { json_int(json::array(), "k", "f"); }),
            "f: expected a JSON object, found an array");
}

}  // namespace
}  // namespace tenfold
