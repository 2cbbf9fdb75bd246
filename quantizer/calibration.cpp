#include "quantizer/calibration.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "kernels/error.h"
#include "quantizer/fnv.h"
#include "quantizer/random.h"
#include "runtime/files/json_file.h"
#include "runtime/files/mapped_file.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

std::uint64_t hash_ids(const std::vector<std::vector<TokenId>>& sequences) {
  Fnv hash;
  for (const auto& ids : sequences) hash.add(std::as_bytes(std::span(ids)));
  return hash.value();
}

}  // namespace

std::int64_t Calibration::tokens() const noexcept {
  std::int64_t sum = 0;
  for (const auto& ids : sequences) sum += static_cast<std::int64_t>(ids.size());
  return sum;
}

std::string calibration_text(const std::string& path) {
  std::string text;
  if (path.ends_with(".jsonl")) {
    for_each_json_line(path, [&](const nlohmann::json& json, const std::string& name) {
      if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
        throw_file_error(name, "is not a JSON object with a \"text\" that is a string");
      }
      if (!text.empty()) text += "\n\n";
      text += json["text"].get_ref<const std::string&>();
    });
  } else {
    const MappedFile file(path);
    text.assign(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  }
  if (!is_valid_utf8(text)) throw_file_error(path, "is not UTF-8 text");
  return text;
}

Calibration draw_calibration(const Tokenizer& tokenizer, const std::string& text,
                             const CalibrationOptions& options) {
  EncodeOptions encode;
  encode.parse_special = false;
  const std::vector<TokenId> ids = tokenizer.encode(text, encode);
  const bool bos = tokenizer.adds_bos && tokenizer.bos.has_value();
  const auto length = static_cast<std::size_t>(options.length - (bos ? 1 : 0));
  const auto wanted = static_cast<std::size_t>(options.sequences);
  const std::size_t windows = length == 0 ? 0 : ids.size() / length;
  if (windows < wanted) {
    throw_error(ErrorCode::bad_request,
                "{} has {} tokens, which is {} sequences of {}: fewer than the {} asked for",
                options.file, ids.size(), windows, options.length, wanted);
  }
  std::vector<std::size_t> order(windows);
  std::iota(order.begin(), order.end(), std::size_t{0});
  Calibration result;
  std::uint64_t state = options.seed;
  for (std::size_t i = 0; i < wanted; ++i) {
    std::swap(order[i], order[i + splitmix64(state) % (windows - i)]);
    std::vector<TokenId>& sequence = result.sequences.emplace_back();
    if (bos) sequence.push_back(*tokenizer.bos);
    const auto from = ids.begin() + static_cast<std::ptrdiff_t>(order[i] * length);
    sequence.insert(sequence.end(), from, from + static_cast<std::ptrdiff_t>(length));
  }
  result.hash = hash_ids(result.sequences);
  return result;
}

Calibration draw_calibration(const ModelSource& source, const CalibrationOptions& options) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source);
  if (tokenizer == nullptr) {
    throw_error(ErrorCode::bad_request, "{} has no tokenizer to calibrate with", source.path());
  }
  return draw_calibration(*tokenizer, calibration_text(options.file), options);
}

std::int64_t held_out_sequences(std::int64_t sequences) noexcept {
  constexpr std::int64_t kShare = 8;  // one in so many
  return sequences == 1 ? 0 : std::max<std::int64_t>(1, sequences / kShare);
}

}  // namespace tenfold
