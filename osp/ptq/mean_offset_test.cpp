// Offsets and groups of activations in a run block by block: what is measured, what calibration
// emulates, and what a resumed run takes over. The grids themselves:
// quant/activation_grids_test.cpp.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <numeric>

#include "osp/base/philox.h"
#include "osp/base/test_folder.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"
#include "osp/ptq/block_by_block.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_transform.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

constexpr std::array<int64_t, 2> kBothLayers = {0, 1};

at::Tensor random_windows(int64_t count) {
  at::Tensor ids = at::zeros({count, 24}, at::kLong);
  const RandomStream random(9, "windows");
  for (int64_t i = 0; i < ids.numel(); ++i) {
    ids.data_ptr<int64_t>()[i] = static_cast<int64_t>(random.below(static_cast<uint64_t>(i), 50));
  }
  return ids;
}

// Means over tokens of the inputs of all linear layers.
class MeanTap : public LinearInputTap {
 public:
  using LinearInputTap::LinearInputTap;
  InputOffsets means;

 protected:
  void see(TapPoint point, int64_t layer, const at::Tensor& x) override {
    means[{point, layer}] = x.reshape({-1, x.size(-1)}).to(at::kDouble).mean(0);
  }
};

BlockByBlockOptions rounded_to_four_bits(MeanOffset offset) {
  BlockByBlockOptions options;
  options.weights.rounding = &kGptq;
  options.activation_bits = 4;
  options.mean_offset = offset;
  options.batch_tokens = 48;
  options.tables = TableType::fp32;  // the tests' own passes read these
  return options;
}

InputOffsets stored_offsets(const ParameterStore& store, const BlockByBlockOptions& options,
                            const PartFolder& parts) {
  InputOffsets offsets;
  for (const int64_t layer : kBothLayers) {
    offsets.merge(read_offsets(parts.tensors(layer).tensors(), store.config, options.mean_offset,
                               {&layer, 1}, parts.tensors_path(layer)));
  }
  return offsets;
}

TEST(MeanOffset, OffsetsAreTheMeansOfWhatTheTransformedLayersGet) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  ParameterStore rotated = small_fused_model(/*kv_heads=*/1);
  const RotationPlan plan = quarot_plan(store.config);
  rotate_model(rotated, plan);
  MeanTap wanted(rotated, plan.online());
  ForwardOptions forward;
  forward.tap = &wanted;
  const at::Tensor windows = random_windows(6);
  forward_hidden(rotated, windows, forward);
  for (const MeanOffset inputs : {MeanOffset::residual, MeanOffset::all}) {
    const TestFolder folder;
    BlockByBlockOptions options = rounded_to_four_bits(inputs);
    options.transform = rotation_transform(plan);
    const PartFolder parts(folder / "parts", {}, false);
    quantize_block_by_block(*source_of(store), windows, options, parts);
    const InputOffsets found = stored_offsets(store, options, parts);
    ASSERT_EQ(found.size(), 2 * offset_points(inputs).size());
    for (const auto& [place, offset] : found) {
      // Two orders of summation in fp32 forward passes: a few units of 6e-8 of inputs of size 1.
      EXPECT_LT((offset - wanted.means.at(place)).abs().max().item<double>(), 1e-5);
    }
  }
}

TEST(MeanOffset, ARunWithoutOffsetsStoresNone) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const TestFolder folder;
  const PartFolder parts(folder / "parts", {}, false);
  quantize_block_by_block(*source_of(store), random_windows(2),
                          rounded_to_four_bits(MeanOffset::none), parts);
  const SafetensorsFile block = parts.tensors(0);
  for (const auto& [name, view] : block.tensors()) {
    EXPECT_FALSE(name.starts_with("osp.")) << name;
  }
}

TEST(MeanOffset, StaticScalesAreThoseOfWhatTheOffsetsLeave) {
  // One channel is far from 0 and constant: without an offset it takes the whole range.
  ParameterStore store = small_fused_model(/*kv_heads=*/1);
  store.master(store.find("model.embed_tokens.weight")).select(1, 5).fill_(40.0);
  const auto scale = [&](MeanOffset inputs) {
    const TestFolder folder;
    BlockByBlockOptions options = rounded_to_four_bits(inputs);
    options.activations = ActivationMode::per_tensor;
    const PartFolder parts(folder / "parts", {}, false);
    return quantize_block_by_block(*source_of(store), random_windows(4), options, parts)
        .scales.at({TapPoint::attention_input, 0})
        .scale;
  };
  EXPECT_LT(scale(MeanOffset::residual), 0.2 * scale(MeanOffset::none));
}

TEST(MeanOffset, CalibrationRoundsOnTheGridsOfTheQuantizedModel) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const at::Tensor windows = random_windows(2);
  ActivationSpace space;
  const auto input = [&](int64_t bits, const ActivationGrids& grids) {
    CalibrationStream stream(store, windows, /*in_pieces=*/true, 48, space);
    const PassSettings settings{.bits = {16, bits, 16}, .grids = grids};
    return stream.input(store, 0, settings, TapPoint::attention_input, 0, 2);
  };
  const at::Tensor x = input(16, {}), offset = x.mean({0, 1});
  EXPECT_TRUE(at::equal(input(4, {.clips = {0.9, 1.0}, .groups = {.inputs = 8}}),
                        fake_quantize_asymmetric(x, 4, 8, GroupRange::contains_zero, 0.9)));
  const ActivationGrids shifted{.offsets = {{{TapPoint::attention_input, 0}, offset}}};
  EXPECT_TRUE(
      at::equal(input(4, shifted),
                fake_quantize_asymmetric(x - offset, 4, 32, GroupRange::contains_zero) + offset));
}

TEST(MeanOffset, AResumedRunGivesTheSameModel) {
  class Stop : public std::exception {};
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const at::Tensor windows = random_windows(6);
  BlockByBlockOptions options = rounded_to_four_bits(MeanOffset::all);
  options.weights.calibration_bits = {16, 4,
                                      4};  // later blocks depend on the offsets of earlier ones
  options.weights.grids.groups = {.inputs = 8, .down = 16};
  const TestFolder folder;
  const PartFolder whole(folder / "whole", {}, false);
  quantize_block_by_block(*source_of(store), windows, options, whole);
  {
    options.progress = [](int64_t done, int64_t, double) {
      if (done == 10) throw Stop();  // in the second block
    };
    const PartFolder begun(folder / "resumed", {}, false);
    EXPECT_THROW(quantize_block_by_block(*source_of(store), windows, options, begun), Stop);
  }
  options.progress = nullptr;
  const PartFolder resumed(folder / "resumed", {}, true);
  EXPECT_EQ(quantize_block_by_block(*source_of(store), windows, options, resumed).num_resumed, 1);
  const SafetensorsFile wanted = whole.tensors(1), found = resumed.tensors(1);
  ASSERT_EQ(wanted.tensors().size(), found.tensors().size());
  for (const auto& [name, view] : wanted.tensors()) {
    const auto& other = found.tensors().at(name);
    EXPECT_TRUE(
        std::equal(view.data.begin(), view.data.end(), other.data.begin(), other.data.end()))
        << name;
  }
}

}  // namespace
}  // namespace osp
