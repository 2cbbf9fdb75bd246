#include "server/openai/embeddings.h"

#include <bit>

#include "server/base64.h"

namespace tenfold {
namespace {

// Little-endian float32, which the official clients ask for in base64.
std::string float_bytes(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 0xFF);
  }
  return bytes;
}

}  // namespace

EmbeddingRequest read_embedding(const Json& body, const RequestLimits& limits,
                                const Tokenizer& tokenizer) {
  Fields fields(body);
  EmbeddingRequest request;
  const Json* input = fields.take("input");
  if (input == nullptr) refuse("input", "input is missing");
  request.prompts = read_prompts(*input, "input", static_cast<std::size_t>(limits.most_prompts),
                                 limits, tokenizer);
  const std::string format = fields.text("encoding_format").value_or("float");
  if (format != "float" && format != "base64") {
    refuse("encoding_format", "encoding_format must be float or base64, found {}", shown(format));
  }
  request.base64 = format == "base64";
  request.model = fields.text("model");
  fields.ignore({"user"});
  fields.finish();
  return request;
}

Json embedding_json(const EmbeddingRequest& request, const std::vector<std::vector<float>>& vectors,
                    const std::string& model) {
  Json data = Json::array();
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    tokens += request.prompts[i].size();
    data.push_back(
        {{"object", "embedding"},
         {"index", i},
         {"embedding", request.base64 ? Json(base64(float_bytes(vectors[i]))) : Json(vectors[i])}});
  }
  return {{"object", "list"},
          {"data", std::move(data)},
          {"model", model},
          {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
}

}  // namespace tenfold
