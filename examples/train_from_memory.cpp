// Trains a small OSP model for ten steps on tokens that are in memory, and prints the loss.
//
//   build/release/train_from_memory
#include <cstdio>
#include <vector>

#include "osp/train/step.h"

int main() {
  // A text that can be learned: 0, 1, …, 63 again and again.
  std::vector<int64_t> ids(10000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int64_t(i) % 64;
  const auto data = osp::TokenDataset::from_memory(ids, 64);

  // A recipe as `osp train` reads it from TOML; everything that is not named has its default.
  osp::Recipe recipe;
  recipe.model.layers = 2;
  recipe.model.width = 64;
  recipe.model.heads = 2;
  recipe.model.context = 32;
  recipe.optim.name = "osp";  // Muon for matrices, Adam for the tables
  recipe.optim.lr = 0.01;
  recipe.schedule.warmup_steps = 0;
  recipe.train.steps = 10;
  recipe.train.batch_tokens = 512;

  const auto state = osp::make_state(osp::resolved_recipe(recipe, data.vocabulary()));
  while (state->step < recipe.train.steps) {
    const osp::StepReport report = osp::train_step(*state, data, false);
    std::printf("step %ld: loss %.4f\n", long(state->step), report.loss);
  }
}
