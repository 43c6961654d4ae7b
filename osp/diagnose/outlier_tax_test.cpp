#include "osp/diagnose/outlier_tax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_qr.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "osp/base/philox.h"
#include "osp/diagnose/attribution.h"
#include "osp/diagnose/basis_response.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

constexpr BitWidths kFour{4, 4, 4};

std::vector<int64_t> tokens(int64_t count) {
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>((i * i + 7 * i) % 50);
  return ids;
}

ParameterStore wide_store(const std::string& norm = "rms") {
  ModelConfig config;
  config.layers = 2;
  config.width = 64;
  config.heads = 4;
  config.inner = 96;
  config.vocabulary = 50;
  config.context = 32;
  config.norm = norm;
  config.embedding_projection = false;
  config.init_std = 0.15;
  return initialized_model(config, 11);
}

// Adds a constant to one channel of the embedding: an outlier channel of the residual stream.
ParameterStore with_outlier(double size) {
  ParameterStore store = wide_store();
  store.master(store.find(ParameterRole::embedding)).select(1, 5).add_(size);
  sync_compute(store);
  return store;
}

OutlierTax tax_of(ParameterStore store, const TaxOptions& options = {.bits = kFour}) {
  TurnedModel model(std::move(store));
  return measure_outlier_tax(model, tokens(320), options);
}

TEST(OutlierTax, APlantedOutlierChannelIsPaidForByThoseWhoReadIt) {
  const TaxOptions options{.bits = kFour, .rotations = 6};
  const OutlierTax none = tax_of(with_outlier(0), options),
                   planted = tax_of(with_outlier(1.5), options);
  EXPECT_LT(std::abs(none.all.share()), 0.15);
  EXPECT_GT(planted.all.tax(), 5 * planted.all.error());
  EXPECT_GT(planted.readers.share(), 0.3);
  EXPECT_GT(planted.readers.tax(), 5 * planted.readers.error());
  EXPECT_LT(std::abs(planted.generators.share()), planted.readers.share() / 2);
}

TEST(OutlierTax, AModelInARandomBasisPaysNothing) {
  TurnedModel turned(with_outlier(1.5));
  turned.fold_norms();
  turned.turn(random_rotation(64, 77, "R1", false));
  const OutlierTax tax = measure_outlier_tax(turned, tokens(320), {.bits = kFour, .rotations = 6});
  EXPECT_LT(std::abs(tax.all.tax()), 4 * tax.all.deviation());
}

TEST(OutlierTax, RotationsAreTheSameFunctionInFp64) {
  ParameterStore store = with_outlier(1.0);
  for (Bank& bank : store.banks) bank.compute = bank.master = bank.master.to(at::kDouble);
  const std::vector<int64_t> ids = tokens(32);
  const at::Tensor input = at::tensor(ids).view({1, 32});
  const at::Tensor before = forward_logits(store, input);
  TurnedModel model(std::move(store));
  const int64_t block = model.add_down_hadamard();
  EXPECT_EQ(block, 0);  // 96 has a Hadamard matrix
  model.fold_norms();
  const Rotation q = random_rotation(64, 3, "R1", false);
  const std::vector<Rotation> values(2, random_rotation(16, 3, "R2", false));
  const auto difference = [&] {
    SiteQuantTap exact(model.store(), {}, model.online());
    ForwardOptions options;
    options.tap = &exact;
    return forward_logits(model.store(), input, options).sub(before).abs().max().item<double>();
  };
  model.turn(q, values);
  EXPECT_LT(difference(), 1e-12);
  const at::Tensor turned = model.store().master(0).clone();
  model.turn_back(q, values);
  EXPECT_LT(difference(), 1e-12);
  EXPECT_GT(turned.sub(model.store().master(0)).abs().max().item<double>(), 0.1);
}

