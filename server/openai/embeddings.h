#pragma once
// POST /v1/embeddings.

#include <vector>

#include "server/openai/completions.h"

namespace tenfold {

struct EmbeddingRequest {
  std::vector<std::vector<TokenId>> prompts;
  bool base64 = false;
  std::optional<std::string> model;
};

EmbeddingRequest read_embedding(const Json& body, const RequestLimits& limits,
                                const Tokenizer& tokenizer);
Json embedding_json(const EmbeddingRequest& request, const std::vector<std::vector<float>>& vectors,
                    const std::string& model);

}  // namespace tenfold
