#include "quantizer/search/search_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "models/gguf_output.h"
#include "quantizer/calibrated.h"
#include "quantizer/checkpoint.h"
#include "quantizer/identity.h"
#include "runtime/files/json_file.h"
#include "runtime/files/output_file.h"
#include "runtime/files/packed_matrix.h"

namespace tenfold {
namespace {

constexpr const char* kStartFile = "start.gguf";
constexpr const char* kFactorsFile = "start.json";
constexpr const char* kStateFile = "search.json";
constexpr const char* kMovedFile = "moved.gguf";
constexpr std::chrono::minutes kSaveAfter{10};        // whatever the steps
constexpr std::uint64_t kMostWorkValues = 32u << 20;  // of either; 10 Mi at 70 B parameters

void write_text(const std::filesystem::path& path, const std::string& text) {
  OutputFile file(path, true);
  file.write(text);
  file.commit();
}

using Changed = std::map<std::string, std::span<const std::byte>, std::less<>>;

// A file with other bytes in some tensors.
void copy_model(const ModelSource& from, const Changed& changed, GgufMetadata metadata,
                const std::filesystem::path& path, bool overwrite) {
  std::vector<GgufTensorDecl> decls;
  for (const TensorSource& tensor : from.gguf().tensors()) {
    decls.push_back({tensor.name, tensor.shape, tensor.dtype});
  }
  GgufWriter writer(path, overwrite, std::move(metadata), std::move(decls));
  for (const TensorSource& tensor : from.gguf().tensors()) {
    const auto found = changed.find(tensor.name);
    writer.write(found == changed.end() ? tensor.data : found->second);
  }
  writer.finish();
}

// The file of `start` with the layers of `model` in place of its own.
void write_model(const ModelSource& start, const Decoder& model, GgufMetadata metadata,
                 const std::filesystem::path& path, bool overwrite) {
  Changed changed;
  for (std::size_t i = 0; i < model.weights().layers.size(); ++i) {
    for (const LayerNorm role : {LayerNorm::attn, LayerNorm::ffn}) {
      const Norm& norm = norm_of(model.weights().layers[i], role);
      const std::string name = tensor_name(static_cast<std::int64_t>(i), role);
      changed[name + ".weight"] = std::as_bytes(std::span(norm.weight));
      changed[name + ".bias"] = std::as_bytes(std::span(norm.bias));
    }
    for (std::size_t m = 0; m < kLayerMatrices; ++m) {
      const Dense& dense = dense_of(model.weights().layers[i], static_cast<LayerMatrix>(m));
      if (dense.weight.view.empty()) continue;
      const std::string name =
          tensor_name(static_cast<std::int64_t>(i), static_cast<LayerMatrix>(m));
      const auto decls = declare_parts(name + ".weight", dense.weight.view);
      const auto bytes = parts(dense.weight.view);
      for (std::size_t k = 0; k < decls.size(); ++k) changed[decls[k].name] = bytes[k];
      if (!dense.bias.empty()) changed[name + ".bias"] = std::as_bytes(std::span(dense.bias));
    }
  }
  copy_model(start, changed, std::move(metadata), path, overwrite);
}

class SearchRun {
 public:
  SearchRun(const std::shared_ptr<const ModelSource>& source, const std::filesystem::path& output,
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
    QuantizeOptions sizes = options_;
    sizes.recipe.search = {};
    sizes.dry_run = true;
    sizes.resume = false;
    QuantizeResult result = quantize(source_, output_, sizes, {});
    if (options_.dry_run) return result;
    check_output(output_, options_.overwrite);
    check_exact();
    check_spaces(result.all.bytes);
    const Calibration calibration = draw_calibration(*source_, options_.recipe.calibration);
    const auto start = options_.resume ? Checkpoint::Start::resume : Checkpoint::Start::fresh;
    Recipe endless = options_.recipe;  // a longer search goes on with a shorter one
    endless.search.steps = 1;
    checkpoint_.emplace(output_,
                        run_identity(endless, calibration, spec_, tensors_, arithmetic(options_)),
                        start, options_.overwrite);
    make_start();
    const std::string said = search(calibration, result);
    if (finishes()) finish(said, result);
    checkpoint_->remove();
    return result;
  }

 private:
  std::filesystem::path work(const std::string& name) const { return checkpoint_->folder() / name; }