TEST(StateError, IsARotationsInvariantAndZeroAtSixteenBits) {
  TurnedModel model(with_outlier(1.5));
  model.add_down_hadamard();
  model.fold_norms();
  const std::vector<int64_t> ids = tokens(64);
  const auto error = [&](const BitWidths& bits, const SiteSelection& selected) {
    return model.divergence(ids, 0, bits, selected).state_error;
  };
  const auto product = [](QuantSite site, int64_t) { return site == QuantSite::mlp_product; };
  const auto readers = [](QuantSite site, int64_t) { return is_reader(site); };
  EXPECT_EQ(error({}, every_site), 0.0);
  const double own = error(kFour, product), own_readers = error(kFour, readers);
  model.turn(random_rotation(64, 3, "R1", false));
  EXPECT_EQ(error({}, every_site), 0.0);
  // The product is the same numbers in every basis of the stream, up to fp32 rounding, which moves
  // few of them to another code; so is the length of the error that its rounding leaves in the
  // stream. What the readers get is not.
  EXPECT_GT(own, 1e-4);
  EXPECT_NEAR(error(kFour, product), own, 1e-2 * own);
  EXPECT_LT(error(kFour, readers), 0.8 * own_readers);
}

TEST(OutlierTax, HasTheErrorOfTheLastStateBesideItsDivergences) {
  const OutlierTax tax = tax_of(with_outlier(1.5), {.bits = kFour, .rotations = 2, .split = false});
  TurnedModel model(with_outlier(1.5));
  const std::vector<int64_t> ids = tokens(320);
  const DivergenceResult plain = model.divergence(ids, 0, kFour, every_site);
  EXPECT_GT(plain.state_error, 0);
  EXPECT_DOUBLE_EQ(tax.state_error, plain.state_error);
  model.add_down_hadamard();
  EXPECT_DOUBLE_EQ(tax.own_state_error, model.divergence(ids, 0, kFour, every_site).state_error);
  EXPECT_LT(tax.rotated_state_error, tax.own_state_error);
  EXPECT_GT(tax.rotated_state_error, 0);
}

TEST(OutlierTax, SiteSelectionsMeetInTheWholeAndInNothing) {
  TurnedModel model(with_outlier(0.5));
  const std::vector<int64_t> ids = tokens(64);
  const auto kl = [&](const SiteSelection& selected) {
    return model.divergence(ids, 0, kFour, selected).divergence;
  };
  EXPECT_NEAR(kl([](QuantSite, int64_t) { return false; }), 0.0, 1e-7);
  FakeQuantTap whole(model.store(), kFour, model.online());
  DivergenceOptions options;
  options.changed_tap = &whole;
  EXPECT_DOUBLE_EQ(kl(every_site),
                   measure_divergence(model.store(), model.store(), ids, options).divergence);
}

TEST(OutlierTax, SizesWithoutAHadamardMatrixAreRotatedToo) {
  ModelConfig config = wide_store().config;
  config.width = 44 * 23;  // no matrix of order 1012 is known
  config.heads = 2;
  config.kv_heads = 2;
  config.head_size = 46;
  config.inner = 94;
  config.layers = 1;
  const OutlierTax tax = tax_of(initialized_model(config, 5), {.bits = kFour, .rotations = 1});
  EXPECT_EQ(tax.refusal, "");
  EXPECT_EQ(tax.all.rotated.size(), 1u);
  EXPECT_GT(tax.down_block, 0);
}

TEST(OutlierTax, AFamilyThatCannotBeRotatedSaysWhy) {
  ModelConfig config = wide_store().config;
  config.norm_after = true;
  const OutlierTax tax = tax_of(initialized_model(config, 5));
  EXPECT_NE(tax.refusal.find("not exact"), std::string::npos);
  EXPECT_TRUE(tax.all.rotated.empty());
  EXPECT_GT(tax.kl, 0);
}

TEST(RandomRotation, IsOrthogonalForEveryOrder) {
  for (const int64_t size : {1, 2, 7, 46, 64, 94}) {
    EXPECT_LT(orthogonality_error(random_rotation(size, 1, "Q", false).dense()), 1e-12) << size;
  }
}

