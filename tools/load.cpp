#include "tools/load.h"

#include "models/weights.h"
#include "runtime/files/quote.h"
#include "tools/io.h"
#include "tools/model_size.h"

namespace tenfold {
namespace {

constexpr std::uint64_t kBytesF16 = 2;

// "Q4_1 and Q8_0", of the types that loading treats as `as`; their size in memory is added up.
std::string types_loaded_as(const ModelSize& size, LoadedAs as, std::uint64_t& bytes) {
  std::string names;
  for (const auto& [name, type] : size.types) {
    if (type.as != as) continue;
    names += (names.empty() ? "" : " and ") + name;
    bytes +=
        as == LoadedAs::f16 ? static_cast<std::uint64_t>(type.elements) * kBytesF16 : type.bytes;
  }
  return names;
}

// Said before the memory is taken: packed weights and floats stay in the file, these are copied.
void note_copies(const ModelSize& size) {
  std::uint64_t bytes = 0;
  const std::string repacked = types_loaded_as(size, LoadedAs::repacked, bytes);
  const std::string widened = types_loaded_as(size, LoadedAs::f16, bytes);
  std::string what;
  if (!repacked.empty()) what = fmt::format("the {} weights are repacked", repacked);
  if (!widened.empty()) {
    what += fmt::format("{}the {} weights become F16", what.empty() ? "" : " and ", widened);
  }
  if (what.empty()) return;
  note(fmt::format("Loading: {} in memory, which takes about {}.", what, megabytes(bytes)));
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
  LoadedModel loaded;
  std::string notice;
  loaded.ws = std::make_unique<Workspace>(open_device(options, notice));
  const auto source = std::make_shared<const ModelSource>(options.model);
  const Family& family = find_family(*source);
  const ModelSize size = measure(family, read_spec(family, *source), *source);
  loaded.bits_per_weight = bits_per_weight(size.all);
  loaded.file_bytes = source->file_bytes();
  if (!options.quiet) note_copies(size);
  loaded.tokenizer = load_tokenizer(*source);
  loaded.model = load_model(source);
  if (options.quiet) return loaded;
  if (!notice.empty()) note(notice);
  note_model(loaded, context, kv);
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
