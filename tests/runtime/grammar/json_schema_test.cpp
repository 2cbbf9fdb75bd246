#include "runtime/grammar/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/grammar/matcher.h"
#include "tests/runtime/grammar/random_text.h"
#include "tests/runtime/grammar/schema_validator.h"
#include "tests/support/expect_error.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

std::string complaint(const char* schema) {
  return expect_error(ErrorCode::bad_request, [&] { json_schema_grammar(Json::parse(schema)); });
}

bool matches(const GrammarMatcher& matcher, const std::string& text) {
  if (!matcher.accepts(text)) return false;
  GrammarMatcher end = matcher;
  end.advance(text);
  return end.at_end();
}

struct Case {
  const char* schema;
  std::vector<const char*> taken;    // must match, and validate
  std::vector<const char*> refused;  // must not
};

const Case kCases[] = {
    {R"(true)",
     {"null", "[1,{\"a\":[]}]", "-0.5e+10", "\"x\""},
     {"", "nul", "01", "[1,]", "{a:1}"}},
    {R"({})", {"true", "{}", "[[[[]]]]"}, {"\n1", "1 ", "[ 1]"}},
    {R"({"title": "only notes", "description": "", "default": 5, "examples": [1]})", {"5"}, {"x"}},
    {R"({"type": "null"})", {"null"}, {"0"}},
    {R"({"type": "boolean"})", {"true", "false"}, {"True", "1"}},
    {R"({"type": "integer"})",
     {"0", "-17", "123456789012345678"},
     {"-0", "1.0", "1e3", "01", "--1"}},
    {R"({"type": "number"})",
     {"0", "-0", "3.25", "-1e10", "1E-5", "123.5e+7"},
     {".5", "1.", "1e", "01", "+1", "Infinity", "NaN", "1e1000"}},
    {R"({"type": ["string", "null"]})", {"\"a\"", "null"}, {"1"}},
    {R"({"type": ["integer", "number"]})", {"1", "1.5"}, {"\"1\""}},
    {R"({"type": ["integer", "null"], "minimum": 3})", {"3", "null"}, {"2", "3.5"}},
    {R"({"const": {"a": [1, "x\n", null], "b": 1.5}})",
     {"{\"a\":[1,\"x\\n\",null],\"b\":1.5}", "{\"a\": [1, \"x\\n\", null], \"b\": 1.5}"},
     {"{\"b\":1.5,\"a\":[1,\"x\\n\",null]}", "{}"}},
    {R"({"enum": ["a\"b", 1, null, true, []]})",
     {"\"a\\\"b\"", "1", "null", "[]"},
     {"\"a\"", "false"}},
    {R"({"type": "string", "enum": ["a", "b", 3]})", {"\"a\"", "\"b\""}, {"3"}},
    {R"({"const": "a", "enum": ["a", "b"]})", {"\"a\""}, {"\"b\""}},
    {R"({"type": "object"})", {"{}", "{\"a\":{\"b\": 1}}"}, {"[]", "{\"a\"}"}},
    {R"({"type": "object", "properties": {}})", {"{}"}, {"{\"a\":1}"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"},
         "c": {"type": "null"}}})",
     {"{}", "{\"a\":1}", "{\"a\": 1, \"b\": \"x\"}", "{\"b\":\"\"}", "{\"a\":1,\"c\":null}",
      "{\"c\":null}"},
     {"{\"b\":\"x\",\"a\":1}", "{\"a\":\"1\"}", "{,\"a\":1}", "{\"a\":1,}", "{\"d\":1}",
      "{\"a\":1,\"a\":1}"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"},
         "c": {"type": "null"}}, "required": ["b"]})",
     {"{\"b\":\"\"}", "{\"a\":1,\"b\":\"\"}", "{\"b\":\"\",\"c\":null}"},
     {"{}", "{\"a\":1}", "{\"c\":null}"}},
    {R"({"properties": {"a": {}}, "required": ["a", "z"], "additionalProperties": false})", {}, {}},
    {R"({"required": ["z"]})", {"{\"z\":1}", "{\"z\":[],\"y\":2}"}, {"{}", "{\"y\":1}"}},
    {R"({"properties": {"ab": {"type": "integer"}, "a\"c": {"type": "integer"}, "é": {"type": "integer"}},
         "additionalProperties": {"type": "string"}})",
     {"{}", "{\"ab\":1}", "{\"ab\":1,\"x\":\"\"}", "{\"a\":\"\",\"abc\":\"\"}", "{\"\":\"\"}",
      "{\"è\":\"\"}", "{\"a\\\"d\":\"\"}", "{\"x\":\"\",\"y\":\"\"}"},
     {"{\"ab\":\"\"}", "{\"x\":1}", "{\"x\":\"\",\"ab\":\"\"}", "{\"\\u0061b\":\"\"}",
      "{\"a\\\"c\":\"\"}", "{\"é\":\"\"}", "{\"\\u00e9\":\"\"}"}},
    {R"({"properties": {"a": false, "b": {"type": "null"}}, "additionalProperties": true})",
     {"{\"b\":null}", "{\"c\":1}"},
     {"{\"a\":1}"}},
    {R"({"type": "array", "items": {"type": "integer"}})",
     {"[]", "[1]", "[1, 2,3]"},
     {"[1 ,2]", "[\"\"]"}},
    {R"({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 3})",
     {"[null,null]", "[null,null,null]"},
     {"[]", "[null]", "[null,null,null,null]"}},
    {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
    {R"({"type": "array", "items": false})", {"[]"}, {"[1]"}},
    {R"({"type": "array", "items": {"type": "null"}, "maxItems": 1})",
     {"[]", "[null]"},
     {"[null,null]"}},
    {R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]})",
     {"[]", "[1]", "[1,\"\"]"},
     {"[\"\"]", "[1,\"\",1]"}},
    {R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 3})",
     {"[1,\"\",[]]"},
     {"[1,\"\"]", "[1,\"\",1,1]"}},
    {R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1,
         "items": {"type": "null"}, "maxItems": 4})",
     {"[1]", "[1,\"\",null,null]"},
     {"[]", "[1,null]", "[1,\"\",null,null,null]"}},
    {R"({"prefixItems": [{"type": "null"}, false]})", {"[]", "[null]"}, {"[null,1]"}},
    {R"({"anyOf": [{"type": "string", "maxLength": 1}, {"type": "integer", "minimum": 7}]})",
     {"\"a\"", "7"},
     {"\"ab\"", "6"}},
    {R"({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
         "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})",
     {"{\"a\":null}", "{\"b\":null}", "{\"a\":null,\"b\":null}"},
     {"{}"}},
    {R"({"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]})",
     {"\"\"", "1"},
     {"1.5"}},
    {R"({"oneOf": [{"properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind"],
                    "type": "object"},
                   {"properties": {"kind": {"const": "b"}}, "required": ["kind"], "type": "object"}]})",
     {"{\"kind\":\"a\",\"x\":1}", "{\"kind\":\"b\"}"},
     {"{\"kind\":\"b\",\"x\":1}", "{}"}},
    {R"({"oneOf": [{"const": 1}, {"const": 2}]})", {"1", "2"}, {"3"}},
    {R"({"oneOf": [{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
                   {"type": "object", "properties": {"b": {"type": "null"}}, "additionalProperties": false}]})",
     {"{\"a\":null}", "{\"b\":null}", "{}"},
     {"{\"a\":null,\"b\":null}"}},
    {R"({"allOf": [{"type": ["integer", "string"]}, {"type": ["number", "null"]}, {"minimum": 2},
                   {"minimum": 3, "maximum": 9}]})",
     {"3", "9"},
     {"2", "10", "3.5", "\"\"", "null"}},
    {R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                   {"properties": {"b": {"type": "string"}, "a": {"maximum": 5}}, "required": ["b"]}]})",
     {"{\"a\":5,\"b\":\"\"}"},
     {"{\"a\":6,\"b\":\"\"}", "{\"a\":5}", "{\"b\":\"\"}"}},
    {R"({"allOf": [{"additionalProperties": false, "properties": {"a": {}}}, {"properties": {"b": {}}}]})",
     {"{}", "{\"a\":1}"},
     {"{\"b\":1}"}},
    {R"({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]})", {"2", "3"}, {"1", "4"}},
    {R"({"allOf": [{"items": {"type": "integer"}}, {"items": {"minimum": 0}, "minItems": 1}]})",
     {"[0]"},
     {"[-1]", "[]"}},
    {R"({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "maximum": 5}}})", {"5"}, {"6"}},
    {R"({"allOf": [{"$ref": "#/$defs/n"}], "description": "wrapped",
         "$defs": {"n": {"type": "integer"}}})",
     {"5"},
     {"\"\""}},
    {R"({"$ref": "#/definitions/a~1b", "minimum": 3, "definitions": {"a/b": {"type": "integer"}}})",
     {"3"},
     {"2"}},
    {R"({"type": "object", "properties": {"value": {"type": "integer"},
         "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["value", "next"]})",
     {"{\"value\":1,\"next\":{\"value\":2,\"next\":null}}"},
     {"{\"value\":1}", "{\"value\":1,\"next\":{}}"}},
    {R"({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"name": {"type": "string"},
         "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "required": ["name"]}}})",
     {"{\"name\":\"a\",\"children\":[{\"name\":\"b\",\"children\":[]},{\"name\":\"c\"}]}"},
     {"{\"name\":\"a\",\"children\":[{}]}"}},
    {R"({"minLength": 2, "minItems": 1})", {"\"ab\"", "[1]"}, {"\"a\"", "[]", "1", "null"}},
    {R"({"type": "object", "properties": {"when": {"type": "string", "format": "date"},
         "size": {"enum": ["S", "M"]}, "tags": {"type": "array", "items": {"type": "string", "pattern":
         "^[a-z]{1,5}$"}, "maxItems": 2}}, "required": ["when", "size", "tags"], "additionalProperties": false,
         "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x"})",
     {"{\"when\":\"2024-02-29\",\"size\":\"S\",\"tags\":[\"ab\", \"c\"]}"},
     {"{\"when\":\"2023-02-29\",\"size\":\"S\",\"tags\":[]}"}},
};

