// InvarExplore over whole models: what it accepts, saves and resumes.

#include "quantizer/search/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>

#include "quantizer/quantize.h"
#include "quantizer/search/moves.h"
#include "quantizer/search/search_model.h"
#include "runtime/divergence.h"
#include "tests/support/expect_error.h"
#include "tests/support/prose.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::prose;
using testing::read_file;
using testing::ScratchFolder;

class SearchOf : public ::testing::TestWithParam<const char*> {
 protected:
  explicit SearchOf(const char* model = GetParam())
      : model_(testing::tiny_model(folder_, model)),
        source_(std::make_shared<const ModelSource>(model_)) {}

  QuantizeOptions options(std::int64_t steps) const {
    QuantizeOptions options;
    options.recipe.bits = 2;
    options.recipe.group = 32;
    options.recipe.range = RangeKind::minmax;
    options.recipe.calibration = {text_, 9, 32, 1};
    SearchOptions& search = options.recipe.search;
    search.steps = steps;
    search.together = 1;
    search.ranked = 0;
    search.target = SearchTarget::text;
    search.local = 16;
    search.patience = 0;
    options.threads = 2;
    return options;
  }
  std::filesystem::path make(const std::string& name, const QuantizeOptions& options) {
    const auto path = folder_ / name;
    quantize(source_, path, options, {});
    return path;
  }
  static nlohmann::json search_of(const std::filesystem::path& path) {
    const GgufFile file(path);
    return nlohmann::json::parse(*file.metadata().get_string(kSearchKey));
  }
  // From the source, of what the file predicts.
  double divergence_of(const std::filesystem::path& path) {
    LoadedModel a(model_);
    LoadedModel b(path);
    b.ws.backend = make_cpu_backend({2, "", Activations::int8x2});
    const auto tokenizer = load_tokenizer(*source_);
    PerplexityOptions windows;
    windows.window = 128;
    return divergence({a.model.get(), &a.ws}, {b.model.get(), &b.ws},
                      tokenizer->encode(prose().substr(0, 2000), {}), windows, {})
        .mean;
  }
  // What the file's own packed weights lose, run afresh.
  double loss_of(const std::filesystem::path& path, const QuantizeOptions& options,
                 double* held_out) {
    const auto made = load_decoder(std::make_shared<const ModelSource>(path), RowOrder::gguf);
    const auto teacher = load_decoder(source_, RowOrder::gguf);
    const auto tokenizer = load_tokenizer(*source_);
    const Calibration calibration =
        draw_calibration(*tokenizer, prose(), options.recipe.calibration);
    const SearchOptions& search = options.recipe.search;
    Objective objective(*made, *teacher, calibration, 1,
                        {search.alpha, search.matched, search.early, search.target},
                        {{"cpu", {1, ""}}, folder_.path(), 0}, [] {});
    const nlohmann::json said = search_of(path);
    objective.set_start({said["start"]["nll"], said["start"]["mse"]});
    *held_out = objective.held_out_loss();
    return objective.loss();
  }

  ScratchFolder folder_;
  std::filesystem::path model_;
  std::shared_ptr<const ModelSource> source_;
  std::string text_ = folder_.write("prose.txt", prose()).string();
};
INSTANTIATE_TEST_SUITE_P(Models, SearchOf,
                         ::testing::Values("llama-mha", "llama-gqa-rope3-tied",
                                           "llama-headdim-bias", "opt-pre-ln", "opt-post-ln-proj"));

class SearchTest : public SearchOf {
 protected:
  SearchTest() : SearchOf("opt-pre-ln") {}

  void resumes_ranked(const char* pass) {
    for (const std::int64_t together : {2, 0}) {
      QuantizeOptions with = options(20);
      with.recipe.search.together = together;
      with.recipe.search.ranked = 2;
      resumes(with, pass);
    }
  }
  // From interruptions at several steps, to what a run without them writes.
  void resumes(QuantizeOptions with, const char* pass = "gptq") {
    set_passes(with.recipe, {pass});
    const auto whole = read_file(make("whole.gguf", with));
    with.checkpoint_every = 6;
    const auto path = folder_ / "resumed.gguf";
    for (const int stop_after : {4, 9, 1}) {
      int steps = 0;
      with.on_search_step = [&](const SearchStep&, const SearchCounts&) {
        return ++steps < stop_after;
      };
      const std::string said =
          testing::expect_error(ErrorCode::cancelled, [&] { quantize(source_, path, with, {}); });
      EXPECT_NE(said.find("--resume goes on"), std::string::npos) << said;
      EXPECT_FALSE(std::filesystem::exists(path));
      with.resume = true;
    }
    with.on_search_step = {};
    quantize(source_, path, with, {});
    EXPECT_EQ(whole, read_file(path));
    EXPECT_FALSE(std::filesystem::exists(path.string() + ".work"));
    std::filesystem::remove(folder_ / "whole.gguf");
    std::filesystem::remove(path);
  }
};

