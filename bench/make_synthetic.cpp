// Writes a model of a published shape with random weights as an F16 GGUF: norms 1, biases small,
// matrices N(0, 0.02^2) and those that add to the residual stream less by sqrt(2 layers), as models
// are initialized, so that activations stay as large as in a trained one. LLaMA shapes run in
// llama.cpp too (it knows no OPT): the vocabulary is a SentencePiece one without meaning.
// Memory: one block of weights a thread.
//
//   make_synthetic --shape llama2-7b [--layers 8] [--seed 1] -o OUT.gguf [--force]

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <map>

#include "bench/random_f16.h"
#include "bench/shapes.h"
#include "kernels/error.h"
#include "kernels/thread_pool.h"
#include "models/family.h"
#include "models/weights.h"
#include "runtime/files/gguf.h"

namespace tenfold {
namespace {

constexpr std::size_t kBlock = std::size_t{1} << 20;  // values of one random stream
constexpr double kSd = 0.02;
constexpr std::int64_t kBytePieces = 256;

struct Options {
  std::string shape, output;
  std::int64_t layers = 0;  // 0: all of the shape's
  std::uint64_t seed = 1;
  bool force = false;
};

// <unk>, <s>, </s>, the 256 bytes, and words that no text has.
void write_vocabulary(std::int64_t n_tokens, GgufMetadata& keys) {
  enum Kind : std::int32_t { normal = 1, unknown = 2, control = 3, byte = 6 };
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> kinds = {unknown, control, control};
  for (int i = 0; i < kBytePieces; ++i) {
    tokens.push_back(fmt::format("<0x{:02X}>", i));
    kinds.push_back(byte);
  }
  while (static_cast<std::int64_t>(tokens.size()) < n_tokens) {
    tokens.push_back(fmt::format("\u2581{}", tokens.size()));
    kinds.push_back(normal);
  }
  std::vector<float> scores(tokens.size(), 0.0f);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = -static_cast<float>(i);
  keys.set("tokenizer.ggml.model", std::string("llama"));
  keys.set("tokenizer.ggml.tokens", tokens);
  keys.set("tokenizer.ggml.scores", std::move(scores));
  keys.set("tokenizer.ggml.token_type", std::move(kinds));
  keys.set("tokenizer.ggml.unknown_token_id", std::uint32_t{0});
  keys.set("tokenizer.ggml.bos_token_id", std::uint32_t{1});
  keys.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  keys.set("tokenizer.ggml.add_bos_token", true);
}

GgufMetadata make_metadata(const Options& options, const DecoderSpec& spec) {
  const Family& family = spec.architecture == kOpt.architecture ? kOpt : kLlama;
  GgufMetadata keys;
  keys.set("general.architecture", spec.architecture);
  keys.set("general.type", std::string("model"));
  keys.set("general.name", fmt::format("synthetic {} with {} layers", options.shape, spec.layers));
  keys.set("general.file_type", std::uint32_t{1});  // llama.cpp: mostly F16
  // llama-quantize copies this key but pads to 32, whatever it says.
  keys.set("general.alignment", std::uint32_t{32});
  family.to_gguf(spec, keys);
  write_vocabulary(spec.vocab, keys);
  return keys;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

double matrix_sd(const std::string& name, const DecoderSpec& spec) {
  const bool residual =
      name.find("attn_output") != std::string::npos || name.find("ffn_down") != std::string::npos;
  return residual ? kSd / std::sqrt(2.0 * static_cast<double>(spec.layers)) : kSd;
}

class SyntheticWriter {
 public:
  SyntheticWriter(const Options& options, const DecoderSpec& spec)
      : spec_(spec), seed_(options.seed), pool_(default_thread_count()) {
    for (const TensorShape& tensor : decoder_tensors(spec)) {
      // LLaMA's dense layers have no biases, and no model's head has one.
      const bool bias = ends_with(tensor.name, ".bias");
      if (bias && (!spec.learned_positions || tensor.name == "output.bias")) continue;
      decls_.push_back(
          {tensor.name, tensor.shape, tensor.shape.size() == 1 ? DType::f32 : DType::f16});
    }
    writer_.emplace(options.output, options.force, make_metadata(options, spec), decls_);
  }

  void write() {
    for (std::size_t i = 0; i < decls_.size(); ++i) {
      if (decls_[i].dtype == DType::f32) {
        write_vector(decls_[i]);
      } else {
        write_matrix(decls_[i], seed_ * 0x100000001u + i);
      }
    }
    writer_->finish();
  }

 private:
  void write_vector(const GgufTensorDecl& decl) {
    const float value = ends_with(decl.name, ".bias") ? 0.01f : 1.0f;
    const std::vector<float> values(static_cast<std::size_t>(decl.shape[0]), value);
    writer_->write(std::as_bytes(std::span(values)));
  }

  void write_matrix(const GgufTensorDecl& decl, std::uint64_t tensor_seed) {
    const double sd = matrix_sd(decl.name, spec_);
    const RandomF16& random = random_.try_emplace(sd, sd).first->second;
    const auto elements = static_cast<std::size_t>(decl.shape[0] * decl.shape[1]);
    const std::size_t stripe = kBlock * static_cast<std::size_t>(pool_.size());
    std::vector<std::uint16_t> values(std::min(elements, stripe));
    for (std::size_t begin = 0; begin < elements; begin += stripe) {
      const std::size_t n = std::min(stripe, elements - begin);
      pool_.run(static_cast<int>((n + kBlock - 1) / kBlock), [&](int block, int) {
        const std::size_t from = static_cast<std::size_t>(block) * kBlock;
        random.fill((tensor_seed << 24) + begin / kBlock + static_cast<std::size_t>(block),
                    std::span(values).subspan(from, std::min(kBlock, n - from)));
      });
      writer_->write(std::as_bytes(std::span(values).first(n)));
    }
  }

  DecoderSpec spec_;
  std::uint64_t seed_;
  ThreadPool pool_;
  std::vector<GgufTensorDecl> decls_;
  std::optional<GgufWriter> writer_;
  std::map<double, RandomF16> random_;  // by standard deviation
};

void run(const Options& options) {
  DecoderSpec spec = published_shape(options.shape);
  if (options.layers > 0) spec.layers = options.layers;
  spec.validate(options.shape);
  SyntheticWriter(options, spec).write();
}

}  // namespace
}  // namespace tenfold

int main(int argc, char** argv) {
  tenfold::Options options;
  CLI::App app("Writes a random model of a published shape as an F16 GGUF.", "make_synthetic");
  app.add_option("--shape", options.shape,
                 fmt::format("{}", fmt::join(tenfold::published_shapes(), ", ")))
      ->required();
  app.add_option("--layers", options.layers, "instead of the shape's")->check(CLI::Range(1, 1000));
  app.add_option("--seed", options.seed, "same seed, same file")->capture_default_str();
  app.add_option("-o,--output", options.output, "file to write")->required();
  app.add_flag("--force", options.force, "replace it if it exists");
  try {
    app.parse(argc, argv);
    tenfold::run(options);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const tenfold::Error& error) {
    fmt::print(stderr, "make_synthetic: {}\n", error.what());
    return 1;
  }
}