TEST(JsonSchema, TakesAndRefuses) {
  for (const Case& c : kCases) {
    const Json schema = Json::parse(c.schema);
    if (c.taken.empty()) continue;
    const GrammarMatcher matcher(json_schema_grammar(schema));
    for (const char* text : c.taken) {
      EXPECT_TRUE(matches(matcher, text)) << text << " of " << c.schema;
      EXPECT_TRUE(testing::is_valid(Json::parse(text), schema, schema))
          << text << " of " << c.schema;
    }
    for (const char* text : c.refused)
      EXPECT_FALSE(matches(matcher, text)) << text << " of " << c.schema;
  }
}

// Whatever the grammar lets through parses and validates.
TEST(JsonSchema, RandomTextsAreValid) {
  std::mt19937 rng(23);
  int n_texts = 0, n_lost = 0;
  for (const Case& c : kCases) {
    const Json schema = Json::parse(c.schema);
    if (c.taken.empty()) continue;
    const GrammarMatcher matcher(json_schema_grammar(schema));
    for (int i = 0; i < 30; ++i) {
      const auto text = testing::random_text(matcher, rng);
      if (!text) {
        ++n_lost;
        continue;
      }
      ++n_texts;
      ASSERT_TRUE(Json::accept(*text)) << *text << " of " << c.schema;
      ASSERT_TRUE(testing::is_valid(Json::parse(*text), schema, schema))
          << *text << " of " << c.schema;
    }
  }
  EXPECT_GT(n_texts, 1200);
  EXPECT_LT(n_lost, n_texts / 20);
}