TEST_P(SearchOf, AcceptsOnlyWhatIsBetterAndSavesWhatItAccepted) {
  for (const char* passes : {"rtn", "awq", "gptq", "ranked"}) {
    const bool ranked = std::string_view(passes) == "ranked";
    QuantizeOptions with = options(24);
    set_passes(with.recipe, {ranked ? "gptq" : passes});
    if (with.recipe.method == Method::gptq) {
      with.recipe.range = RangeKind::mse;
      with.recipe.search.target = SearchTarget::teacher;
    }
    if (ranked) {
      with.recipe.search = {};  // as it is where nothing else is asked for
      with.recipe.search.steps = 8;
      with.recipe.search.local = 16;
    }
    const auto path = make(std::string(passes) + ".gguf", with);
    const nlohmann::json said = search_of(path);
    double last = 1 + with.recipe.search.alpha;
    for (const nlohmann::json& step : said["history"]) {
      EXPECT_LT(step["loss"], last) << passes;
      last = step["loss"];
    }
    EXPECT_GT(said["accepted"], 0) << passes;
    EXPECT_EQ(said["loss"], last) << passes;
    double held_out = 0;
    EXPECT_EQ(loss_of(path, with, &held_out), said["loss"]) << passes;
    EXPECT_EQ(held_out, said["held_out"]) << passes;
  }
}

// At 8 bits next to nothing is lost, so what a move does to the function would show.
TEST_P(SearchOf, MovesKeepTheFunction) {
  QuantizeOptions with = options(16);
  with.recipe.bits = 8;
  with.recipe.search.local = 0;
  with.recipe.search.scale_step = 0.1;
  with.recipe.search.rotate_step = 0.5;
  with.recipe.search.ffn = false;  // whose rotation is not exact in OPT
  QuantizeOptions plain = with;
  plain.recipe.search.steps = 0;
  const double rounded = divergence_of(make("plain.gguf", plain));
  const auto check = [&](const std::string& name) {
    EXPECT_LT(divergence_of(make(name, with)), 1.5 * rounded);
    EXPECT_GT(search_of(folder_ / name)["accepted"], 0);
  };
  check("attention.gguf");
  with.recipe.search.ffn = true;
  with.recipe.search.rotate = false;
  check("all.gguf");
}

TEST_F(SearchTest, GivesTheSameFileForAnyNumberOfThreads) {
  for (const std::int64_t ranked : {0, 2}) {
    QuantizeOptions with = options(12);
    with.recipe.search.together = 0;
    with.recipe.search.ranked = ranked;
    with.overwrite = true;
    with.threads = 1;
    const auto one = read_file(make("one.gguf", with));
    with.threads = 2;
    EXPECT_EQ(one, read_file(make("two.gguf", with))) << ranked;
    with.recipe.calibration.seed = 2;
    EXPECT_NE(one, read_file(make("other.gguf", with))) << ranked;
  }
}

TEST(LayersOfAStep, AreWhatIsAskedOrWhatMemoryIsMeantFor) {
  SearchOptions options;
  EXPECT_EQ(layers_of_a_step(options, 30, 3'538'944), 30);   // SmolLM2-135M
  EXPECT_EQ(layers_of_a_step(options, 24, 50'331'648), 2);   // OPT-1.3B
  EXPECT_EQ(layers_of_a_step(options, 32, 202'375'168), 1);  // LLaMA-2-7B
  options.ranked = 0;
  EXPECT_EQ(layers_of_a_step(options, 30, 3'538'944), 1);
  options.together = 5;
  EXPECT_EQ(layers_of_a_step(options, 32, 202'375'168), 5);
  EXPECT_EQ(layers_of_a_step(options, 4, 1000), 4);
}

TEST_F(SearchTest, ResumesToTheSameBytes) { resumes(options(20)); }

TEST_F(SearchTest, ResumesToTheSameBytesWhereProposalsAreRanked) { resumes_ranked("gptq"); }

TEST_F(SearchTest, ResumesToTheSameBytesWhereRankedProposalsAreRoundedToTheNearest) {
  resumes_ranked("rtn");
}

