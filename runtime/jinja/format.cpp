// "%s" % x and "{}".format(x) of jinja_ops.h.

#include <algorithm>
#include <charconv>

#include "runtime/jinja/ops.h"
#include "runtime/jinja/text.h"

namespace tenfold::jinja {
namespace {

struct Spec {
  bool left = false, zero = false, plus = false, space = false;
  std::size_t width = 0;
  int precision = -1;
};

constexpr std::size_t kMaxWidth = 1000;

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}
  bool done() const { return at_ == text_.size(); }
  char next() {
    if (done()) fail("a format ends inside a placeholder");
    return text_[at_++];
  }
  bool skip(char c) {
    const bool found = !done() && text_[at_] == c;
    at_ += found ? 1 : 0;
    return found;
  }
  std::size_t number() {
    std::size_t value = 0;
    while (!done() && text_[at_] >= '0' && text_[at_] <= '9' && value <= kMaxWidth)
      value = value * 10 + static_cast<std::size_t>(text_[at_++] - '0');
    if (value > kMaxWidth) fail("a format asks for more than {} characters", kMaxWidth);
    return value;
  }
  std::string_view until(std::string_view stops) {
    const std::size_t end = std::min(text_.find_first_of(stops, at_), text_.size());
    const std::string_view part = text_.substr(at_, end - at_);
    at_ = end;
    return part;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

Spec parse_spec(Scanner& scanner) {
  Spec spec;
  for (bool more = true; more;) {
    more = false;
    for (const auto& [c, flag] :
         {std::pair{'-', &spec.left}, {'0', &spec.zero}, {'+', &spec.plus}, {' ', &spec.space}}) {
      if (!scanner.skip(c)) continue;
      *flag = true;
      more = true;
    }
  }
  spec.width = scanner.number();
  if (scanner.skip('.')) spec.precision = static_cast<int>(scanner.number());
  return spec;
}

std::int64_t whole(const Value& value) {
  std::int64_t integer = 0;
  if (value.integer(integer)) return integer;
  const double number = to_double(value);
  if (!(number > -9.2e18 && number < 9.2e18)) fail("the number {} is out of range", number);
  return static_cast<std::int64_t>(number);
}

std::string number_text(char type, const Spec& spec, const Value& value) {
  std::string text;
  if (type == 'd' || type == 'i' || type == 'u') {
    text = fmt::format("{}", whole(value));
  } else if (type == 'x' || type == 'X' || type == 'o') {
    const std::int64_t number = whole(value);
    text = type == 'x'   ? fmt::format("{:x}", number)
           : type == 'X' ? fmt::format("{:X}", number)
                         : fmt::format("{:o}", number);
  } else {
    const int precision = spec.precision < 0 ? 6 : spec.precision;
    const double number = to_double(value);
    text = type == 'f'   ? fmt::format("{:.{}f}", number, precision)
           : type == 'e' ? fmt::format("{:.{}e}", number, precision)
                         : fmt::format("{:.{}g}", number, std::max(precision, 1));
  }
  if (text[0] != '-' && (spec.plus || spec.space)) text.insert(0, 1, spec.plus ? '+' : ' ');
  return text;
}

void pad(Text& out, const Spec& spec, bool number, std::string_view text) {
  const std::size_t size = length(text);
  const std::size_t missing = spec.width > size ? spec.width - size : 0;
  if (spec.left) {
    out.append(text);
    out.append(missing, ' ');
  } else if (spec.zero && number) {
    const bool sign = text[0] == '-' || text[0] == '+' || text[0] == ' ';
    out.append(text.substr(0, sign ? 1 : 0));
    out.append(missing, '0');
    out.append(text.substr(sign ? 1 : 0));
  } else {
    out.append(missing, ' ');
    out.append(text);
  }
}

void append_placeholder(Text& out, const Spec& spec, char type, const Value& value) {
  if (type == 's' || type == 'r') {
    Text text(out.heap());
    type == 's' ? append_str(text, value) : append_repr(text, value);
    std::string_view shown = text.finish();
    if (spec.precision >= 0)
      shown = shown.substr(0, offset_of(shown, static_cast<std::size_t>(spec.precision)));
    pad(out, spec, false, shown);
  } else if (std::string_view("diuxXofeg").find(type) != std::string_view::npos) {
    pad(out, spec, true, number_text(type, spec, value));
  } else {
    fail("the format '%{}' is not supported", std::string_view(&type, 1));
  }
}

}  // namespace

std::string_view percent_format(Heap& heap, std::string_view format, const List& args) {
  Text out(heap);
  Scanner scanner(format);
  std::size_t used = 0;
  while (true) {
    out.append(scanner.until("%"));
    if (scanner.done()) break;
    scanner.next();
    if (scanner.skip('%')) {
      out.append("%");
      continue;
    }
    const Spec spec = parse_spec(scanner);
    const char type = scanner.next();
    if (used == args.size()) fail("a format has more placeholders than arguments");
    append_placeholder(out, spec, type, args[used++]);
  }
  if (used < args.size()) fail("a format has fewer placeholders than arguments");
  return out.finish();
}

namespace {

const Value& brace_argument(std::string_view field, const Args& args, std::size_t& next) {
  if (field.find_first_of(".[:!{") != std::string_view::npos)
    fail("the format field '{}' is not supported", field);
  std::size_t index = 0;
  const auto parsed = std::from_chars(field.data(), field.data() + field.size(), index);
  if (field.empty()) index = next++;
  if (field.empty() || (parsed.ec == std::errc() && parsed.ptr == field.data() + field.size())) {
    if (index < args.positional.size()) return args.positional[index];
  }
  for (const auto& [name, value] : args.named)
    if (name == field) return value;
  fail("format() has no argument '{}'", field);
}

}  // namespace

std::string_view brace_format(Heap& heap, std::string_view format, const Args& args) {
  Text out(heap);
  Scanner scanner(format);
  std::size_t next = 0;
  while (true) {
    out.append(scanner.until("{}"));
    if (scanner.done()) return out.finish();
    const char brace = scanner.next();
    if (scanner.skip(brace)) {
      out.append(1, brace);
    } else if (brace == '}') {
      fail("a format has a single '}}'");
    } else {
      const std::string_view field = scanner.until("}");
      scanner.next();
      append_str(out, brace_argument(field, args, next));
    }
  }
}

}  // namespace tenfold::jinja
