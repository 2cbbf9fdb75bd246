#include "runtime/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/error.h"

namespace tenfold {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::StartsWith;

ordered_json read_data(const std::string& name) {
  std::ifstream file(std::string(TENFOLD_TEST_DATA) + "/chat/" + name);
  return ordered_json::parse(file);
}

// The rendered text, or "error: ..." / "raised: ...".
std::string outcome(const std::string& source, const ordered_json& variables) {
  try {
    return ChatTemplate(source).render(variables);
  } catch (const Error& error) {
    return (error.code() == ErrorCode::bad_request ? "raised: " : "error: ") +
           std::string(error.what());
  }
}

void expect_case(const ordered_json& expected, const std::string& source,
                 const ordered_json& variables) {
  const std::string found = outcome(source, variables);
  if (expected.contains("expected")) {
    EXPECT_EQ(found, expected["expected"].get<std::string>()) << source;
  } else if (expected.contains("raised")) {
    EXPECT_EQ(found, "raised: " + expected["raised"].get<std::string>()) << source;
  } else {
    EXPECT_THAT(found, StartsWith("error: chat template, line ")) << source;
  }
}

std::string failure(const std::string& source,
                    const ordered_json& variables = ordered_json::object()) {
  const std::string found = outcome(source, variables);
  EXPECT_THAT(found, StartsWith("error: ")) << source;
  return found;
}

TEST(ChatTemplate, RendersSixPublishedTemplates) {
  const ordered_json templates = read_data("templates.json");
  ASSERT_EQ(templates.size(), 6u);
  for (const auto& entry : templates) {
    const ChatTemplate chat(entry["template"].get<std::string>());
    for (const auto& run : entry["cases"]) {
      std::vector<ChatMessage> messages;
      for (const auto& m : run["messages"]) messages.push_back({m["role"], m["content"]});
      const bool prompt = run["add_generation_prompt"];
      const std::string bos = entry["bos_token"], eos = entry["eos_token"];
      if (run.contains("prompt")) {
        EXPECT_EQ(chat.render(messages, prompt, bos, eos), run["prompt"].get<std::string>());
        continue;
      }
      try {
        chat.render(messages, prompt, bos, eos);
        ADD_FAILURE() << entry["name"] << " should have raised";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::bad_request);
        EXPECT_EQ(error.what(), run["error"].get<std::string>());
      }
    }
  }
}

TEST(ChatTemplate, AgreesWithJinja2) {
  const ordered_json data = read_data("cases.json");
  ASSERT_GT(data["cases"].size(), 150u);
  for (const auto& entry : data["cases"])
    expect_case(entry, entry["template"].get<std::string>(), data["context"]);
}

TEST(ChatTemplate, AgreesWithJinja2OnToolTemplates) {
  const ordered_json data = read_data("cases.json");
  ASSERT_GE(data["real"].size(), 9u);
  for (const auto& entry : data["real"])
    for (const auto& run : entry["runs"])
      expect_case(run, entry["template"].get<std::string>(), run["context"]);
}