  void make_start() {
    if (std::filesystem::exists(work(kFactorsFile))) return;
    QuantizeOptions start = options_;
    start.recipe.search = {};
    // A step cannot do these for what it rounds anew: they come after the search.
    start.recipe.tune = false;
    start.recipe.learn.codes = LearnedCodes::none;
    start.recipe.supervision = Supervision::none;
    // Which the plan would choose otherwise where nothing is calibrated any more.
    if (!start.recipe.min && start.recipe.bits == 2 && needs_calibration(options_.recipe) &&
        !needs_calibration(start.recipe)) {
      start.recipe.min = MinKind::zero;
    }
    start.overwrite = true;
    start.resume = options_.resume && needs_calibration(start.recipe);
    const QuantizeResult made = part(source_, kStartFile, start);
    nlohmann::ordered_json json{{"clipped", made.clipped},
                                {"factors", nlohmann::ordered_json::array()}};
    for (const LayerFactors& layer : made.factors) json["factors"].push_back(to_json(layer));
    write_text(work(kFactorsFile), json.dump());
  }

  std::vector<LayerFactors> read_start(QuantizeResult& result) const {
    const std::string name = work(kFactorsFile).string();
    const nlohmann::json json = read_json_file(name, kMostWorkValues);
    result.clipped = json_int(json, "clipped", name);
    std::vector<LayerFactors> factors;
    for (const nlohmann::json& layer : json.value("factors", nlohmann::json::array())) {
      factors.push_back(read_factors(layer, name));
    }
    factors.resize(std::max(factors.size(), static_cast<std::size_t>(spec_.layers)));
    for (const ModelTensor& tensor : tensors_) {
      const std::int64_t layer = layer_of(tensor.info.name);
      if (layer < 0 || !tensor.info.is_matrix()) continue;
      const Factors& of = factors[static_cast<std::size_t>(layer)]
                                 [static_cast<std::size_t>(layer_matrix(tensor.info.name))];
      check_factors(of.col, tensor.rows.cols(), name);
      check_factors(of.row, tensor.rows.rows(), name);
    }
    return factors;
  }

  static void check_factors(const std::vector<float>& factors, std::int64_t count,
                            const std::string& name) {
    const auto usable = [](float factor) { return std::isfinite(factor) && factor > 0; };
    if (factors.empty()) return;
    if (static_cast<std::int64_t>(factors.size()) != count ||
        !std::all_of(factors.begin(), factors.end(), usable)) {
      throw_file_error(name, "holds the factors of another model");
    }
  }

  // What the search goes on with must be of the start's layouts.
  static void check_layouts(const Decoder& start, const Decoder& model, const std::string& name) {
    for (std::size_t i = 0; i < start.weights().layers.size(); ++i) {
      for (std::size_t m = 0; m < kLayerMatrices; ++m) {
        const auto role = static_cast<LayerMatrix>(m);
        if (model.weights().layers.size() != start.weights().layers.size() ||
            !same_layout(dense_of(start.weights().layers[i], role).weight.view,
                         dense_of(model.weights().layers[i], role).weight.view)) {
          throw_file_error(name, "is not of the layout that the search began with");
        }
      }
    }
  }

  // Whether the recipe has what a step cannot do for what it rounds anew: that comes last.
  bool finishes() const {
    return options_.recipe.tune || options_.recipe.supervision != Supervision::none;
  }

  // What such a run learns from is the moved source, which must be the source.
  void check_exact() const {
    const SearchOptions& wanted = options_.recipe.search;
    if (!finishes() || !wanted.ffn || !wanted.rotate || wanted.local > 0) return;
    for (const Coupling& coupling : couplings_of(spec_)) {
      if (coupling.rotation != Exactness::approximate) continue;
      throw_error(ErrorCode::bad_request,
                  "turning the channels of {} changes what the model computes, so with tune or "
                  "--fias it takes --moves perm,scale or a screened search",
                  coupling.name);
    }
  }

  // The start and two saved models, or the output; a moved source in float32, and what is made of
  // it.
  void check_spaces(std::uint64_t bytes) const {
    if (std::filesystem::exists(output_.string() + ".work")) return;  // which holds a part of it
    std::uint64_t moved = 0;
    for (const ModelTensor& tensor : tensors_) {
      moved += static_cast<std::uint64_t>(tensor.rows.rows() * tensor.rows.cols()) * sizeof(float);
    }
    check_space(output_, finishes() ? 4 * bytes + moved : 3 * bytes);
  }

