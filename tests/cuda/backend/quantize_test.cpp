// The quantizer's trials on the device.

#include "quantizer/quantize.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quantizer/calibration.h"
#include "quantizer/search/objective.h"
#include "runtime/tokenizer.h"
#include "tests/cuda/backend/on_device.h"
#include "tests/support/prose.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using testing::prose;
using testing::read_file;
using testing::ScratchFolder;

class CudaQuantize : public testing::CudaTest {
 protected:
  QuantizeOptions options() const {
    QuantizeOptions options;
    options.recipe.bits = 2;
    options.recipe.group = 32;
    options.recipe.range = RangeKind::minmax;
    options.recipe.calibration = {text_, 3, 12, 1};
    options.device = "cuda";
    options.threads = 1;
    return options;
  }
  std::filesystem::path make(const std::string& name, const QuantizeOptions& options) {
    const auto path = folder_ / name;
    quantize(source_, path, options, {});
    return path;
  }

  ScratchFolder folder_;
  std::filesystem::path model_ = testing::tiny_model(folder_, "opt-pre-ln");
  std::shared_ptr<const ModelSource> source_ = std::make_shared<const ModelSource>(model_);
  std::string text_ = folder_.write("prose.txt", prose()).string();
};

TEST_F(CudaQuantize, SearchesAndSavesWhatItAccepted) {
  QuantizeOptions with = options();
  with.recipe.search.steps = 4;
  with.recipe.search.local = 16;
  const auto path = make("one.gguf", with);
  EXPECT_EQ(read_file(path), read_file(make("two.gguf", with)));
  const auto said = nlohmann::json::parse(*GgufFile(path).metadata().get_string(kSearchKey));
  EXPECT_GT(said["accepted"], 0);
  const auto made = load_decoder(std::make_shared<const ModelSource>(path), RowOrder::gguf);
  const auto teacher = load_decoder(source_, RowOrder::gguf);
  const auto tokenizer = load_tokenizer(*source_);
  const Calibration calibration = draw_calibration(*tokenizer, prose(), with.recipe.calibration);
  const SearchOptions& search = with.recipe.search;
  Objective objective(*made, *teacher, calibration, 1,
                      {search.alpha, search.matched, search.early, search.target},
                      {device_options(with, 1), folder_.path(), 0}, [] {});
  objective.set_start({said["start"]["nll"], said["start"]["mse"]});
  EXPECT_EQ(objective.loss(), said["loss"]);
  EXPECT_EQ(objective.held_out_loss(), said["held_out"]);
}

TEST_F(CudaQuantize, TriesSalientColumns) {
  QuantizeOptions with = options();
  set_squeeze10(with.recipe);
  with.recipe.calibration = options().recipe.calibration;
  with.recipe.pbar_trials = true;
  EXPECT_EQ(read_file(make("one.gguf", with)), read_file(make("two.gguf", with)));
}

TEST_F(CudaQuantize, DividesABudget) {
  QuantizeOptions with = options();
  with.recipe.allocate.kind = Allocation::bits;
  with.recipe.allocate.target_bits = 3.2;
  with.recipe.allocate.sequences = 1;
  with.recipe.allocate.widths = {2, 4};
  EXPECT_EQ(read_file(make("one.gguf", with)), read_file(make("two.gguf", with)));
}

}  // namespace
}  // namespace tenfold