TEST(ChatTemplate, PlainTemplateIsReadable) {
  const ChatTemplate chat(kPlainChatTemplate);
  const std::vector<ChatMessage> messages = {
      {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello"}, {"user", "Bye"}};
  EXPECT_EQ(chat.render(messages, true, "<s>", "</s>"),
            "Be brief.\n\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(failure("a\nb\n{{ 1 + }}"), HasSubstr("line 3: expected an expression"));
  EXPECT_THAT(failure("\n\n{% if x %}\n\n"), HasSubstr("line 4: expected 'endif', found the end"));
  EXPECT_THAT(failure("a\n{{ missing.x }}"), HasSubstr("line 2: 'missing' is undefined"));
  EXPECT_THAT(failure("{% set x = 1 %}\n\n{{ x.y.z }}"), HasSubstr("line 3: 'int' has no"));
  EXPECT_THAT(failure("\n{{ 1|frobnicate }}"),
              HasSubstr("line 2: there is no filter 'frobnicate'"));
  EXPECT_THAT(failure("{% include 'x' %}"), HasSubstr("line 1: the tag 'include'"));
}

TEST(ChatTemplate, RaisedTextIsTheWholeMessage) {
  EXPECT_EQ(outcome("{{ raise_exception('no ' ~ what) }}", {{"what", "tools"}}),
            "raised: no tools");
}

TEST(ChatTemplate, RefusesInvalidTemplatesAndVariables) {
  EXPECT_THAT(failure("a\xFF"), HasSubstr("byte 1 is not valid UTF-8"));
  EXPECT_THAT(failure(std::string(1 << 20, 'a')), HasSubstr("at most"));
  EXPECT_THAT(outcome("x", ordered_json::array()),
              StartsWith("raised: chat template: the variables"));
  ordered_json deep = 1;
  for (int i = 0; i < 2000; ++i) deep = ordered_json::array({std::move(deep)});
  EXPECT_THAT(outcome("x", {{"deep", deep}}), HasSubstr("levels deep"));
}

TEST(ChatTemplate, RepairsInvalidUtf8InMessages) {
  EXPECT_EQ(outcome("{{ x }}", {{"x", "a\xFFz"}}), "a\uFFFDz");
}

TEST(ChatTemplate, HasNoWayOut) {
  for (const char* source :
       {"{{ ''.__class__.__mro__[1] }}", "{{ [].__init__.__globals__ }}", "{{ range.__self__.x }}",
        "{{ self._TemplateReference__context.x }}", "{{ [].append(1) }}", "{{ {}.update(a=1) }}",
        "{% import 'os' as os %}", "{{ open('/etc/passwd') }}", "{{ namespace.__class__.x }}"})
    failure(source);
}

std::string repeated(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

TEST(ChatTemplate, LimitsNesting) {
  for (const auto& [open, close] : {std::pair{"(", ")"}, {"[", "]"}, {"{1:", "}"}}) {
    EXPECT_THAT(failure("{{ " + repeated(open, 5000) + "1" + repeated(close, 5000) + " }}"),
                HasSubstr("deep"));
    EXPECT_THAT(outcome("{{ " + repeated(open, 50) + "1" + repeated(close, 50) + " }}", {{"x", 1}}),
                testing::Not(HasSubstr("deep")));
  }
  EXPECT_THAT(failure("{{ " + repeated("not ", 5000) + "1 }}"), HasSubstr("deep"));
  EXPECT_THAT(failure("{{ " + repeated("-", 5000) + "1 }}"), HasSubstr("deep"));
  EXPECT_THAT(failure("{{ " + repeated("1+", 5000) + "1 }}"), HasSubstr("deep"));
  EXPECT_THAT(failure("{{ x" + repeated("|list", 5000) + " }}"), HasSubstr("deep"));
  EXPECT_THAT(failure("{{ x" + repeated(".a", 5000) + " }}"), HasSubstr("deep"));
  EXPECT_THAT(failure("{{ 1" + repeated(" if 1 else 2", 5000) + " }}"), HasSubstr("deep"));
  EXPECT_THAT(failure(repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000)),
              HasSubstr("deep"));
  EXPECT_THAT(
      failure("{% for " + repeated("(", 5000) + "a" + repeated(")", 5000) + " in b %}{% endfor %}"),
      HasSubstr("deep"));
  EXPECT_EQ(outcome("{{ 'a'" + repeated(" ~ 'a'", 1000) + " }}", {{"x", 1}}),
            std::string(1001, 'a'));
}

TEST(ChatTemplate, LimitsRecursion) {
  EXPECT_THAT(failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
  EXPECT_THAT(failure("{% macro m(x=m()) %}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
  EXPECT_THAT(
      failure(
          "{% macro m() %}{% for x in [1] %}{% if 1 %}{% filter upper %}{% call m() %}{% endcall "
          "%}{% endfilter %}{% endif %}{% endfor %}{% endmacro %}{{ m() }}"),
      HasSubstr("deep"));
  EXPECT_EQ(outcome("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% else %}ok{% endif %}{% endmacro %}"
                    "{{ m(50) }}",
                    {{"x", 1}}),
            "ok");
}

TEST(ChatTemplate, CyclesDoNotHang) {
  const std::string grow = "{% set ns = namespace(x=[]) %}{% for i in range(100) %}";
  EXPECT_THAT(failure(grow + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"),
              HasSubstr("16 MiB"));
  EXPECT_THAT(failure(grow + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}"),
              HasSubstr("16 MiB"));
  EXPECT_THAT(
      failure("{% set ns = namespace(x=[], y=[]) %}{% for i in range(100) %}{% set ns.x = [ns.x, "
              "ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}"),
      HasSubstr("steps"));
  EXPECT_THAT(failure("{% set ns = namespace(x=[]) %}{% for i in range(2000) %}{% set ns.x = "
                      "[ns.x] %}{% endfor %}{{ ns.x }}"),
              HasSubstr("deep"));
  EXPECT_EQ(
      outcome("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns.x.x.x == ns }}", {{"x", 1}}),
      "True");
}

TEST(ChatTemplate, LimitsSizeAndTime) {
  for (const char* source :
       {"{{ 'a' * 10**9 }}",
        "{{ [1] * 10**9 }}",
        "{{ 'a' * 9223372036854775807 }}",
        "{{ range(10**9) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ '%9999999d' % 1 }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        ("{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
         "{% endfor %}"),
        "{% set s = 'a' * 100000 %}{{ s.replace('a', s) }}",
        "{% set s = 'a' * 10000000 %}{% for i in range(100) %}{{ s }}{% endfor %}",
        "{% set s = 'a ' * 8000000 %}{{ s.split() }}",
        "{{ 'a'|indent(10**9) }}",
        "{{ [1]|tojson(indent=10**9) }}",
        "{{ 2 ** 63 }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ -9223372036854775807 - 2 }}",
        "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ 9999999999999999999 }}",
        "{{ -(-9223372036854775807 - 1) }}",
        "{{ (-9223372036854775807 - 1)|abs }}"})
    EXPECT_THAT(failure(source), StartsWith("error: chat template, line 1: ")) << source;
}

// Reading a large string again and again costs steps, whatever the operation. One test for each:
// under ThreadSanitizer they take seconds.
class LargeStrings : public ::testing::TestWithParam<const char*> {};
TEST_P(LargeStrings, AreChargedFor) {
  const std::string work = GetParam();
  EXPECT_THAT(failure("{% set s = 'a' * 8000000 %}{% set t = s ~ '' %}{% for i in range(100000) %}"
                      "{% if " +
                      work + " %}{% endif %}{% endfor %}"),
              HasSubstr(" more than "));
}
INSTANTIATE_TEST_SUITE_P(Work, LargeStrings,
                         ::testing::Values("s|length == 1", "s[5] == 'b'", "s.strip('a')",
                                           "s.split('b')[1]", "s|int", "s == t", "'b' in s",
                                           "s.find('b') > 0", "s.startswith(t)", "s[:1]",
                                           "s.isdigit()", "s.removeprefix(t)"));

TEST(ChatTemplate, RefusesToStripALargeSet) {
  EXPECT_THAT(failure("{% set s = 'a' * 8000000 %}{{ s.strip(s) }}"), HasSubstr("to strip"));
}

TEST(ChatTemplate, HostileSearchIsLinear) {
  EXPECT_EQ(outcome("{% set a = 'a' * 4000000 %}{% set b = 'a' * 2000000 + 'b' %}{{ b in a }}"
                    "{{ a.find(b) }}{{ a.count(b) }}{{ a.replace(b, '')|length }}",
                    {{"x", 1}}),
            "False-104000000");
}

TEST(ChatTemplate, IsReusableAndMovable) {
  ChatTemplate first("{{ x }}");
  ChatTemplate second = std::move(first);
  EXPECT_EQ(second.render(ordered_json{{"x", 1}}), "1");
  EXPECT_EQ(second.render(nlohmann::json{{"x", "two"}}), "two");
}

TEST(ChatTemplate, KeepsTheOrderOfToolFields) {
  const ordered_json tool = ordered_json::parse(R"({"tool": {"zebra": 1, "apple": [2]}})");
  EXPECT_EQ(ChatTemplate("{{ tool|tojson }}").render(tool), R"({"zebra": 1, "apple": [2]})");
}

TEST(ChatTemplate, KnowsTheDate) {
  const std::string year = outcome("{{ strftime_now('%Y') }}", {{"x", 1}});
  EXPECT_EQ(year.size(), 4u);
  EXPECT_GE(std::stoi(year), 2024);
}

}  // namespace
}  // namespace tenfold
