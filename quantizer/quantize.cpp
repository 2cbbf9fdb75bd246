#include "quantizer/quantize.h"

#include <fmt/core.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <span>

#include "kernels/error.h"
#include "models/gguf_output.h"
#include "quantizer/calibrated.h"
#include "quantizer/checkpoint.h"
#include "quantizer/fnv.h"
#include "quantizer/rtn/realize.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

MatrixView layout_of(const TensorPlan& plan, const std::vector<ModelTensor>& tensors) {
  const RowReader& rows = tensors[plan.source].rows;
  return layout_of(*plan.matrix, rows.rows(), rows.cols());
}

std::uint64_t elements_of(const ModelTensor& tensor) {
  return static_cast<std::uint64_t>(tensor.rows.rows() * tensor.rows.cols());
}

QuantizeResult measure(const Plan& plan, const std::vector<ModelTensor>& tensors) {
  QuantizeResult result;
  result.split_head = plan.split_head;
  for (const TensorPlan& tensor : plan.tensors) {
    const auto elements = elements_of(tensors[tensor.source]);
    const std::uint64_t bytes = tensor.matrix ? layout_of(tensor, tensors).bytes()
                                              : elements * dtype_traits(tensor.type).bytes;
    const auto add = [&](QuantizedSize& size) {
      size.elements += static_cast<std::int64_t>(elements);
      size.bytes += bytes;
    };
    add(result.all);
    if (tensor.matrix) add(result.quantized);
    ++result.tensors;
  }
  return result;
}

// Adds the keys of packed matrices, and lists all tensors of the file in order.
std::vector<GgufTensorDecl> declare(const Plan& plan, const std::vector<ModelTensor>& tensors,
                                    const std::vector<float>& divisors, GgufMetadata& metadata) {
  metadata.set(std::string(kFormatVersionKey), kFormatVersion);
  std::vector<GgufTensorDecl> decls;
  for (const TensorPlan& tensor : plan.tensors) {
    if (!tensor.matrix) {
      decls.push_back({tensor.name, tensors[tensor.source].info.shape, tensor.type});
      continue;
    }
    const MatrixView layout = layout_of(tensor, tensors);
    metadata.set(std::string(kBandsPrefix) + tensor.name, describe_bands(layout));
    for (GgufTensorDecl& decl : declare_parts(tensor.name, layout)) {
      decls.push_back(std::move(decl));
    }
  }
  if (!divisors.empty()) {
    decls.push_back({kRopeDivisorsName, {static_cast<std::int64_t>(divisors.size())}, DType::f32});
  }
  return decls;
}

// "blk.7.attn_q.weight" -> 7; -1 for tensors outside the layers.
std::int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "blk.";
  std::int64_t layer = -1;
  if (name.starts_with(kPrefix)) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  }
  return layer;
}

struct Role {
  std::string_view name;
  LinearInput input;
  Dense LayerWeights::*dense;
};
constexpr Role kRoles[] = {{".attn_q.", LinearInput::qkv, &LayerWeights::q},
                           {".attn_k.", LinearInput::qkv, &LayerWeights::k},
                           {".attn_v.", LinearInput::qkv, &LayerWeights::v},
                           {".attn_output.", LinearInput::attn_output, &LayerWeights::output},
                           {".ffn_gate.", LinearInput::mlp, &LayerWeights::gate},
                           {".ffn_up.", LinearInput::mlp, &LayerWeights::up},
                           {".ffn_down.", LinearInput::down, &LayerWeights::down}};
const Role& role_of(const std::string& name) {
  for (const Role& role : kRoles) {
    if (name.find(role.name) != std::string::npos) return role;
  }
  throw_error(ErrorCode::unsupported, "tensor \"{}\" has no place in a layer", name);
}

const std::vector<float>& vector_of(const LayerWeights& layer, const std::string& name) {
  const bool bias = name.ends_with(".bias");
  const auto part = [bias](const Norm& norm) -> const std::vector<float>& {
    return bias ? norm.bias : norm.weight;
  };
  if (name.find(".attn_norm.") != std::string::npos) return part(layer.attn_norm);
  if (name.find(".ffn_norm.") != std::string::npos) return part(layer.ffn_norm);
  return (layer.*role_of(name).dense).bias;
}

class Run {
 public:
  Run(const std::shared_ptr<const ModelSource>& source, const std::filesystem::path& output,
      const QuantizeOptions& options,
      const std::function<bool(std::uint64_t, std::uint64_t)>& progress)
      : source_(source),
        output_(output),
        options_(options),
        progress_(progress),
        family_(find_family(*source)),
        spec_(read_spec(family_, *source)),
        tensors_(read_tensors(family_, spec_, *source)),
        pool_(options.threads > 0 ? options.threads : default_thread_count()) {}