// What a step cannot do for what it rounds anew, learned grids and full-precision targets, is done
// for the moved weights, which compute what the source does.
TEST_F(SearchTest, FinishesByTheWholeRecipe) {
  for (const char* pass : {"rtn", "gptq"}) {
    QuantizeOptions with = options(12);
    set_passes(with.recipe, {pass, "tune"});
    if (with.recipe.method == Method::gptq) with.recipe.supervision = Supervision::target;
    if (with.recipe.method == Method::gptq) with.recipe.learn.codes = LearnedCodes::all;
    with.recipe.learn.epochs = 2;
    const auto path = make(std::string(pass) + ".gguf", with);
    EXPECT_GT(search_of(path)["accepted"], 0) << pass;
    const GgufFile file(path);
    EXPECT_EQ(*file.metadata().get_string(kRecipeKey), to_json(with.recipe));
    const auto losses = nlohmann::json::parse(*file.metadata().get_string(kLossesKey));
    ASSERT_EQ(losses.size(), 3u);
    for (const nlohmann::json& layer : losses) {
      EXPECT_LE(layer["tuned"]["after"], layer["tuned"]["before"]) << pass;
    }
    QuantizeOptions plain = with;
    plain.recipe.tune = false;
    plain.recipe.learn.codes = LearnedCodes::none;
    plain.recipe.supervision = Supervision::none;
    const auto unfinished = make(std::string(pass) + "-plain.gguf", plain);
    EXPECT_EQ(search_of(unfinished)["history"], search_of(path)["history"]) << pass;
    EXPECT_NE(read_file(unfinished), read_file(path)) << pass;
    // At 8 bits what is left is the function, and the moved weights have it: how nearly depends on
    // the course of the search, but not on how much 2 bits lose.
    QuantizeOptions fine = with;
    fine.recipe.bits = 8;
    const double searched_loss = divergence_of(make(std::string(pass) + "-8.gguf", fine));
    EXPECT_LT(searched_loss, 0.02 * divergence_of(path)) << pass;
    // Interrupted after the search.
    const auto resumed = folder_ / (std::string(pass) + "-resumed.gguf");
    bool searched = false;
    with.on_search_step = [&](const SearchStep& step, const SearchCounts&) {
      searched = step.step == 11;
      return true;
    };
    testing::expect_error(ErrorCode::cancelled, [&] {
      quantize(source_, resumed, with, [&](std::uint64_t, std::uint64_t) { return !searched; });
    });
    with.resume = true;
    with.on_search_step = {};
    quantize(source_, resumed, with, {});
    EXPECT_EQ(read_file(resumed), read_file(path)) << pass;
  }
}

TEST_F(SearchTest, AnInterruptedStartSaysHowToGoOn) {
  for (const char* pass : {"rtn", "gptq"}) {
    QuantizeOptions with = options(4);
    set_passes(with.recipe, {pass});
    const auto path = folder_ / (std::string(pass) + ".gguf");
    const auto whole = read_file(make("whole-" + path.filename().string(), with));
    int left = 3;
    const std::string said = testing::expect_error(ErrorCode::cancelled, [&] {
      quantize(source_, path, with, [&](std::uint64_t, std::uint64_t) { return --left > 0; });
    });
    EXPECT_NE(said.find(path.string() + " was not written: --resume goes on"), std::string::npos)
        << said;
    EXPECT_FALSE(std::filesystem::exists(path));
    with.resume = true;
    quantize(source_, path, with, {});
    EXPECT_EQ(whole, read_file(path)) << pass;
  }
}

TEST_F(SearchTest, StopsWhereHeldOutTextGetsNoBetter) {
  QuantizeOptions with = options(60);
  with.recipe.search.patience = 2;  // rounds of three layers
  const nlohmann::json said = search_of(make("x.gguf", with));
  EXPECT_LT(said["steps"], 60);
  std::int64_t best_step = 0;
  double best = 1e9;
  for (const nlohmann::json& step : said["history"]) {
    if (step["held_out"] < best) {
      best = step["held_out"];
      best_step = step["step"].get<std::int64_t>() + 1;
    }
  }
  EXPECT_LE(said["steps"].get<std::int64_t>() - best_step, 6);
}