  // Returns what the file shall say of the search.
  std::string search(const Calibration& calibration, QuantizeResult& result) {
    const auto start_source = std::make_shared<const ModelSource>(work(kStartFile));
    if (const std::string* losses = start_source->gguf().metadata().get_string(kLossesKey)) {
      result.losses = *losses;
    }
    std::optional<SearchState> state;
    std::string model_file = kStartFile;
    if (std::filesystem::exists(work(kStateFile))) {
      const std::string name = work(kStateFile).string();
      const nlohmann::json json = read_json_file(name, kMostWorkValues);
      state = read_search_state(json, spec_, name);
      model_file = model_name(state->steps);
      if (state->steps > options_.recipe.search.steps) {
        throw_error(ErrorCode::bad_request, "{} has gone {} steps already, more than {}", name,
                    state->steps, options_.recipe.search.steps);
      }
    }
    const std::unique_ptr<Decoder> start = load_decoder(start_source, RowOrder::gguf);
    const std::unique_ptr<Decoder> model =
        load_decoder(std::make_shared<const ModelSource>(work(model_file)), RowOrder::gguf);
    check_layouts(*start, *model, work(model_file).string());
    std::unique_ptr<Decoder> teacher = load_decoder(source_, RowOrder::gguf);
    const SearchOptions& wanted = options_.recipe.search;
    const auto sequences = static_cast<std::int64_t>(calibration.sequences.size());
    const std::int64_t held_out = held_out_sequences(sequences);
    Objective objective(
        *model, *teacher, calibration, held_out,
        {wanted.alpha, wanted.matched, wanted.early, wanted.target},
        {device_options(options_, pool_.size()), checkpoint_->folder(), options_.spill_above},
        [this] { look_for_interrupt(); });
    teacher.reset();
    const std::vector<LayerFactors> factors = read_start(result);
    Search search(tensors_, factors, *start, *model, objective, options_.recipe, pool_);
    if (state) search.resume(*std::move(state));
    go_on(search, *model, *start_source);
    result.search = search.state().counts;
    const std::string said = summary(search.state(), objective);
    if (finishes()) {
      save(search, *model, *start_source);
      write_moved(search, work(kMovedFile));
      return said;
    }
    GgufMetadata metadata = with_search(start_source->gguf().metadata(), said);
    metadata.set(std::string(kCalibrationHashKey), fmt::format("{:016x}", calibration.hash));
    write_model(*start_source, *model, std::move(metadata), output_, options_.overwrite);
    return said;
  }

  void go_on(Search& search, const Decoder& model, const ModelSource& start) {
    const SearchOptions& wanted = options_.recipe.search;
    searching_ = true;
    const auto goes_on = [&] {
      const SearchState& state = search.state();
      const std::int64_t patience = wanted.patience * search.steps_of_a_round();
      return state.steps < wanted.steps &&
             (patience == 0 || state.steps - last_improvement(state) < patience);
    };
    using Clock = std::chrono::steady_clock;
    Clock::time_point last_saved = Clock::now();
    while (goes_on()) {
      const SearchStep step = search.step();
      const bool saved =
          search.state().steps % std::max<std::int64_t>(1, options_.checkpoint_every) == 0 ||
          Clock::now() - last_saved > kSaveAfter;
      if (saved) {
        save(search, model, start);
        last_saved = Clock::now();
      }
      if (options_.on_search_step && !options_.on_search_step(step, search.state().counts)) {
        if (!saved) save(search, model, start);
        throw_error(ErrorCode::cancelled,
                    "interrupted after {} steps; {} was not written: --resume goes on, and {} is "
                    "the model so far",
                    search.state().steps, output_.string(),
                    work(model_name(search.state().steps)).string());
      }
    }
  }

  // The source as the search moved it, in float32.
  void write_moved(const Search& search, const std::filesystem::path& path) const {
    std::vector<GgufTensorDecl> decls;
    for (const ModelTensor& tensor : tensors_) {
      decls.push_back({tensor.info.name, tensor.info.shape, DType::f32});
    }
    const std::vector<float> divisors = rope_divisors(spec_);
    if (!divisors.empty()) {
      decls.push_back(
          {kRopeDivisorsName, {static_cast<std::int64_t>(divisors.size())}, DType::f32});
    }
    GgufWriter writer(path, true, model_metadata(family_, spec_, *source_), std::move(decls));
    std::optional<FloatLayer> moved;
    std::int64_t at = -1;
    for (const ModelTensor& tensor : tensors_) {
      const std::int64_t layer = layer_of(tensor.info.name);
      if (layer < 0) {
        write_rows(tensor.rows, DType::f32, writer);
        continue;
      }
      if (layer != at) moved = search.moved_layer(layer);
      at = layer;
      writer.write(std::as_bytes(std::span(part_of(*moved, tensor.info.name))));
    }
    if (!divisors.empty()) writer.write(std::as_bytes(std::span(divisors)));
    writer.finish();
  }

