// Filters that make text, and default.

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/json.h"
#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

template <Case how>
Value filter_case(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("case filter", args, {});
  return change_case(jinja.heap(), to_str(jinja.heap(), input), how);
}

// Words begin after white space and -([{<; unlike str.title(), not after other signs.
Value filter_title(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("title", args, {});
  Heap& heap = jinja.heap();
  Text out(heap);
  std::string_view text = to_str(heap, input);
  while (!text.empty()) {
    std::size_t end = 0;
    const auto separates = [text](std::size_t at) {
      return text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r') ||
             std::string_view("-([{<").find(text[at]) != std::string_view::npos;
    };
    while (end < text.size() && !separates(end)) ++end;
    out.append(change_case(heap, text.substr(0, end), Case::capitalize));
    while (end < text.size() && separates(end)) out.append(1, text[end++]);
    text.remove_prefix(end);
  }
  return out.finish();
}

Value filter_trim(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("trim", args, {"chars"});
  return strip(jinja.heap(), to_str(jinja.heap(), input), p.optional_text(0), Side::both);
}

Value filter_string(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("string", args, {});
  return to_str(jinja.heap(), input);
}

Value filter_escape(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("escape", args, {});
  Text out(jinja.heap());
  append_escaped(out, to_str(jinja.heap(), input));
  return out.finish();
}

Value filter_replace(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("replace", args, {"old", "new", "count"}, 2);
  Heap& heap = jinja.heap();
  return replace(heap, to_str(heap, input), to_str(heap, p.get(0)), to_str(heap, p.get(1)),
                 p.integer(2, -1));
}

Value filter_indent(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("indent", args, {"width", "first", "blank"});
  Heap& heap = jinja.heap();
  const bool given = p.has(0) && p.get(0).is_string();
  const std::int64_t width = given ? 0 : p.integer(0, 4);
  if (width > 10'000) fail("indent() by {} is too much", width);
  const std::string spaces =
      given ? std::string(p.text(0))
            : std::string(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
  Text with_end(heap);
  with_end.append(to_str(heap, input));
  with_end.append("\n");
  const List lines = split_lines(heap, with_end.finish(), false);
  Text out(heap);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = *lines[i].as<std::string_view>();
    if (i > 0) out.append("\n");
    if (i == 0 ? p.flag(1) : p.flag(2) || !line.empty()) out.append(spaces);
    out.append(line);
  }
  return out.finish();
}

Value filter_format(Interpreter& jinja, const Value& input, const Args& args) {
  if (!args.named.empty()) fail("format() with keyword arguments is not supported");
  return percent_format(jinja.heap(), to_str(jinja.heap(), input), args.positional);
}

Value filter_tojson(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  Heap& heap = jinja.heap();
  JsonStyle style;
  style.ascii_only = p.flag(0);
  style.sort_keys = p.flag(3);
  std::string spaces;
  if (p.has(1) && !p.get(1).is<None>()) {
    style.multiline = true;
    style.item_separator = ",";
    const std::int64_t width = p.get(1).is_string() ? 0 : p.integer(1, 0);
    if (width > 100) fail("tojson() with an indent of {} is too much", width);
    spaces = p.get(1).is_string()
                 ? std::string(p.text(1))
                 : std::string(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
    style.indent = spaces;
  }
  if (p.has(2) && !p.get(2).is<None>()) {
    const List& parts = items_of(heap, p.get(2));
    if (parts.size() != 2 || !parts[0].is_string() || !parts[1].is_string())
      fail("tojson() needs two strings as separators");
    style.item_separator = *parts[0].as<std::string_view>();
    style.key_separator = *parts[1].as<std::string_view>();
  }
  Text out(heap);
  append_json(out, input, style);
  return out.finish();
}

Value filter_default(Interpreter&, const Value& input, const Args& args) {
  const Parameters p("default", args, {"default_value", "boolean"});
  const bool use = input.is<Undefined>() || (p.flag(1) && !truthy(input));
  return use ? p.get_or(0, std::string_view()) : input;
}

Value filter_wordcount(Interpreter& jinja, const Value& input, const Args& args) {
  const Parameters p("wordcount", args, {});
  Heap& heap = jinja.heap();
  return static_cast<std::int64_t>(split(heap, to_str(heap, input), std::nullopt, -1).size());
}

constexpr std::array<Builtin, 17> kFilters = {{
    {"capitalize", filter_case<Case::capitalize>},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"format", filter_format},
    {"indent", filter_indent},
    {"lower", filter_case<Case::lower>},
    {"replace", filter_replace},
    {"safe", filter_string},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"upper", filter_case<Case::upper>},
    {"wordcount", filter_wordcount},
    {"forceescape", filter_escape},
}};

}  // namespace

std::span<const Builtin> text_filters() { return kFilters; }

}  // namespace tenfold::jinja