TEST_F(SearchTest, RefusesDamagedWork) {
  QuantizeOptions with = options(14);
  set_passes(with.recipe, {"awq"});
  with.checkpoint_every = 2;
  const auto path = folder_ / "x.gguf";
  with.on_search_step = [&](const SearchStep& step, const SearchCounts&) { return step.step < 3; };
  testing::expect_error(ErrorCode::cancelled, [&] { quantize(source_, path, with, {}); });
  with.resume = true;
  const auto damaged = [&](const char* file, const std::string& text) {
    const auto at = path.string() + ".work/" + file;
    const auto before = read_file(at);
    std::ofstream(at) << text;
    const std::string said =
        testing::expect_error(ErrorCode::bad_file, [&] { quantize(source_, path, with, {}); });
    EXPECT_NE(said.find(file), std::string::npos) << said;
    std::ofstream(at, std::ios::binary)
        .write(reinterpret_cast<const char*>(before.data()),
               static_cast<std::streamsize>(before.size()));
  };
  damaged("start.json", R"({"clipped":0,"factors":[{"down":{"col":[1,2],"row":[]}}]})");
  damaged("start.json", R"({"clipped":0,"factors":[{"down":7}]})");
  damaged("search.json", R"({"steps":1})");
  with.recipe.search.steps = 1;
  EXPECT_NE(
      testing::expect_error(ErrorCode::bad_request, [&] { quantize(source_, path, with, {}); })
          .find("more than 1"),
      std::string::npos);
}

// A killed run leaves what it last saved, and steps after that are made again.
TEST_F(SearchTest, GoesOnFromItsLastCheckpoint) {
  QuantizeOptions with = options(14);
  const auto whole = read_file(make("whole.gguf", with));
  with.checkpoint_every = 5;
  const auto path = folder_ / "resumed.gguf";
  int steps = 0;
  struct Killed {};
  with.on_search_step = [&](const SearchStep&, const SearchCounts&) {
    if (++steps == 8) throw Killed();
    return true;
  };
  EXPECT_THROW(quantize(source_, path, with, {}), Killed);
  with.resume = true;
  with.on_search_step = {};
  quantize(source_, path, with, {});
  EXPECT_EQ(whole, read_file(path));
}

TEST_F(SearchTest, RefusesWhatItCannotDo) {
  const auto refused = [&](const QuantizeOptions& with) {
    return testing::expect_error(ErrorCode::bad_request, [&] { make("x.gguf", with); });
  };
  QuantizeOptions with = options(4);
  with.recipe.mixed = 0.2;
  EXPECT_NE(refused(with).find("mixed layout"), std::string::npos);
  with = options(4);
  with.recipe.tune = true;
  with.recipe.search.local = 0;
  EXPECT_NE(refused(with).find("changes what the model computes"), std::string::npos);
  with = options(4);
  with.recipe.calibration.file.clear();
  EXPECT_NE(refused(with).find("a search needs a calibration text"), std::string::npos);
  with = options(4);
  with.recipe.search.permute = with.recipe.search.scale = with.recipe.search.rotate = false;
  EXPECT_NE(refused(with).find("needs moves"), std::string::npos);
  with = options(4);
  with.recipe.search.ffn = with.recipe.search.values = false;
  with.recipe.search.queries = with.recipe.search.norms = false;
  EXPECT_NE(refused(with).find("needs couplings"), std::string::npos);
}

// Against itself a model loses the entropy of what it expects, its unlikely tokens taken as one.
TEST_F(SearchTest, SoftTargetsAreOfTheRightTokens) {
  const auto model = load_decoder(source_, RowOrder::gguf);
  const auto tokenizer = load_tokenizer(*source_);
  constexpr std::int64_t kLength = 100;  // more than the rows of logits that are held at a time
  const Calibration calibration = draw_calibration(*tokenizer, prose(), {text_, 3, kLength, 1});
  ObjectiveOptions options;
  options.target = SearchTarget::teacher;
  const Objective objective(*model, *model, calibration, 1, options,
                            {{"cpu", {1, ""}}, folder_.path(), 0}, [] {});
  LoadedModel loaded(model_);
  double entropy = 0;
  for (std::size_t s = 0; s < 2; ++s) {
    std::vector<TokenId> ids = calibration.sequences[s];
    ids.pop_back();
    const auto logits = run_prompts(loaded, {ids}, 0, KvType::f16).front();
    const std::size_t vocab = logits.size() / ids.size();
    for (std::size_t row = 0; row < ids.size(); ++row) {
      std::vector<double> p(vocab);
      double sum = 0;
      for (std::size_t i = 0; i < vocab; ++i) {
        p[i] = std::exp(static_cast<double>(logits[row * vocab + i]));
        sum += p[i];
      }
      std::sort(p.begin(), p.end(), std::greater<>());
      double rest = 0;
      for (std::size_t i = 0; i < vocab; ++i) {
        if (i < 64) entropy -= p[i] / sum * std::log(p[i] / sum);
        if (i >= 64) rest += p[i] / sum;
      }
      entropy -= rest * std::log(rest);
    }
  }
  EXPECT_NEAR(objective.start().nll, entropy / (2 * (kLength - 1)), 2e-3);
  EXPECT_EQ(objective.start().mse, 0);
}

