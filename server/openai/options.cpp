#include "server/openai/options.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/error.h"
#include "runtime/grammar/gbnf.h"
#include "runtime/grammar/json_schema.h"

namespace tenfold {
namespace {

constexpr double kLargest = std::numeric_limits<float>::max();
constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;

// Samplers of llama.cpp that Tenfold does not have: a client that switches them off may say so.
struct Absent {
  const char* name;
  double off;
};
constexpr Absent kAbsent[] = {
    {"typical_p", 1},       {"tfs_z", 1},          {"mirostat", 0},     {"dynatemp_range", 0},
    {"xtc_probability", 0}, {"dry_multiplier", 0}, {"top_n_sigma", -1}, {"n_keep", 0},
};

void refuse_absent(Fields& fields) {
  for (const Absent& absent : kAbsent) {
    const Json* value = fields.take(absent.name);
    if (value == nullptr || (value->is_number() && value->get<double>() == absent.off)) continue;
    refuse(fields.path(absent.name), "{} is not supported but for {}, which turns it off",
           absent.name, absent.off);
  }
}

template <typename T>
void set_if(T& target, std::optional<double> value) {
  if (value) target = static_cast<T>(*value);
}

void read_bias(Fields& fields, std::int64_t vocab, SamplerOptions& sampler) {
  const Json* bias = fields.take("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) {
    refuse("logit_bias", "logit_bias must be an object of token ids and numbers, found {}",
           bias->type_name());
  }
  for (const auto& [key, value] : bias->items()) {
    std::int32_t id = -1;
    const char* end = key.data() + key.size();
    const auto [stop, error] = std::from_chars(key.data(), end, id);
    if (error != std::errc{} || stop != end || id < 0 || id >= vocab) {
      refuse("logit_bias", "logit_bias names token {}, but the vocabulary has ids 0 to {}",
             shown(key), vocab - 1);
    }
    const double x = value.is_number() ? value.get<double>() : std::nan("");
    if (!(x >= -100 && x <= 100)) {
      refuse("logit_bias", "logit_bias must have numbers from -100 to 100, found {}", shown(value));
    }
    sampler.logit_bias.emplace_back(id, static_cast<float>(x));
  }
}

void read_sampler(Fields& fields, const RequestLimits& limits, SamplerOptions& sampler) {
  set_if(sampler.temperature, fields.number("temperature", 0, 100));
  set_if(sampler.top_p, fields.number("top_p", 0, 1));
  // OpenAI allows 0, which leaves the likeliest token.
  sampler.top_p = std::max(sampler.top_p, std::numeric_limits<float>::min());
  set_if(sampler.min_p, fields.number("min_p", 0, std::nextafter(1.0, 0.0)));
  if (const auto k = fields.integer("top_k", -1, kMostTokens)) {
    sampler.top_k =
        static_cast<int>(std::min<std::int64_t>(std::max<std::int64_t>(*k, 0), limits.vocab));
  }
  set_if(sampler.presence_penalty, fields.number("presence_penalty", -2, 2));
  set_if(sampler.frequency_penalty, fields.number("frequency_penalty", -2, 2));
  for (const char* name : {"repeat_penalty", "repetition_penalty"}) {
    set_if(sampler.repeat_penalty, fields.number(name, 1e-3, kLargest));
  }
  if (const auto n = fields.integer("repeat_last_n", 0, 1 << 20)) {
    sampler.penalty_last = static_cast<int>(*n);
  }
  read_bias(fields, limits.vocab, sampler);
  const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                                   std::numeric_limits<std::int64_t>::max());
  sampler.seed = seed ? static_cast<std::uint64_t>(*seed) : std::random_device{}();
}

void read_stops(Fields& fields, const RequestLimits& limits, std::vector<std::string>& stops) {
  stops = fields.texts("stop", limits.most_stops);
  for (const std::string& stop : stops) {
    if (stop.size() > limits.most_stop_bytes) {
      refuse("stop", "a stop string has {} bytes, at most {} are allowed", stop.size(),
             limits.most_stop_bytes);
    }
  }
}

std::int64_t read_max_tokens(Fields& fields) {
  std::optional<std::int64_t> most;
  for (const char* name : {"max_tokens", "max_completion_tokens", "n_predict"}) {
    const auto n = fields.integer(name, 0, kMostTokens);
    if (n && most && *n != *most) refuse(name, "{} contradicts another name of the limit", name);
    if (n) most = n;
  }
  return most.value_or(kMostTokens);
}

void read_stream(Fields& fields, AnswerOptions& options) {
  options.stream = fields.boolean("stream").value_or(false);
  const Json* stream_options = fields.take("stream_options");
  if (stream_options == nullptr) return;
  if (!options.stream) refuse("stream_options", "stream_options needs stream: true");
  Fields inner(*stream_options, "stream_options");
  options.include_usage = inner.boolean("include_usage").value_or(false);
  inner.ignore({"include_obfuscation"});
  inner.finish();
}

template <typename Compile>
std::shared_ptr<const Grammar> compiled(const std::string& param, const Compile& compile) {
  try {
    return compile();
  } catch (const Error& error) {
    refuse(param, "{}: {}", param, error.what());
  }
}

}  // namespace