  QuantizeResult run() {
    for (const ModelTensor& tensor : tensors_) total_ += elements_of(tensor);
    report(0);
    const Plan plan = make_plan(options_.recipe, tensors_, spec_.tied_head, pool_, source_->path());
    QuantizeResult result = measure(plan, tensors_);
    if (!options_.dry_run) {
      check_space(result.all.bytes);
      write(plan, result);
    }
    return result;
  }

 private:
  // Before hours of work, not after. Finished layers are kept beside the output.
  void check_space(std::uint64_t bytes) const {
    const std::uint64_t needed = needs_calibration(options_.recipe) ? 2 * bytes : bytes;
    std::error_code error;
    const std::filesystem::path folder = std::filesystem::absolute(output_).parent_path();
    const auto space = std::filesystem::space(folder, error);
    if (error || space.available >= needed) return;  // writing will say what is wrong
    throw_error(ErrorCode::io, "{}: needs {} MiB of disk, and only {} MiB are free",
                output_.string(), needed >> 20, space.available >> 20);
  }

  void report(std::uint64_t done) {
    reported_ = std::max(reported_, done);
    if (!progress_ || progress_(reported_, total_)) return;
    if (checkpoint_) {
      throw_error(ErrorCode::cancelled,
                  "interrupted; {} was not written: --resume goes on after {} finished layers",
                  output_.string(), next_layer_);
    }
    throw_error(ErrorCode::cancelled, "interrupted; {} was not written", output_.string());
  }

  void write(const Plan& plan, QuantizeResult& result) {
    GgufMetadata metadata = model_metadata(family_, spec_, *source_);
    metadata.set(std::string(kRecipeKey), to_json(options_.recipe));
    if (needs_calibration(options_.recipe)) {
      start_calibration();
      metadata.set(std::string(kCalibrationHashKey),
                   fmt::format("{:016x}", calibrated_->calibration().hash));
    }
    const std::vector<float> divisors = rope_divisors(spec_);
    std::vector<GgufTensorDecl> decls = declare(plan, tensors_, divisors, metadata);
    GgufWriter writer(output_, options_.overwrite, std::move(metadata), std::move(decls));
    if (plan.split_head) total_ += elements_of(tensors_[plan.tensors.front().source]);
    std::uint64_t done = 0;
    for (const TensorPlan& tensor : plan.tensors) {
      const RowReader& rows = tensors_[tensor.source].rows;
      const std::int64_t layer = layer_of(tensor.name);
      if (calibrated_ && layer >= 0 && layer == next_layer_) {
        if (!restore_layer(plan, layer)) {
          quantize_layer(plan, layer, done);
          checkpoint_->save(layer, layer_parts(plan, layer));
        }
        ++next_layer_;
      }
      if (tensor.matrix && calibrated_ && layer >= 0) {
        QuantizedMatrix& made =
            (calibrated_->layer_weights(layer).*role_of(tensor.name).dense).weight;
        for (const auto& part : parts(made.view)) writer.write(part);
        made = {};
      } else if (calibrated_ && layer >= 0) {  // scales may have been folded into it
        const auto& values = vector_of(calibrated_->layer_weights(layer), tensor.name);
        writer.write(std::as_bytes(std::span(values)));
      } else if (tensor.matrix) {
        write_matrix(tensor, rows, done, writer);
      } else {
        result.clipped += write_rows(rows, tensor.type, writer);
      }
      done += elements_of(tensors_[tensor.source]);
      report(done);
    }
    if (!divisors.empty()) writer.write(std::as_bytes(std::span(divisors)));
    writer.finish();
    if (checkpoint_) checkpoint_->remove();
  }

  void start_calibration() {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(*source_);
    if (tokenizer == nullptr) {
      throw_error(ErrorCode::bad_request, "{} has no tokenizer to calibrate with", source_->path());
    }
    const CalibrationOptions& options = options_.recipe.calibration;
    Calibration calibration = draw_calibration(*tokenizer, calibration_text(options.file), options);
    const auto start = options_.resume ? Checkpoint::Start::resume : Checkpoint::Start::fresh;
    checkpoint_.emplace(output_,
                        fmt::format("{} {:016x} {:016x} {}", to_json(options_.recipe),
                                    calibration.hash, source_fingerprint(), options_.isa),
                        start, options_.overwrite);
    calibrated_ = std::make_unique<CalibratedModel>(source_, std::move(calibration), pool_.size(),
                                                    options_.isa, [this] { report(reported_); });
  }