TEST(SearchState, IsReadBackAndChecked) {
  const ScratchFolder folder;
  const ModelSource source(testing::tiny_model(folder, "llama-mha"));
  const DecoderSpec spec = read_spec(find_family(source), source);
  SearchState state;
  state.steps = 7;
  state.start = {5.25, 0.125};
  state.start_held_out = 1.25;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    std::vector<ChannelTransform>& transforms = state.transforms.emplace_back();
    for (const Coupling& coupling : couplings_of(spec)) {
      transforms.emplace_back(coupling.channels);
    }
  }
  std::swap(state.transforms[1][0].order[3], state.transforms[1][0].order[4]);
  state.transforms[0][0].scale[2] = 1.1f;
  state.observed[1] = {false, false, true};
  state.history.push_back({6, {{0, "ffn"}, {1, "vo 1"}}, "accepted", 1.0625, 1.125, 99});
  nlohmann::json json = nlohmann::json::parse(to_json(state).dump());
  EXPECT_EQ(to_json(read_search_state(json, spec, "state")).dump(), to_json(state).dump());
  json["transforms"][1][0]["order"][3] = json["transforms"][1][0]["order"][5];
  testing::expect_error(ErrorCode::bad_file, [&] { read_search_state(json, spec, "state"); });
  json = nlohmann::json::parse(to_json(state).dump());
  json["transforms"][0][0]["scale"][1] = 0;
  testing::expect_error(ErrorCode::bad_file, [&] { read_search_state(json, spec, "state"); });
  json = nlohmann::json::parse(to_json(state).dump());
  json["steps"] = 1e300;
  testing::expect_error(ErrorCode::bad_file, [&] { read_search_state(json, spec, "state"); });
  for (const int step : {7, -1}) {
    json = nlohmann::json::parse(to_json(state).dump());
    json["history"][0]["step"] = step;
    testing::expect_error(ErrorCode::bad_file, [&] { read_search_state(json, spec, "state"); });
  }
  json = nlohmann::json::parse(to_json(state).dump());
  json["history"][0]["moves"][1]["layer"] = spec.layers;
  testing::expect_error(ErrorCode::bad_file, [&] { read_search_state(json, spec, "state"); });
  json = nlohmann::json::object();
  testing::expect_error(ErrorCode::bad_file, [&] { read_search_state(json, spec, "state"); });
}

TEST(SearchMoves, ChangeATenthOfTheChannels) {
  Coupling coupling{"ffn", 200, {{LayerMatrix::up, 0, 1}}, {}, {{LayerMatrix::down, 0}}};
  coupling.permutation = coupling.scale = Exactness::exact;
  SearchOptions options;
  options.rotate = true;  // which this coupling does not allow
  StepRandom random(3, 4);
  const ChannelTransform next = random_move(ChannelTransform(200), coupling, options, random);
  std::vector<bool> seen(200);
  int moved = 0, scaled = 0;
  for (std::size_t i = 0; i < 200; ++i) {
    seen[static_cast<std::size_t>(next.order[i])] = true;
    moved += next.order[i] != static_cast<std::int32_t>(i);
    scaled += next.scale[i] != 1;
    EXPECT_GT(next.scale[i], 0);
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 200);
  EXPECT_EQ(moved, 20);
  EXPECT_EQ(scaled, 20);
  EXPECT_EQ(std::count(next.angle.begin(), next.angle.end(), 0.0f), 100);
  StepRandom again(3, 4), other(3, 5);
  EXPECT_EQ(random_move(ChannelTransform(200), coupling, options, again).order, next.order);
  EXPECT_NE(random_move(ChannelTransform(200), coupling, options, other).order, next.order);
}

TEST(MatchedLayers, AreThoseOfTheReleasedCode) {
  EXPECT_EQ(matched_layers(40, 10),
            (std::vector<std::int64_t>{39, 35, 31, 27, 23, 19, 15, 11, 7, 3}));
  EXPECT_EQ(matched_layers(4, 10), (std::vector<std::int64_t>{3, 2, 1, 0}));
  EXPECT_EQ(matched_layers(24, 1), (std::vector<std::int64_t>{23}));
  EXPECT_TRUE(matched_layers(24, 0).empty());
}

}  // namespace
}  // namespace tenfold
