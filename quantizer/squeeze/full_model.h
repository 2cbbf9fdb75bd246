#pragma once
// The full-precision model beside the one that is being quantized, on the same text, layer by layer
// (FIAS: what a layer would meet if nothing before it had been rounded).

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/buffer.h"
#include "models/decoder.h"
#include "runtime/workspace.h"

namespace tenfold {

class FullModel {
 public:
  // streams: what enters the first layer, [sequences][floats].
  FullModel(const std::shared_ptr<const ModelSource>& source, Buffer streams, std::size_t floats);

  // What the layer, the next one, gives to the matrices of `input`: [tokens, cols]. batch: of the
  // sequence; ws.x and the positions in kv are overwritten.
  std::vector<float> input(std::int64_t layer, LinearInput input, std::size_t sequence,
                           const Batch& batch, const KvCache& kv, Workspace& ws) const;
  // Moves a sequence on over the layer.
  void advance(std::int64_t layer, std::size_t sequence, const Batch& batch, const KvCache& kv,
               Workspace& ws);
  void forget(std::int64_t layer);  // all sequences are past it

 private:
  std::unique_ptr<Decoder> model_;
  Buffer streams_;
  std::size_t floats_;
};

}  // namespace tenfold
