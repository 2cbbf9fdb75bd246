#pragma once
// The one decoder that runs every family: pre- or post-norm, RMS or layer norm, rotary or learned
// positions, gated or plain MLP, tied or separate head.

#include <memory>

#include "models/spec.h"
#include "models/weights.h"
#include "runtime/model.h"

namespace tenfold {

class Decoder : public Model {
 public:
  // `source` stays alive with the decoder: weights may point into its mapped files.
  Decoder(DecoderSpec spec, DecoderWeights weights, std::shared_ptr<const ModelSource> source);

  const ModelInfo& info() const noexcept override { return info_; }
  const DecoderSpec& spec() const noexcept { return spec_; }
  // To look at and to replace, matrix by matrix, with others of the same shape.
  DecoderWeights& weights() noexcept { return weights_; }
  const DecoderWeights& weights() const noexcept { return weights_; }
  void begin(const Batch& batch, Workspace& ws) const override;
  void embed(const Batch& batch, Workspace& ws) const override;
  void layer(std::int64_t i, const Batch& batch, const KvCache& kv, Workspace& ws) const override;
  void head(const Batch& batch, Workspace& ws) const override;

 private:
  // false where the workspace's input tap ended the layer.
  bool attention_block(std::int64_t i, const Batch& batch, const KvCache& kv, Workspace& ws) const;
  void mlp_block(std::int64_t i, std::int64_t tokens, Workspace& ws) const;
  void send_angles(const Batch& batch, Workspace& ws, Scratch& to,
                   double (*function)(double)) const;
  void normalize(const Norm& norm, const float* x, std::int64_t tokens, float* y,
                 Workspace& ws) const;

  DecoderSpec spec_;
  DecoderWeights weights_;
  std::vector<double> frequencies_;  // [head_dim / 2]
  ModelInfo info_;
  std::shared_ptr<const ModelSource> source_;
};

// Finds the family, reads and checks everything, maps or dequantizes the weights.
std::unique_ptr<Model> load_model(std::shared_ptr<const ModelSource> source);
// In GGUF's order rows are as RowReader reads them: what quantizing replaces fits.
std::unique_ptr<Decoder> load_decoder(std::shared_ptr<const ModelSource> source, RowOrder order);

}  // namespace tenfold
