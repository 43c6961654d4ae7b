#include "osp/bench/engine_speed.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <sstream>

#include "osp/base/error.h"
#include "osp/base/memory.h"
#include "osp/base/timing.h"
#include "osp/bench/plain_read.h"

namespace osp {
namespace {

constexpr int64_t kBatchDepth = 128;
constexpr int64_t kPeakSteps = 2'500'000;

ModelConfig shape_named(const std::string& name) {
  ModelConfig config;
  config.embedding_projection = false;
  config.context = 8192;
  if (name == "smollm2-135m") {
    config.layers = 30;
    config.width = 576;
    config.heads = 9;
    config.kv_heads = 3;
    config.inner = 1536;
    config.vocabulary = 49152;
  } else if (name == "1.4b") {
    config.layers = 24;
    config.width = 2048;
    config.heads = 16;
    config.inner = 5504;
    config.vocabulary = 49152;
  } else {
    fail(ErrorCode::usage, "random:{}: the shapes are smollm2-135m and 1.4b", name);
  }
  return resolved_config(config);
}

std::vector<int64_t> numbers(const std::string& text) {
  std::vector<int64_t> list;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    try {
      list.push_back(std::stoll(word));
    } catch (const std::exception&) {
      list.push_back(-1);
    }
    if (list.back() < 0 || list.back() > 1 << 20) {
      fail(ErrorCode::usage, "{}: expected whole numbers separated by commas", text);
    }
  }
  return list;
}

// Times work on one engine.
class SpeedMeter {
 public:
  SpeedMeter(Engine& engine, const EngineBench& bench) : engine_(engine), bench_(bench) {
    uint64_t state = 1;
    for (int64_t i = 0; i < engine.config().context; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      tokens_.push_back(
          static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(engine.config().vocabulary)));
    }
    logits_.resize(static_cast<size_t>(engine.config().vocabulary * 32));
  }

  bool fits(int64_t tokens) const { return tokens <= engine_.config().context; }

  double prefill(int64_t length) {
    return rate(length, [&] {
      KvSequence text = engine_.new_sequence();
      return timed([&] { read(text, length); });
    });
  }
  double decode(int64_t depth) {
    return rate(bench_.decode_tokens, [&] {
      KvSequence text = engine_.new_sequence();
      if (depth > 0) read(text, depth);
      return timed([&] {
        for (int64_t i = 0; i < bench_.decode_tokens; ++i) step({&text});
      });
    });
  }
  double batch(int64_t count) {
    return rate(count * bench_.decode_tokens, [&] {
      std::vector<KvSequence> texts(static_cast<size_t>(count), engine_.new_sequence());
      std::vector<KvSequence*> all;
      for (KvSequence& text : texts) {
        read(text, kBatchDepth);
        all.push_back(&text);
      }
      return timed([&] {
        for (int64_t i = 0; i < bench_.decode_tokens; ++i) step(all);
      });
    });
  }

 private:
  template <class Work>
  double timed(const Work& work) const {
    const bool one = engine_.threads() == 1;
    const double start = one ? process_cpu_seconds() : clock_seconds();
    work();
    return (one ? process_cpu_seconds() : clock_seconds()) - start;
  }
  template <class Run>
  double rate(int64_t tokens, const Run& run) const {
    std::vector<double> rates;
    for (int64_t i = 0; i < bench_.repetitions; ++i) {
      rates.push_back(static_cast<double>(tokens) / run());
    }
    return median(rates);
  }
  void read(KvSequence& text, int64_t length) {
    const EngineRun run{&text, std::span(tokens_).first(static_cast<size_t>(length))};
    const auto states = engine_.read({&run, 1});
    engine_.logits(states.last(static_cast<size_t>(engine_.config().width)),
                   std::span(logits_).first(static_cast<size_t>(engine_.config().vocabulary)));
  }
  // One token of each text, its logits and the most likely one.
  void step(const std::vector<KvSequence*>& texts) {
    std::vector<EngineRun> runs;
    for (KvSequence* text : texts) {
      runs.push_back({text, std::span(tokens_).subspan(static_cast<size_t>(text->length()), 1)});
    }
    const auto states = engine_.read(runs);
    const auto V = static_cast<size_t>(engine_.config().vocabulary);
    const auto D = static_cast<size_t>(engine_.config().width);
    const auto out = std::span(logits_).first(V * texts.size());
    const std::vector<float> kept(states.begin(), states.end());
    engine_.logits(kept, out);
    for (size_t i = 0; i < texts.size(); ++i) {
      engine_.head().greedy(std::span(kept).subspan(i * D, D), out.subspan(i * V, V),
                            engine_.config().vocabulary);
    }
  }

