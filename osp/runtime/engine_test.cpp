#include "osp/runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "osp/base/test_error.h"
#include "osp/runtime/test_emulated_amx.h"
#include "osp/runtime/test_quantized.h"

namespace osp {
namespace {

// Every kind of grid, transform and shape that the engine runs.
std::vector<std::pair<std::string, TestModel>> models() {
  std::vector<std::pair<std::string, TestModel>> all;
  const auto add = [&](const std::string& name) -> TestModel& {
    return all.emplace_back(name, TestModel()).second;
  };
  all.reserve(16);
  add("plain");
  {
    TestModel& m = add("asymmetric weights in groups");
    m.asymmetric = true;
    m.weight_group = 16;
  }
  add("groups of activations").grids.groups = {.inputs = 32, .down = 48};
  {
    TestModel& m = add("static scales");
    for (int64_t layer = 0; layer < 3; ++layer) {
      m.grids.scales[{TapPoint::attention_input, layer}] = {0.335, 8.0};
      m.grids.scales[{TapPoint::mlp_product, layer}] = {0.5, 3.0};
    }
  }
  {
    TestModel& m = add("offsets");
    for (int64_t layer = 0; layer < 3; ++layer) {
      m.grids.offsets[{TapPoint::attention_input, layer}] = at::randn({64});
      m.grids.offsets[{TapPoint::attention_output, layer}] = at::randn({128});
      m.grids.offsets[{TapPoint::mlp_product, layer}] = at::randn({96});
    }
  }
  {
    TestModel& m = add("Hadamard of the product, no Hadamard of keys");
    m.online = {.query_key_hadamard = false, .down_hadamard = true};
  }
  {
    TestModel& m = add("Hadamard in blocks, norms of heads, clipped ranges");
    m.online = {.down_hadamard = true, .down_block = 48};
    m.config.qk_norm = true;
    m.grids.clips = {0.9, 0.95};
  }
  add("8-bit activations").bits = {4, 8, 4};
  add("3-bit weights and cache").bits = {3, 5, 3};
  add("8-bit cache").bits = {4, 4, 8};
  add("6-bit cache").bits = {4, 8, 6};
  add("8-bit weights").bits = {8, 8, 4};
  {
    TestModel& m = add("6-bit weights in groups, 16-bit activations");
    m.bits = {6, 16, 8};
    m.asymmetric = true;
    m.weight_group = 32;
  }
  add("16-bit activations").bits = {4, 16, 4};
  {
    TestModel& m = add("4-bit weights alone, in groups, with offsets");
    m.bits = {4, 16, 16};
    m.asymmetric = true;
    m.weight_group = 16;
    m.grids.offsets[{TapPoint::attention_input, 1}] = at::randn({64});
  }
  {
    TestModel& m = add("a window from block 1 on, one head of keys");
    m.config.window = 40;
    m.config.first_window_layer = 1;
    m.config.kv_heads = 1;
    m.config.tied = true;
  }
  add("a block without the rotary embedding").config.unrotated_layers = {1};
  return all;
}

std::vector<float> read_in_chunks(Engine& engine, const std::vector<int32_t>& tokens,
                                  size_t chunk) {
  KvSequence sequence = engine.new_sequence();
  std::vector<float> states;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const EngineRun run{&sequence,
                        std::span(tokens).subspan(begin, std::min(chunk, tokens.size() - begin))};
    const auto now = engine.read({&run, 1});
    states.insert(states.end(), now.begin(), now.end());
  }
  return states;
}

// The tables that this machine can run.
struct Level {
  const kernels::EngineKernels* kernels;
  const kernels::CodeProducts* products;
};
std::vector<Level> kernel_levels() {
  std::vector<Level> all = {
      {&kernels::engine_kernels_portable(), &kernels::code_products_portable()}};
  if (detect_isa() >= Isa::avx2) {
    all.push_back({&kernels::engine_kernels_avx2(), &kernels::code_products_avx2()});
  }
  if (detect_isa() >= Isa::avx512) {
    all.push_back({&kernels::engine_kernels_avx512(), &kernels::code_products_avx2()});
  }
  if (has_avx512_vnni()) {
    all.push_back({&kernels::engine_kernels_avx512(), &kernels::code_products_avx512vnni()});
  }
  all.push_back({&kernels::engine_kernels_portable(), &code_products_emulated_amx()});
  if (has_amx_int8()) {
    all.push_back({&kernels::engine_kernels_avx512(), &kernels::code_products_amx()});
  }
  return all;
}

TEST(Engine, TheSameBitsOnEveryInstructionSetAndNumberOfThreads) {
  const std::vector<int32_t> tokens = test_tokens(150);
  for (const auto& [name, model] : models()) {
    std::vector<float> first;
    for (const Level& level : kernel_levels()) {
      for (const int64_t threads : {1, 3}) {
        const auto engine = model.engine(
            {.threads = threads, .kernels = level.kernels, .products = level.products});
        const std::vector<float> states = read_in_chunks(*engine, tokens, 150);
        if (first.empty()) first = states;
        EXPECT_EQ(states, first) << name << ' ' << engine->kernel_names() << ' ' << threads;
      }
    }
  }
}

TEST(Engine, AmxIsAmongTheInstructionSets) {
  if (!has_amx_int8())
    GTEST_SKIP() << "no AMX-INT8 here: the engine ran on an emulation of it only";
  EXPECT_EQ(TestModel().engine()->kernel_names(), "amx-int8, avx512");
}

TEST(Engine, PassesOfManyAndFewTokensAreTheSameBitsOnEmulatedAmx) {
  const std::vector<int32_t> tokens = test_tokens(110);
  const TestModel model;
  const auto engine = model.engine({.products = &code_products_emulated_amx()});
  const std::vector<float> whole = read_in_chunks(*model.engine(), tokens, 110);
  for (const size_t chunk : {7, 15, 16, 17, 33}) {
    EXPECT_EQ(read_in_chunks(*engine, tokens, chunk), whole) << chunk;
  }
}

TEST(Engine, TheSameBitsHoweverATextIsCut) {
  const std::vector<int32_t> tokens = test_tokens(200);
  for (const auto& [name, model] : models()) {
    const auto engine = model.engine();
    const std::vector<float> whole = read_in_chunks(*engine, tokens, 200);
    for (const size_t chunk : {1, 2, 7, 64, 129}) {
      EXPECT_EQ(read_in_chunks(*engine, tokens, chunk), whole) << name << ' ' << chunk;
    }
  }
}

TEST(Engine, AContextOfMillionsCostsNothingUntilATextIsThatLong) {
  TestModel model;
  model.config.layers = 1;
  model.config.context = int64_t{1} << 28;
  model.config.rope_theta = 3.6e9;
  const auto engine = model.engine();  // whole tables would take 17 GB
  // The angles behind the first 4,096 positions are those of one large table.
  const std::vector<int32_t> tokens = test_tokens(4200);
  EXPECT_EQ(read_in_chunks(*engine, tokens, 1050), read_in_chunks(*model.engine(), tokens, 4200));
}

TEST(Engine, TheSameBitsBesideOtherTextsAndBehindASharedBeginning) {
  const auto engine = TestModel().engine({.threads = 2});
  const std::vector<int32_t> tokens = test_tokens(180);
  const std::vector<float> alone = read_in_chunks(*engine, tokens, 180);
  const auto width = static_cast<size_t>(engine->config().width);
  // Seven other texts in the same passes, of other lengths.
  std::vector<KvSequence> others(7, engine->new_sequence());
  KvSequence text = engine->new_sequence();
  std::vector<float> beside;
  for (size_t begin = 0; begin < 180; begin += 20) {
    std::vector<EngineRun> runs;
    for (size_t i = 0; i < 7; ++i) {
      if (i == 3) runs.push_back({&text, std::span(tokens).subspan(begin, 20)});
      runs.push_back({&others[i], std::span(tokens).subspan(i, i + 1)});
    }
    const auto states = engine->read(runs);
    const size_t before = (1 + 2 + 3) * width;
    beside.insert(beside.end(), states.begin() + static_cast<std::ptrdiff_t>(before),
                  states.begin() + static_cast<std::ptrdiff_t>(before + 20 * width));
  }
  EXPECT_EQ(beside, alone);
  // A copy of the first 130 tokens continues alike, and what follows in the original is untouched.
  KvSequence fork = text;
  fork.truncate(130);
  const EngineRun rest{&fork, std::span(tokens).subspan(130)};
  const auto states = engine->read({&rest, 1});
  EXPECT_EQ(
      std::vector<float>(states.begin(), states.end()),
      std::vector<float>(alone.begin() + static_cast<std::ptrdiff_t>(130 * width), alone.end()));
  KvSequence again = text;
  again.truncate(170);
  const EngineRun tail{&again, std::span(tokens).subspan(170)};
  const auto last = engine->read({&tail, 1});
  EXPECT_EQ(
      std::vector<float>(last.begin(), last.end()),
      std::vector<float>(alone.begin() + static_cast<std::ptrdiff_t>(170 * width), alone.end()));
}

TEST(Engine, TextsThatPartWithinAPageDoNotTouchEachOther) {
  const auto engine = TestModel().engine();
  const std::vector<int32_t> tokens = test_tokens(60);
  std::vector<int32_t> others = tokens;
  std::fill(others.begin() + 40, others.end(), 7);
  const auto width = static_cast<std::ptrdiff_t>(engine->config().width);
  const auto read = [&](KvSequence& text, const std::vector<int32_t>& all, size_t begin,
                        size_t end) {
    const EngineRun run{&text, std::span(all).subspan(begin, end - begin)};
    const auto states = engine->read({&run, 1});
    return std::vector<float>(states.begin(), states.end());
  };
  // In turns, in the page that both hold at first.
  KvSequence text = engine->new_sequence();
  read(text, tokens, 0, 40);
  KvSequence fork = text;
  read(fork, others, 40, 50);
  read(text, tokens, 40, 50);
  const std::vector<float> of_fork = read(fork, others, 50, 60);
  const std::vector<float> of_text = read(text, tokens, 50, 60);
  const std::vector<float> fork_alone = read_in_chunks(*engine, others, 60);
  const std::vector<float> text_alone = read_in_chunks(*engine, tokens, 60);
  EXPECT_TRUE(std::equal(of_fork.begin(), of_fork.end(), fork_alone.end() - 10 * width));
  EXPECT_TRUE(std::equal(of_text.begin(), of_text.end(), text_alone.end() - 10 * width));
}

TEST(Engine, ATokenOutsideOfTheWindowsIsNotSeen) {
  TestModel model;
  model.config.window = 40;
  const auto engine = model.engine();
  const int64_t width = model.config.width;
  std::vector<int32_t> tokens = test_tokens(150);
  const std::vector<float> before = read_in_chunks(*engine, tokens, 150);
  tokens[0] = (tokens[0] + 1) % 75;
  const std::vector<float> after = read_in_chunks(*engine, tokens, 150);
  const auto differs = [&](int64_t position) {
    return !std::equal(before.begin() + position * width, before.begin() + (position + 1) * width,
                       after.begin() + position * width);
  };
  // The last that sees it, and, through three blocks, the last that it can reach.
  EXPECT_TRUE(differs(39));
  for (int64_t position = 3 * 39 + 1; position < 150; ++position) EXPECT_FALSE(differs(position));
}

TEST(Engine, BadTokensLongTextsAndDamagedNumbersAreErrors) {
  const auto engine = TestModel().engine();
  KvSequence text = engine->new_sequence();
  const std::vector<int32_t> outside = {3, 75};
  const std::vector<int32_t> longer = test_tokens(513);
  const EngineRun bad{&text, outside}, too_long{&text, longer};
  expect_error(ErrorCode::damaged, {"token 75", "vocabulary of 75"}, [&] {
    engine->read({&bad, 1});
  });
  expect_error(ErrorCode::unsupported, {"513", "context of 512"}, [&] {
    engine->read({&too_long, 1});
  });
  EXPECT_EQ(text.length(), 0);
  for (const float number :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const int64_t bits : {4, 8, 16}) {
      TestModel damaged;
      damaged.bits = {4, bits, bits};
      damaged.grids.offsets[{TapPoint::mlp_input, 1}] = at::full({64}, number);
      const auto broken = damaged.engine();
      KvSequence other = broken->new_sequence();
      const std::vector<int32_t> tokens = test_tokens(4);
      const EngineRun run{&other, tokens};
      expect_error(ErrorCode::damaged, {"not finite"}, [&] { broken->read({&run, 1}); });
      EXPECT_EQ(other.length(), 0);
    }
}

TEST(Engine, SaysWhatItCannotRun) {
  const auto reason = [](const auto& change) {
    TestModel model;
    change(model);
    std::string text;
    try {
      model.make();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      text = error.what();
    }
    return text;
  };
  EXPECT_EQ(reason([](TestModel&) {}), "");
  EXPECT_NE(reason([](TestModel& m) {
              m.bits = {16, 8, 4};
            }).find("weights have 16"),
            std::string::npos);
  EXPECT_NE(reason([](TestModel& m) {
              m.bits = {4, 12, 4};
            }).find("activations have 12"),
            std::string::npos);
  EXPECT_NE(reason([](TestModel& m) {
              m.bits = {4, 4, 10};
            }).find("cache has 10"),
            std::string::npos);
  EXPECT_NE(reason([](TestModel& m) { m.config.head_size = 24; }).find("head size 24"),
            std::string::npos);
  EXPECT_NE(reason([](TestModel& m) { m.config.activation = "relu"; }).find("relu"),
            std::string::npos);
  EXPECT_NE(reason([](TestModel& m) { m.config.norm = "layer"; }).find("LayerNorm"),
            std::string::npos);
}

}  // namespace
}  // namespace osp
