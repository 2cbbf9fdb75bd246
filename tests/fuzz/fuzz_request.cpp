// The input is the body of a request, read as each kind there is; chats are rendered and answered,
// too. Only ApiError and Error may come out.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/error.h"
#include "server/openai/chat.h"
#include "server/openai/completions.h"
#include "server/openai/embeddings.h"
#include "server/openai/responses.h"

namespace {

using namespace tenfold;

// A token for each byte.
struct ByteTokenizer : Tokenizer {
  ByteTokenizer() { vocab_size = 256; }
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<TokenId> ids;
    for (const unsigned char c : text) ids.push_back(c);
    return ids;
  }
  std::string piece(TokenId id, bool) const override {
    return id < 256 ? std::string(1, static_cast<char>(id)) : std::string();
  }
  std::string decode(std::span<const TokenId> ids, bool special) const override {
    std::string text;
    for (const TokenId id : ids) text += piece(id, special);
    return text;
  }
  std::optional<TokenId> token_to_id(std::string_view) const override { return std::nullopt; }
  void write_vocabulary(GgufMetadata&, std::int64_t) const override {}
};

GenerationEvent event_of(std::string_view text) {
  GenerationEvent event;
  event.text = text;
  event.tokens = {{65, -1.0f, {{66, -0.5f}}}};
  event.finish = FinishReason::stop;
  event.usage.generated_tokens = 1;
  return event;
}

void answer(Writer& writer, std::string_view text) {
  writer.begin();
  writer.add(0, event_of(text));
  writer.end();
  dump(writer.whole());
}

void chat(const Json& body, const RequestLimits& limits, const Tokenizer& tokenizer) {
  static const ChatTemplate plain(kPlainChatTemplate);
  const ChatRequest request = read_chat(body, limits);
  const ToolStyle style;
  if (request.tools.active()) tools_grammar(request.tools, style);
  chat_prompt(request.messages, request.tools, style, request.template_kwargs, plain, tokenizer);
  answer(*chat_writer(request, style, {}, tokenizer),
         "x<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>");
}

template <typename Read>
void attempt(const Read& read) {
  try {
    read();
  } catch (const ApiError&) {
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ByteTokenizer tokenizer;
  RequestLimits limits;
  limits.vocab = 256;
  Json body;
  try {
    body = parse_body({reinterpret_cast<const char*>(data), size});
  } catch (const ApiError&) {
    return 0;
  }
  attempt([&] { chat(body, limits, tokenizer); });
  attempt([&] {
    const CompletionRequest request = read_completion(body, limits, tokenizer);
    answer(*completion_writer(request, {}, tokenizer), "text");
  });
  attempt([&] { answer(*responses_writer(read_responses(body, limits), {}), "text"); });
  attempt([&] { read_embedding(body, limits, tokenizer); });
  return 0;
}