  // Of names, sizes and the first bytes of all tensors.
  std::uint64_t source_fingerprint() const {
    Fnv hash;
    for (const ModelTensor& tensor : tensors_) {
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

  // What the file holds of a layer, in its order, where the running model has it.
  std::vector<std::span<const std::byte>> layer_parts(const Plan& plan, std::int64_t layer) {
    std::vector<std::span<const std::byte>> result;
    LayerWeights& weights = calibrated_->layer_weights(layer);
    for (const TensorPlan& tensor : plan.tensors) {
      if (layer_of(tensor.name) != layer) continue;
      if (tensor.matrix) {
        for (const auto& part : parts((weights.*role_of(tensor.name).dense).weight.view)) {
          result.push_back(part);
        }
      } else {
        result.push_back(std::as_bytes(std::span(vector_of(weights, tensor.name))));
      }
    }
    return result;
  }

  // false where no earlier run finished the layer.
  bool restore_layer(const Plan& plan, std::int64_t layer) {
    const std::optional<MappedFile> saved = checkpoint_->layer(layer);
    if (!saved) return false;
    LayerWeights& weights = calibrated_->layer_weights(layer);
    for (const TensorPlan& tensor : plan.tensors) {
      if (tensor.matrix && layer_of(tensor.name) == layer) {
        (weights.*role_of(tensor.name).dense).weight = allocate_matrix(layout_of(tensor, tensors_));
      }
    }
    std::span<const std::byte> rest = saved->bytes();
    for (const auto& part : layer_parts(plan, layer)) {
      if (part.size() > rest.size()) {
        throw_file_error(saved->path(), "is shorter than its layer, expected {} bytes more",
                         part.size() - rest.size());
      }
      std::memcpy(const_cast<std::byte*>(part.data()), rest.data(), part.size());
      rest = rest.subspan(part.size());
    }
    if (!rest.empty()) {
      throw_file_error(saved->path(), "is {} bytes longer than its layer", rest.size());
    }
    calibrated_->advance(layer);
    return true;
  }

  void quantize_layer(const Plan& plan, std::int64_t layer, std::uint64_t before) {
    std::vector<CalibratedModel::Matrix> matrices;
    for (const TensorPlan& tensor : plan.tensors) {
      if (!tensor.matrix || layer_of(tensor.name) != layer) continue;
      const Role& role = role_of(tensor.name);
      matrices.push_back({fmt::format("{}: tensor \"{}\"", source_->path(), tensor.name),
                          role.input, &tensors_[tensor.source].rows, *tensor.matrix,
                          &(calibrated_->layer_weights(layer).*role.dense)});
    }
    calibrated_->quantize_layer(
        layer, std::move(matrices), options_.recipe, pool_,
        [&](std::int64_t weights) { report(before + static_cast<std::uint64_t>(weights)); });
  }

  void write_matrix(const TensorPlan& tensor, const RowReader& rows, std::uint64_t before,
                    GgufWriter& writer) {
    const std::string what = fmt::format("{}: tensor \"{}\"", source_->path(), tensor.name);
    const QuantizedMatrix matrix =
        realize(rows, *tensor.matrix, pool_, what, [&](std::int64_t rows_done) {
          report(before + static_cast<std::uint64_t>(rows_done * rows.cols()));
        });
    for (const auto& part : parts(matrix.view)) writer.write(part);
    rows.release();
  }

  std::shared_ptr<const ModelSource> source_;
  const std::filesystem::path& output_;
  const QuantizeOptions& options_;
  const std::function<bool(std::uint64_t, std::uint64_t)>& progress_;
  const Family& family_;
  DecoderSpec spec_;
  std::vector<ModelTensor> tensors_;
  ThreadPool pool_;
  std::uint64_t total_ = 0;                      // weights to go through
  std::uint64_t reported_ = 0;                   // of these, at most, so far
  std::unique_ptr<CalibratedModel> calibrated_;  // of methods that look at activations
  std::optional<Checkpoint> checkpoint_;         // of those
  std::int64_t next_layer_ = 0;
};

}  // namespace

double QuantizedSize::bits_per_weight() const {
  return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
}

QuantizeResult quantize(const std::shared_ptr<const ModelSource>& source,
                        const std::filesystem::path& output, const QuantizeOptions& options,
                        const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  validate(options.recipe);
  return Run(source, output, options, progress).run();
}

}  // namespace tenfold
