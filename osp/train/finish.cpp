#include "osp/train/finish.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

// Fusing reorders sums of fp32: relative differences of about 1e-6 are expected; a mistake in it
// changes logits by their own size.
constexpr double kLargestRelativeDifference = 1e-3;

// A model that cannot be read back is not done: the files must give the weights in
// memory, each finite.
void check_read_back(const ParameterStore& store, const std::string& folder,
                     const std::string& name) {
  const ParameterStore read = load_model_dir(folder);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const std::string& parameter = store.specs[i].name;
    const at::Tensor wanted = store.master(static_cast<int64_t>(i));
    const int64_t place = read.find(parameter);
    if (place < 0 || !at::equal(wanted, read.master(place))) {
      fail(ErrorCode::io, "{}: {} was read back with other numbers than were written", name,
           parameter);
    }
  }
}

}  // namespace

at::Tensor first_sequences(const TrainState& state, const TokenDataset& data) {
  const int64_t T = state.recipe.model.context;
  const int64_t B = std::clamp(int64_t(data.num_tokens()) / T, int64_t{1}, int64_t{2});
  at::Tensor tokens_BT = at::empty({B, T}, at::kLong);
  data.copy(0, {tokens_BT.mutable_data_ptr<int64_t>(), size_t(B * T)});
  return tokens_BT;
}

void forget_optimizers(TrainState& state) {
  state.optimizers.clear();
  state.group_sums = {};
}

void forget_training(TrainState& state) {
  forget_optimizers(state);  // they refer to `owned`
  state.owned.banks.clear();
  for (Bank& bank : state.store.banks) bank.gradient = at::Tensor();
}

FinishedModel write_model(const TrainState& state, const std::string& run,
                          const std::string& tokenizer_json, const at::Tensor& tokens_BT) {
  const ParameterStore unfused = master_weights(state);
  const ParameterStore fused = fuse(unfused);
  FinishedModel model{.path = run + "/model",
                      .difference = compare_logits(unfused, fused, tokens_BT)};
  if (!std::isfinite(model.difference.largest)) {
    fail(ErrorCode::diverged, "{}: the model's logits are not finite; it is not written", run);
  }
  OSP_CHECK(model.difference.relative <= kLargestRelativeDifference,
            "fused logits differ by {} of the largest logit", model.difference.relative);
  const auto write = [&](const std::string& temporary) {
    save_model_dir(fused, temporary, tokenizer_json);
    check_read_back(fused, temporary, model.path);
  };
  write_folder_atomic(model.path, write, IfExists::replace);
  return model;
}

}  // namespace osp
