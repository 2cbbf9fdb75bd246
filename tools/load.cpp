#include "tools/load.h"

#include "models/weights.h"
#include "runtime/files/quote.h"
#include "tools/io.h"
#include "tools/model_size.h"

namespace tenfold {
namespace {

constexpr std::uint64_t kBytesF16 = 2;

// Said before the memory is taken: block formats become F16 in this version.
void note_dequantization(const ModelSize& size) {
  if (size.quantized.elements == 0) return;
  std::string types;
  for (const auto& [type, size_of_type] : size.types) {
    if (is_float(type)) continue;
    types += (types.empty() ? "" : " and ") + std::string(dtype_traits(type).name);
  }
  note(fmt::format("Loading: the {} weights become F16 in memory, which takes about {}.", types,
                   megabytes(static_cast<std::uint64_t>(size.quantized.elements) * kBytesF16)));
}

void note_model(const LoadedModel& loaded, std::int64_t context, KvType kv) {
  const ModelInfo& info = loaded.model->info();
  const std::int64_t tokens = context > 0 ? context : info.max_context;
  const std::uint64_t cache =
      kv_shape(info, kv).bytes_per_token() * static_cast<std::uint64_t>(tokens);
  note(
      fmt::format("{}: {}, {} parameters, {}; weights {} ({} copied), KV cache up to {} for {} "
                  "tokens; {}.",
                  quote(info.name), info.architecture, count_text(info.parameters),
                  info.weight_types, megabytes(info.weight_bytes), megabytes(info.copied_bytes),
                  megabytes(cache), tokens, loaded.ws->backend->description()));
}

}  // namespace

LoadedModel load(const CommonOptions& options, std::int64_t context, KvType kv) {
  check_device(options);
  LoadedModel loaded;
  loaded.ws = std::make_unique<Workspace>(
      make_cpu_backend({options.threads, options.isa, options.activations}));
  const auto source = std::make_shared<const ModelSource>(options.model);
  const Family& family = find_family(*source);
  const ModelSize size = measure(family, read_spec(family, *source), *source);
  loaded.bits_per_weight = bits_per_weight(size.all);
  if (!options.quiet) note_dequantization(size);
  loaded.tokenizer = load_tokenizer(*source);
  loaded.model = load_model(source);
  if (!options.quiet) note_model(loaded, context, kv);
  return loaded;
}

const Tokenizer& require_tokenizer(const LoadedModel& loaded, const CommonOptions& options) {
  if (loaded.tokenizer == nullptr) {
    throw_error(ErrorCode::bad_request,
                "{} has no tokenizer: give token ids with generate --ids or logits --ids",
                options.model);
  }
  return *loaded.tokenizer;
}

std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  EncodeOptions options;
  options.add_bos = tokenizer.adds_bos;
  return tokenizer.encode(text, options);
}

}  // namespace tenfold