  static const std::vector<float>& part_of(const FloatLayer& layer, const std::string& name) {
    const bool bias = name.ends_with(".bias");
    for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
      if (!name.starts_with(tensor_name(layer_of(name), norm) + ".")) continue;
      return bias ? layer[norm].bias : layer[norm].weight;
    }
    const FloatLayer::Part& part = layer[layer_matrix(name)];
    return bias ? part.bias : part.weight;
  }

  // Quantizes the moved source by the whole recipe.
  void finish(const std::string& summary, QuantizeResult& result) {
    // More steps move other weights: what was made of fewer is not gone on with.
    const std::string file = fmt::format("final-{}.gguf", options_.recipe.search.steps);
    QuantizeOptions last = options_;
    last.recipe.search = {};
    last.overwrite = true;
    last.resume = options_.resume && std::filesystem::exists(work(file).string() + ".work");
    const auto moved = std::make_shared<const ModelSource>(work(kMovedFile));
    const QuantizeResult made = part(moved, file, last);
    result.clipped = made.clipped;
    result.losses = made.losses;
    const ModelSource done(work(file));
    copy_model(done, {}, with_search(done.gguf().metadata(), summary), output_, options_.overwrite);
  }

  // quantize(), whose files are of this run.
  QuantizeResult part(const std::shared_ptr<const ModelSource>& source, const std::string& file,
                      const QuantizeOptions& options) const {
    try {
      return quantize(source, work(file), options, progress_);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::cancelled) interrupted();
      throw;
    }
  }

  GgufMetadata with_search(GgufMetadata metadata, const std::string& summary) const {
    metadata.set(std::string(kRecipeKey), to_json(options_.recipe));
    metadata.set(std::string(kSearchKey), summary);
    return metadata;
  }

  static std::string model_name(std::int64_t steps) { return fmt::format("step-{}.gguf", steps); }

  // The state names the model it belongs to, so the two change together.
  void save(const Search& search, const Decoder& model, const ModelSource& start) const {
    const std::string name = model_name(search.state().steps);
    GgufMetadata metadata = start.gguf().metadata();
    metadata.set(std::string(kRecipeKey), to_json(options_.recipe));
    write_model(start, model, std::move(metadata), work(name), true);
    write_text(work(kStateFile), to_json(search.state()).dump());
    for (const auto& entry : std::filesystem::directory_iterator(checkpoint_->folder())) {
      const std::string other = entry.path().filename().string();
      std::error_code ignored;
      if (other.starts_with("step-") && other != name) {
        std::filesystem::remove(entry.path(), ignored);
      }
    }
  }

  std::string summary(const SearchState& state, const Objective& objective) const {
    nlohmann::ordered_json json{{"steps", state.steps}};
    json.update(to_json(state.counts));
    json["start"] = to_json(state.start);
    json["start_held_out"] = state.start_held_out;
    json["loss"] = objective.loss();
    json["held_out"] = objective.held_out_loss();
    json["history"] = nlohmann::ordered_json::array();
    for (const SearchStep& step : state.history) json["history"].push_back(to_json(step));
    return json.dump();
  }

  // Steps are not broken off.
  void look_for_interrupt() const {
    if (!searching_ && progress_ && !progress_(0, 1)) interrupted();
  }

  [[noreturn]] void interrupted() const {
    throw_error(ErrorCode::cancelled, "interrupted; {} was not written: --resume goes on",
                output_.string());
  }

  std::shared_ptr<const ModelSource> source_;
  const std::filesystem::path& output_;
  const QuantizeOptions& options_;
  const std::function<bool(std::uint64_t, std::uint64_t)>& progress_;
  const Family& family_;
  DecoderSpec spec_;
  std::vector<ModelTensor> tensors_;
  ThreadPool pool_;
  std::optional<Checkpoint> checkpoint_;
  bool searching_ = false;
};

}  // namespace

QuantizeResult search_model(const std::shared_ptr<const ModelSource>& source,
                            const std::filesystem::path& output, const QuantizeOptions& options,
                            const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  return SearchRun(source, output, options, progress).run();
}

}  // namespace tenfold