TEST(JsonSchema, AnyObject) {
  const GrammarMatcher matcher(json_object_grammar());
  EXPECT_TRUE(matches(matcher, R"({"a": [1, {"b": "\u00e9"}], "c": null})"));
  EXPECT_FALSE(matches(matcher, "[1]"));
  EXPECT_FALSE(matches(matcher, "{\n}"));
  std::string deep = "1";
  for (int i = 0; i < kMaxFreeDepth; ++i) deep = "{\"a\":" + deep + "}";
  EXPECT_TRUE(matches(matcher, deep));
  EXPECT_FALSE(matches(matcher, "{\"a\":" + deep + "}"));
}

TEST(JsonSchema, RefusesEachOtherKeywordByName) {
  for (const char* keyword : {"not",
                              "if",
                              "then",
                              "else",
                              "dependentSchemas",
                              "dependentRequired",
                              "dependencies",
                              "contains",
                              "minContains",
                              "maxContains",
                              "uniqueItems",
                              "patternProperties",
                              "propertyNames",
                              "minProperties",
                              "maxProperties",
                              "unevaluatedItems",
                              "unevaluatedProperties",
                              "multipleOf",
                              "additionalItems",
                              "contentEncoding",
                              "contentMediaType",
                              "contentSchema",
                              "nullable",
                              "$anchor",
                              "$dynamicRef",
                              "$dynamicAnchor",
                              "$vocabulary",
                              "id",
                              "Type",
                              "requires",
                              "discriminator",
                              "strict",
                              ""}) {
    Json schema = {{"type", "object"}, {"properties", {{"a/b", Json::object()}}}};
    schema["properties"]["a/b"][keyword] = true;
    EXPECT_EQ(expect_error(ErrorCode::bad_request, [&] { json_schema_grammar(schema); }),
              std::string("JSON schema, \"#/properties/a~1b\": the keyword \"") + keyword +
                  "\" is not supported");
  }
}