TEST(Attribution, AgreesWithWholePassesAndNamesTheGuiltySite) {
  TurnedModel model(with_outlier(1.5));
  const std::vector<int64_t> ids = tokens(64);
  const Attribution found = attribute_damage(model, ids, {.bits = kFour, .max_tokens = 64});
  EXPECT_EQ(found.tokens, 64);
  ASSERT_EQ(found.sites.size(), kQuantSites.size());
  ASSERT_EQ(found.layers.size(), 2u);
  // Divergences from whole passes over the same 64 tokens, all of them scored.
  const auto whole = [&](const SiteSelection& selected) {
    SiteQuantTap exact(model.store(), {}, model.online()),
        rounded(model.store(), kFour, model.online(), selected);
    const at::Tensor input = at::tensor(ids).view({2, 32});
    const auto log_p = [&](Tap* tap) {
      ForwardOptions options;
      options.tap = tap;
      return forward_logits(model.store(), input, options).log_softmax(-1);
    };
    const at::Tensor p = log_p(&exact), q = log_p(&rounded);
    return (p.exp() * (p - q)).sum(-1).mean().item<double>();
  };
  EXPECT_NEAR(found.all, whole(every_site), 1e-6);
  for (const SiteCost& cost : found.sites) {
    EXPECT_NEAR(cost.only, whole([&](QuantSite s, int64_t) { return s == cost.site; }), 1e-6);
    EXPECT_NEAR(cost.without, whole([&](QuantSite s, int64_t) { return s != cost.site; }), 1e-6);
  }
  for (const LayerCost& cost : found.layers) {
    EXPECT_NEAR(cost.only, whole([&](QuantSite, int64_t l) { return l == cost.layer; }), 1e-6);
    EXPECT_NEAR(cost.without, whole([&](QuantSite, int64_t l) { return l != cost.layer; }), 1e-6);
    for (size_t i = 0; i < kQuantSites.size(); ++i) {
      EXPECT_NEAR(cost.only_site[i], whole([&](QuantSite s, int64_t l) {
                    return s == kQuantSites[i] && l == cost.layer;
                  }),
                  1e-6);
    }
  }
  // An outlier in the stream hurts those who read it.
  EXPECT_GT(found.sites[0].only + found.sites[1].only, found.sites[2].only + found.sites[3].only);
}

TEST(BasisResponse, KurtosisIsMovedAndTheFunctionIsNot) {
  TurnedModel model(with_outlier(0.5));
  model.add_down_hadamard();
  model.fold_norms();
  const std::vector<int64_t> ids = tokens(320);
  const std::vector<BasisPoint> points = measure_bases(model, ids, {.bits = kFour});
  ASSERT_EQ(points.size(), 5u);  // own, principal, 4, 16, 64
  EXPECT_EQ(points[0].basis, "own");
  EXPECT_EQ(points[1].basis, "principal");
  EXPECT_EQ(points[4].block, 64);
  // All axes mixed: no outliers, and less damage than with the axes on the channels.
  EXPECT_LT(points[4].reader_kurtosis, 0.5);
  EXPECT_GT(points[1].reader_kurtosis, points[4].reader_kurtosis + 1);
  EXPECT_GT(points[1].kl, points[4].kl);
  // Still the same function.
  const ParameterStore original = with_outlier(0.5);
  SiteQuantTap exact(model.store(), {}, model.online());
  DivergenceOptions options;
  options.changed_tap = &exact;
  EXPECT_NEAR(measure_divergence(original, model.store(), ids, options).divergence, 0.0, 1e-6);
}

TEST(BasisResponse, FamiliesWithoutFreeRotationsHaveNoPoints) {
  TurnedModel model(wide_store("layer"));
  model.add_down_hadamard();
  EXPECT_TRUE(measure_bases(model, tokens(64), {.bits = kFour}).empty());
}

}  // namespace
}  // namespace osp