void check_text(std::size_t bytes, std::size_t most, const std::string& param) {
  if (bytes <= most) return;
  throw ApiError(400, "invalid_request_error",
                 fmt::format("the text has {} bytes, which cannot fit in the context", bytes),
                 param, "context_length_exceeded");
}

AnswerOptions read_common(Fields& fields, const RequestLimits& limits) {
  AnswerOptions options;
  options.generate = limits.defaults;
  options.generate.max_tokens = read_max_tokens(fields);
  refuse_absent(fields);
  read_sampler(fields, limits, options.generate.sampler);
  read_stops(fields, limits, options.generate.stops);
  options.generate.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  options.choices = fields.integer("n", 1, limits.most_choices).value_or(1);
  read_stream(fields, options);
  options.model = fields.text("model");
  fields.ignore({"user", "store", "metadata", "service_tier", "parallel_tool_calls",
                 "safety_identifier", "prompt_cache_key", "cache_prompt", "timings_per_token"});
  return options;
}

std::shared_ptr<const Grammar> read_format(const Json& format, const std::string& where) {
  Fields fields(format, where);
  const std::string type = fields.required_text("type");
  std::shared_ptr<const Grammar> grammar;
  if (type == "json_object") {
    // llama.cpp's clients put a schema here.
    const Json* schema = fields.take("schema");
    grammar = compiled(where, [&] {
      return schema == nullptr ? json_object_grammar() : json_schema_grammar(*schema);
    });
  } else if (type == "json_schema") {
    const Json* wrapped = fields.take("json_schema");
    // The Responses API has the same fields beside the type.
    Fields inner = wrapped == nullptr ? fields : Fields(*wrapped, fields.path("json_schema"));
    inner.ignore({"type", "name", "strict", "description"});
    const Json* schema = inner.take("schema");
    if (schema == nullptr) refuse(inner.path("schema"), "{} is missing", inner.path("schema"));
    grammar = compiled(inner.path("schema"), [&] { return json_schema_grammar(*schema); });
    inner.finish();
    if (wrapped == nullptr) return grammar;
  } else if (type != "text") {
    refuse(fields.path("type"), "{} must be text, json_object or json_schema, found {}",
           fields.path("type"), type);
  }
  fields.finish();
  return grammar;
}

std::shared_ptr<const Grammar> read_grammar(Fields& fields) {
  std::vector<std::shared_ptr<const Grammar>> found;
  if (const Json* format = fields.take("response_format")) {
    if (auto grammar = read_format(*format, "response_format")) found.push_back(grammar);
  }
  if (const Json* schema = fields.take("json_schema")) {
    found.push_back(compiled("json_schema", [&] { return json_schema_grammar(*schema); }));
  }
  if (const auto text = fields.text("grammar"); text && !text->empty()) {
    found.push_back(compiled("grammar", [&] { return parse_gbnf(*text); }));
  }
  if (found.size() > 1) {
    refuse("grammar", "response_format, json_schema and grammar exclude one another");
  }
  return found.empty() ? nullptr : found.front();
}

}  // namespace tenfold