TEST(JsonSchema, ErrorsNamePlaceAndReason) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(false)", "JSON schema, \"#\": false allows no value"},
      {R"(3)", "\"#\": expected a schema"},
      {R"({"items": 3})", "\"#\": items must be a schema (an object, true or false)"},
      {R"({"items": [{}]})", "\"#\": items must be a schema"},
      {R"({"type": "text"})", "\"#\": type must be null, boolean, integer"},
      {R"({"type": []})", "\"#\": type must be null, boolean, integer"},
      {R"({"enum": []})", "\"#\": enum must be an array of values"},
      {R"({"anyOf": []})", "\"#\": anyOf must be an array of schemas"},
      {R"({"required": "a"})", "\"#\": required must be an array of strings"},
      {R"({"minLength": -1})", "\"#\": minLength must be a whole number, at least 0"},
      {R"({"minLength": 1.5})", "\"#\": minLength must be a whole number, at least 0"},
      {R"({"minimum": "1"})", "\"#\": minimum must be a number"},
      {R"({"exclusiveMinimum": true})", "\"#\": exclusiveMinimum must be a number"},
      {R"({"type": "number", "minimum": 1})",
       "\"#\": minimum is supported for the type integer only"},
      {R"({"maximum": 1})", "\"#\": maximum is supported for the type integer only"},
      {R"({"type": ["integer", "number"], "maximum": 1})",
       "\"#\": maximum is supported for the type"},
      {R"({"properties": {"a": {"type": "array", "items": {"oneOf": [{"type": "string"}, {"minLength": 1}]}}}})",
       "#/properties/a/items\": oneOf is supported where no value can fit two of its alternatives; "
       "0 "
       "and 1"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "oneOf is supported where"},
      {R"({"oneOf": [{"type": "object", "properties": {"a": {"const": 1}}},
                     {"type": "object", "properties": {"a": {"const": 2}}}]})",
       "oneOf is supported where"},
      {R"({"anyOf": [{}], "oneOf": [{}]})", "anyOf and oneOf together"},
      {R"({"allOf": [{"type": "string"}, {"type": "integer"}]})",
       "\"#\": its types allow no value together"},
      {R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})",
       "\"#\": two different pattern at once"},
      {R"({"allOf": [{"anyOf": [{"type": "null"}]}, {"anyOf": [{}]}]})",
       "\"#\": two different anyOf at once"},
      {R"({"allOf": [{"prefixItems": [{}]}, {"items": {"type": "null"}}]})",
       "\"#\": prefixItems together with"},
      {R"({"enum": [1], "const": 2})", "\"#\": no value is in each of its enum and const"},
      {R"({"enum": [1], "type": "string"})", "\"#\": no value of its enum or const has its type"},
      {R"({"enum": ["a"], "minLength": 1})", "\"#\": enum or const together with minLength"},
      {R"({"properties": {"a": {}}, "required": ["z"], "additionalProperties": false})",
       "\"#\": the property \"z\" is required but not allowed"},
      {R"({"properties": {"a": false}, "required": ["a"]})",
       "the property \"a\" is required but not allowed"},
      {R"({"minItems": 3, "maxItems": 2})", "\"#\": minItems 3 is more than the 2 items allowed"},
      {R"({"type": "array", "minItems": 40000})",
       "\"#\": minItems must be at most 32768, found 40000"},
      {R"({"$ref": "#/$defs/x"})", "\"#\": $ref names \"#/$defs/x\", which is not in the schema"},
      {R"({"$ref": "other.json#/x"})", "\"#\": $ref must be # or #/ and a path within the schema"},
      {R"({"$ref": "#anchor"})", "\"#\": $ref must be # or #/"},
      {R"({"$ref": "#"})", "the rule \"#\" begins with itself"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a"}},
           "required": ["x"]}}})",
       "can never end"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a", "minLength": 1}}})",
       "nested more than"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a", "minLength": 1}}}}})",
       "nested"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}})",
       "#/$defs/a\": the keyword \"not\" is not supported"},
  };
  for (const auto& [schema, expected] : cases)
    EXPECT_THAT(complaint(schema), HasSubstr(expected)) << schema;
  Json deep = Json::object();
  for (int i = 0; i < 10000; ++i) {
    Json outer = Json::object();
    outer["items"] = std::move(deep);
    deep = std::move(outer);
  }
  EXPECT_THAT(expect_error(ErrorCode::bad_request, [&] { json_schema_grammar(deep); }),
              HasSubstr("nested deeper than 64 levels"));
}

