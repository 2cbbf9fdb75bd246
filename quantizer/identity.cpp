#include "quantizer/identity.h"

#include <fmt/core.h>

#include <algorithm>
#include <span>

#include "quantizer/fnv.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

constexpr int kAlgorithms = 6;

std::uint64_t fingerprint(const DecoderSpec& spec, const std::vector<ModelTensor>& tensors) {
  Fnv hash;
  const auto add = [&](const auto& value) { hash.add(std::as_bytes(std::span(&value, 1))); };
  add(spec.norm_eps);
  add(spec.heads);
  add(spec.kv_heads);
  add(spec.post_norm);
  if (spec.rope.enabled) {
    for (const double frequency : spec.rope.frequencies(spec.head_dim)) add(frequency);
  }
  for (const ModelTensor& tensor : tensors) {
    const SourceWeight& weight = tensor.rows.weight();
    const std::span<const std::byte> bytes =
        weight.tensor != nullptr ? weight.tensor->data : parts(*weight.packed).front();
    const std::uint64_t size = bytes.size();
    hash.add(std::as_bytes(std::span(tensor.info.name)));
    hash.add(std::as_bytes(std::span(&size, 1)));
    hash.add(bytes.first(std::min<std::size_t>(bytes.size(), 256)));
  }
  return hash.value();
}

}  // namespace

std::string run_identity(const Recipe& recipe, const Calibration& calibration,
                         const DecoderSpec& spec, const std::vector<ModelTensor>& tensors,
                         std::string_view isa) {
  return fmt::format("{} {} {:016x} {:016x} {}", kAlgorithms, to_json(recipe), calibration.hash,
                     fingerprint(spec, tensors), isa);
}

}  // namespace tenfold
