#include "quantizer/quantize.h"

#include <fmt/core.h>

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "kernels/cpu/isa.h"
#include "kernels/error.h"
#include "models/gguf_output.h"
#include "quantizer/allocate/allocate.h"
#include "quantizer/checkpoint.h"
#include "quantizer/identity.h"
#include "quantizer/roles.h"
#include "quantizer/rtn/realize.h"
#include "quantizer/search/search_model.h"
#include "runtime/files/json_file.h"
#include "runtime/files/output_file.h"
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
  std::uint32_t version = 1;
  std::vector<GgufTensorDecl> decls;
  for (const TensorPlan& tensor : plan.tensors) {
    if (!tensor.matrix) {
      decls.push_back({tensor.name, tensors[tensor.source].info.shape, tensor.type});
      continue;
    }
    const MatrixView layout = layout_of(tensor, tensors);
    version = std::max(version, format_version(layout));
    metadata.set(std::string(kBandsPrefix) + tensor.name, describe_bands(layout));
    for (GgufTensorDecl& decl : declare_parts(tensor.name, layout)) {
      decls.push_back(std::move(decl));
    }
  }
  metadata.set(std::string(kFormatVersionKey), version);
  if (!divisors.empty()) {
    decls.push_back({kRopeDivisorsName, {static_cast<std::int64_t>(divisors.size())}, DType::f32});
  }
  return decls;
}

const std::vector<float>& vector_of(LayerWeights& layer, const std::string& name) {
  const bool bias = name.ends_with(".bias");
  const auto part = [bias](const Norm& norm) -> const std::vector<float>& {
    return bias ? norm.bias : norm.weight;
  };
  if (name.find(".attn_norm.") != std::string::npos) return part(layer.attn_norm);
  if (name.find(".ffn_norm.") != std::string::npos) return part(layer.ffn_norm);
  return dense_of(layer, layer_matrix(name)).bias;
}

