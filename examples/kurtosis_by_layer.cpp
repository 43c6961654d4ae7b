// Prints the excess kurtosis of a model's hidden states by layer, with a tap that watches the
// forward pass: build/release/kurtosis_by_layer MODEL DATA (token shards or a text file).
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdio>

#include "osp/eval/perplexity.h"
#include "osp/eval/token_source.h"
#include "osp/measure/rows.h"
#include "osp/model/model_dir.h"
#include "osp/model/transformer.h"

// State 0 is the embedding, state i the residual stream after block i.
struct KurtosisTap : osp::Tap {
  std::vector<osp::KurtosisMean> states;

  bool wants(osp::TapPoint point, int64_t) const override {
    return point == osp::TapPoint::embedding || point == osp::TapPoint::residual;
  }
  at::Tensor at(osp::TapPoint point, int64_t layer, const at::Tensor& x_BTD) override {
    auto& state = states.at(point == osp::TapPoint::embedding ? 0 : layer + 1);
    osp::for_each_row_block(x_BTD, [&](int64_t, auto, auto rows) {
      for (const osp::RowStatistics& row : rows) {
        if (row.moments.m2 > 0) state.add(osp::excess_kurtosis(row.moments));
      }
    });
    return x_BTD;
  }
};

int main(int argc, char** argv) {
  if (argc != 3) return std::fputs("usage: kurtosis_by_layer MODEL DATA\n", stderr), 2;
  const osp::ParameterStore store = osp::load_model_dir(argv[1]);
  auto tokens = osp::read_token_source(argv[2], osp::find_model_dir(argv[1]), 8192).tokens;
  const int64_t count = std::ssize(tokens);
  const int64_t length = std::min(count, osp::perplexity_window(store.config.context));
  osp::check_token_ids(tokens, store.config.vocabulary);
  const at::Tensor tokens_BT = at::from_blob(tokens.data(), {count / length, length}, at::kLong);
  KurtosisTap tap;
  tap.states.resize(store.config.layers + 1);
  forward_hidden(store, tokens_BT, {.tap = &tap});
  for (size_t i = 0; i < tap.states.size(); ++i) {
    std::printf("%zu %.6f\n", i, tap.states[i].mean());
  }
}