  Engine& engine_;
  const EngineBench& bench_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
};

// Multiply-adds a second of integers in registers, on one thread.
double product_peak() {
  double best = 0.0;
  for (int i = 0; i < 3; ++i) {
    const double start = process_cpu_seconds();
    const int64_t products = active_code_products().register_products(kPeakSteps);
    best = std::max(best, static_cast<double>(products) / (process_cpu_seconds() - start));
  }
  return best;
}

void append_rows(std::string& text, const Json& speed, const char* key, const char* what) {
  for (const auto& [n, rate] : speed[key].items()) {
    text += fmt::format("{:<8} {:>6} {:>12.1f}\n", what, n, rate.get<double>());
  }
}

}  // namespace

std::unique_ptr<const RuntimeModel> random_runtime_model(const std::string& name) {
  const ModelConfig config = shape_named(name);
  const OnlineTransforms online{.down_hadamard = true, .down_block = 128};
  const ActivationGrids grids;
  at::Generator random = at::make_generator<at::CPUGeneratorImpl>(uint64_t{1});
  const auto read = [&](Part part, QuantizedWeights& weights) {
    ParameterStore store = make_parameters(config, {.part = part});
    for (size_t i = 0; i < store.specs.size(); ++i) {
      const ParameterSpec& spec = store.specs[i];
      const at::Tensor master = store.master(static_cast<int64_t>(i));
      if (spec.kind == ParameterKind::gain) {
        master.fill_(1.0);
      } else if (spec.kind != ParameterKind::matrix) {
        master.normal_(0.0, 0.02, random);
      } else {
        QuantizedLinear& q = weights[spec.name];
        q.codes = at::randint(-8, 8, {spec.shape[0], spec.shape[1]}, random, at::kChar);
        q.scale = at::full({spec.shape[0], 1}, 0.004);
      }
    }
    return store;
  };
  return make_runtime_model({config, {4, 4, 4}, 0, online, grids, read});
}

Json measure_engine_speed(Engine& engine, const EngineBench& bench, Console& console) {
  SpeedMeter meter(engine, bench);
  Json speed;
  speed["kernels"] = engine.kernel_names();
  speed["threads"] = engine.threads();
  speed["head_bits"] = engine.head().bits();
  const auto all = [&](const char* key, const std::string& list, int64_t extra, const auto& run) {
    speed[key] = Json::object();
    for (const int64_t n : numbers(list)) {
      if (!meter.fits((std::string(key) == "batch" ? kBatchDepth : n) + extra)) continue;
      speed[key][std::to_string(n)] = run(n);
      console.line("{} {}: {:.1f} tokens/s", key, n, speed[key][std::to_string(n)].get<double>());
    }
  };
  all("prefill", bench.prefill, 0, [&](int64_t n) { return meter.prefill(n); });
  all("decode", bench.depths, bench.decode_tokens, [&](int64_t n) { return meter.decode(n); });
  all("batch", bench.sequences, bench.decode_tokens, [&](int64_t n) { return meter.batch(n); });
  speed["peak_memory_bytes"] = peak_memory_bytes();
  speed["product_peak_gops"] = 2e-9 * product_peak();
  speed["read_gb_per_s"] = 1e-9 * plain_read_rate();
  return speed;
}

std::string engine_speed_table(const Json& speed) {
  std::string text = fmt::format(
      "{}, {} thread(s), {}-bit head; integer products in registers {:.0f} Gop/s, plain read "
      "{:.1f} GB/s\n{:<8} {:>6} {:>12}\n",
      speed["kernels"].get<std::string>(), speed["threads"].get<int64_t>(),
      speed["head_bits"].get<int64_t>(), speed["product_peak_gops"].get<double>(),
      speed["read_gb_per_s"].get<double>(), "", "tokens", "tokens/s");
  append_rows(text, speed, "prefill", "prefill");
  append_rows(text, speed, "decode", "decode");
  append_rows(text, speed, "batch", "texts");
  return text +
         fmt::format("peak memory {:.0f} MB\n", 1e-6 * speed["peak_memory_bytes"].get<double>());
}

}  // namespace osp