constexpr const char* kFactorsNote = "factors";  // of a finished layer

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
    if (options_.resume && !needs_calibration(options_.recipe)) {
      throw_error(ErrorCode::bad_request,
                  "there is nothing to resume: a recipe without calibration runs at once");
    }
    for (const ModelTensor& tensor : tensors_) total_ += elements_of(tensor);
    report(0);
    const Plan plan = make_plan(options_.recipe, tensors_, spec_.tied_head, pool_, source_->path());
    QuantizeResult result = measure(plan, tensors_);
    if (!options_.dry_run) {
      check_output(output_, options_.overwrite);
      // Before hours of work, not after. Finished layers are kept beside the output.
      check_space(output_,
                  needs_calibration(options_.recipe) ? 2 * result.all.bytes : result.all.bytes);
      write(plan, result);
    }
    return result;
  }

  PlannedSize size() {
    const Plan plan = make_plan(options_.recipe, tensors_, spec_.tied_head, pool_, source_->path());
    GgufMetadata metadata = model_metadata(family_, spec_, *source_);
    metadata.set(std::string(kRecipeKey), to_json(options_.recipe));
    std::vector<GgufTensorDecl> decls = declare(plan, tensors_, rope_divisors(spec_), metadata);
    PlannedSize size;
    size.file = gguf_bytes(std::move(metadata), decls);
    for (const TensorPlan& tensor : plan.tensors) {
      if (!tensor.matrix || layer_of(tensor.name) < 0) continue;
      size.layers += layout_of(tensor, tensors_).bytes();
    }
    return size;
  }

 private:
  void report(std::uint64_t done) {
    reported_ = std::max(reported_, done);
    if (!progress_ || progress_(reported_, total_)) return;
    if (checkpoint_) {
      throw_error(ErrorCode::cancelled,
                  "interrupted; {} was not written: --resume goes on after {} finished layers",
                  output_.string(), finished_layers_);
    }
    throw_error(ErrorCode::cancelled, "interrupted; {} was not written", output_.string());
  }

  void write(const Plan& plan, QuantizeResult& result) {
    if (plan.split_head) total_ += elements_of(tensors_[plan.tensors.front().source]);
    GgufMetadata metadata = model_metadata(family_, spec_, *source_);
    metadata.set(std::string(kRecipeKey), to_json(options_.recipe));
    if (!options_.allocation.empty()) {
      metadata.set(std::string(kAllocationKey), options_.allocation);
    }
    if (needs_calibration(options_.recipe)) {
      start_calibration();
      metadata.set(std::string(kCalibrationHashKey),
                   fmt::format("{:016x}", calibrated_->calibration().hash));
      result.losses = make_layers(plan, result.factors);
      metadata.set(std::string(kLossesKey), result.losses);
      calibrated_.reset();
    }
    const std::vector<float> divisors = rope_divisors(spec_);
    std::vector<GgufTensorDecl> decls = declare(plan, tensors_, divisors, metadata);
    GgufWriter writer(output_, options_.overwrite, std::move(metadata), std::move(decls));
    std::uint64_t done = 0;
    std::optional<MappedFile> made;  // the layer at hand, where an earlier step made it
    std::int64_t opened = -1;
    std::size_t used = 0;
    for (const TensorPlan& tensor : plan.tensors) {
      const RowReader& rows = tensors_[tensor.source].rows;
      const std::int64_t layer = step_of(plan, tensor);
      if (checkpoint_ && layer >= 0) {
        if (layer != opened) {
          made = checkpoint_->layer(layer);
          used = 0;
          opened = layer;
        }
        for (const std::size_t size : part_sizes(tensor)) {
          if (!made || made->bytes().size() - used < size) {
            throw_file_error(checkpoint_->folder().string(), "layer {} is no longer whole", layer);
          }
          writer.write(made->bytes().subspan(used, size));
          used += size;
        }
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

  // Makes every layer and leaves it in the checkpoint's folder. Returns what became of them, JSON.
  std::string make_layers(const Plan& plan, std::vector<LayerFactors>& factors) {
    nlohmann::ordered_json losses = nlohmann::ordered_json::array();
    std::uint64_t done = 0;
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      if (!restore_layer(plan, layer)) {
        const LayerLosses made = quantize_layer(plan, layer, done);
        nlohmann::ordered_json kept = to_json(made);
        kept[kFactorsNote] = to_json(made.factors);
        checkpoint_->save(layer, layer_parts(plan, layer), kept.dump());
      }
      ++finished_layers_;
      nlohmann::ordered_json kept = note(layer);
      factors.push_back(read_factors(kept[kFactorsNote], checkpoint_->folder().string()));
      kept.erase(kFactorsNote);
      losses.push_back(std::move(kept));
      calibrated_->layer_weights(layer) = {};
      for (const TensorPlan& tensor : plan.tensors) {
        if (layer_of(tensor.name) == layer) done += elements_of(tensors_[tensor.source]);
      }
      report(done);
    }
    if (plan.calibrated_head) {
      make_head(plan, done);
      losses.push_back({{"head", note(spec_.layers)}});
    }
    return losses.dump();
  }

  // Kept as one more layer.
  void make_head(const Plan& plan, std::uint64_t before) {
    const TensorPlan& tensor = plan.tensors[*plan.calibrated_head];
    const std::optional<MappedFile> saved = checkpoint_->layer(spec_.layers);
    std::size_t size = 0;
    for (const std::size_t part : part_sizes(tensor)) size += part;
    if (saved && saved->bytes().size() != size) {
      throw_file_error(saved->path(), "the head has {} bytes, expected {}", saved->bytes().size(),
                       size);
    }
    if (!saved) {
      const CalibratedModel::Head head = calibrated_->quantize_head(
          weights_of(tensor), pool_,
          [&](std::int64_t weights) { report(before + static_cast<std::uint64_t>(weights)); });
      checkpoint_->save(spec_.layers, parts(head.weight.view), to_json(head.loss).dump());
    }
  }

  // The layer a tensor is made with; -1 where it is made by itself.
  std::int64_t step_of(const Plan& plan, const TensorPlan& tensor) const {
    const bool head = plan.calibrated_head && &tensor == &plan.tensors[*plan.calibrated_head];
    return head ? spec_.layers : layer_of(tensor.name);
  }

  nlohmann::ordered_json note(std::int64_t layer) const {
    const std::string name =
        fmt::format("{}: layer-{}.json", checkpoint_->folder().string(), layer);
    return nlohmann::ordered_json(parse_json(checkpoint_->note(layer), name));
  }

  // Bytes of what the file holds of a tensor, in order.
  std::vector<std::size_t> part_sizes(const TensorPlan& tensor) const {
    std::vector<std::size_t> sizes;
    if (!tensor.matrix) {
      sizes.push_back(elements_of(tensors_[tensor.source]) * dtype_traits(tensor.type).bytes);
      return sizes;
    }
    const MatrixView layout = layout_of(tensor, tensors_);
    for (const auto& part : parts(layout)) sizes.push_back(part.size());
    return sizes;
  }

  void start_calibration() {
    Calibration calibration = draw_calibration(*source_, options_.recipe.calibration);
    const auto start = options_.resume ? Checkpoint::Start::resume : Checkpoint::Start::fresh;
    checkpoint_.emplace(
        output_, run_identity(options_.recipe, calibration, spec_, tensors_, arithmetic(options_)),
        start, options_.overwrite);
    calibrated_ = std::make_unique<CalibratedModel>(
        source_, std::move(calibration), options_.recipe,
        CalibratedModel::Resources{device_options(options_, pool_.size()), checkpoint_->folder(),
                                   options_.spill_above},
        [this] { report(reported_); });
  }

  // What the file holds of a layer, in its order, where the running model has it.
  std::vector<std::span<const std::byte>> layer_parts(const Plan& plan, std::int64_t layer) {
    std::vector<std::span<const std::byte>> result;
    LayerWeights& weights = calibrated_->layer_weights(layer);
    for (const TensorPlan& tensor : plan.tensors) {
      if (layer_of(tensor.name) != layer) continue;
      if (tensor.matrix) {
        for (const auto& part : parts(dense_of(weights, layer_matrix(tensor.name)).weight.view)) {
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
    calibrated_->pass_layer(layer, layer_matrices(plan, layer), pool_,
                            [&] { read_layer(plan, layer, *saved); });
    return true;
  }

  void read_layer(const Plan& plan, std::int64_t layer, const MappedFile& saved) {
    LayerWeights& weights = calibrated_->layer_weights(layer);
    for (const TensorPlan& tensor : plan.tensors) {
      if (tensor.matrix && layer_of(tensor.name) == layer) {
        dense_of(weights, layer_matrix(tensor.name)).weight =
            allocate_matrix(layout_of(tensor, tensors_));
      }
    }
    std::span<const std::byte> rest = saved.bytes();
    for (const auto& part : layer_parts(plan, layer)) {
      if (part.size() > rest.size()) {
        throw_file_error(saved.path(), "is shorter than its layer, expected {} bytes more",
                         part.size() - rest.size());
      }
      std::memcpy(const_cast<std::byte*>(part.data()), rest.data(), part.size());
      rest = rest.subspan(part.size());
    }
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      const MatrixView& view = dense_of(weights, static_cast<LayerMatrix>(m)).weight.view;
      if (view.map.mask == nullptr) continue;
      if (!follow_mask(view, const_cast<std::int32_t*>(view.map.source))) {
        throw_file_error(saved.path(), "marks other columns than its bands have");
      }
    }
    if (!rest.empty()) {
      throw_file_error(saved.path(), "is {} bytes longer than its layer", rest.size());
    }
  }

  std::vector<CalibratedModel::Matrix> layer_matrices(const Plan& plan, std::int64_t layer) const {
    std::vector<CalibratedModel::Matrix> matrices;
    for (const TensorPlan& tensor : plan.tensors) {
      if (!tensor.matrix || layer_of(tensor.name) != layer) continue;
      matrices.push_back({weights_of(tensor), layer_matrix(tensor.name)});
    }
    return matrices;
  }

  CalibratedModel::Weights weights_of(const TensorPlan& tensor) const {
    return {fmt::format("{}: tensor \"{}\"", source_->path(), tensor.name),
            &tensors_[tensor.source].rows, *tensor.matrix};
  }

  LayerLosses quantize_layer(const Plan& plan, std::int64_t layer, std::uint64_t before) {
    return calibrated_->quantize_layer(
        layer, layer_matrices(plan, layer), pool_,
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
  std::int64_t finished_layers_ = 0;
};

}  // namespace

DeviceOptions device_options(const QuantizeOptions& options, int threads) {
  return {options.device, {threads, options.isa, Activations::int8}};
}

std::string arithmetic(const QuantizeOptions& options) {
  return options.device == "cpu" ? choose_kernels(options.isa).isa : options.device;
}

double QuantizedSize::bits_per_weight() const {
  return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
}

QuantizeResult quantize(const std::shared_ptr<const ModelSource>& source,
                        const std::filesystem::path& output, const QuantizeOptions& options,
                        const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  validate(options.recipe);
  const AllocateOptions& allocate = options.recipe.allocate;
  if (allocate.kind != Allocation::none && !allocate.solved) {
    return allocate_and_quantize(source, output, options, progress);
  }
  if (options.recipe.search.steps > 0) return search_model(source, output, options, progress);
  return Run(source, output, options, progress).run();
}

PlannedSize planned_size(const std::shared_ptr<const ModelSource>& source,
                         const QuantizeOptions& options) {
  return Run(source, {}, options, {}).size();
}

}  // namespace tenfold