// A schema that doubles itself at each of many levels ends at a limit, soon.
TEST(JsonSchema, LimitsWhatReferencesMultiply) {
  Json defs = Json::object();
  for (int i = 0; i < 18; ++i) {
    const std::string next = "#/$defs/d" + std::to_string(i + 1);
    defs["d" + std::to_string(i)] = {{"allOf", {{{"$ref", next}}, {{"$ref", next}}}}};
  }
  defs["d18"] = {{"type", "integer"}};
  const Json schema = {{"$ref", "#/$defs/d0"}, {"$defs", defs}};
  EXPECT_THAT(expect_error(ErrorCode::bad_request, [&] { json_schema_grammar(schema); }),
              HasSubstr("multiply it beyond limits"));
}

TEST(JsonSchema, ComposesWithOtherRules) {
  GrammarBuilder b;
  JsonRules rules(b);
  std::vector<GrammarBuilder::Expr> calls;
  for (const char* name : {"add", "find"}) {
    const Json schema = Json::parse(
        R"({"$ref": "#/$defs/p", "$defs": {"p": {"type": "object", "properties": {"n": {"type": "integer"}},
            "required": ["n"]}}})");
    calls.push_back(b.sequence({b.literal("{\"name\": " + quoted_json(name) + ", \"arguments\": "),
                                add_json_schema(rules, schema), b.literal("}")}));
  }
  const auto root = b.declare("a tool call");
  b.define(root,
           b.sequence({b.literal("<tool_call>\n"), b.choice(calls), b.literal("\n</tool_call>")}));
  const GrammarMatcher matcher(b.build(root));
  EXPECT_TRUE(matches(
      matcher, "<tool_call>\n{\"name\": \"find\", \"arguments\": {\"n\": 3}}\n</tool_call>"));
  EXPECT_FALSE(matcher.accepts("<tool_call>\n{\"name\": \"other\""));
}

TEST(JsonSchema, ReadsATextAndRefusesDoubleKeys) {
  EXPECT_EQ(parse_json_schema(R"({"b": 1, "a": 2})", "s.json").begin().key(), "b");
  EXPECT_THAT(
      expect_error(ErrorCode::bad_file, [] { parse_json_schema("{\"a\":1,\"a\":2}", "s.json"); }),
      HasSubstr("s.json"));
  EXPECT_THAT(expect_error(ErrorCode::bad_file, [] { parse_json_schema("{", "s.json"); }),
              HasSubstr("s.json"));
}

}  // namespace
}  // namespace tenfold
