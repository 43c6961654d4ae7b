// Shape and options of a model: a pre-norm Llama with the paper's switches.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/fields.h"

namespace osp {

// Every field by recipe, section [model]. 0 means "derive": see resolved().
struct ModelConfig {
  int64_t layers = 6;
  int64_t width = 256;
  int64_t heads = 4;
  int64_t kv_heads = 0;    // 0: heads
  int64_t head_size = 0;   // 0: width / heads
  int64_t inner = 0;       // 0: 8 width / 3 rounded up to a multiple of 128
  int64_t vocabulary = 0;  // 0: that of the data
  int64_t context = 256;
  std::string norm = "single-scale";
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  bool tied = false;
  bool qk_norm = false;
  bool embedding_projection = true;
  double init_std = 0.02;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("layers", self.layers, Range{1, 1024}, "transformer blocks");
    visit("width", self.width, Range{8, 65536}, "channels of the residual stream");
    visit("heads", self.heads, Range{1, 1024}, "query heads");
    visit("kv_heads", self.kv_heads, Range{0, 1024},
          "key and value heads; 0: as many as query heads");
    visit("head_size", self.head_size, Range{0, 1024}, "channels of a head; 0: width / heads");
    visit("inner", self.inner, Range{0, 1 << 20},
          "inner size of the feed-forward network; 0: 8 width / 3 up to a multiple of 128");
    visit("vocabulary", self.vocabulary, Range{0, 1 << 24}, "tokens; 0: the tokenizer's");
    visit("context", self.context, Range{2, 1 << 20}, "tokens of a training sequence");
    visit("norm", self.norm, Choices{{"rms", "single-scale", "simple"}},
          "RMSNorm with a weight per channel, with one scalar (SSNorm), or with none");
    visit("norm_eps", self.norm_eps, Range{0, 1}, "added to the mean square");
    visit("rope_theta", self.rope_theta, Range{1, 1e9}, "base of the rotary embedding");
    visit("tied", self.tied, "the head shares the embedding's matrix");
    visit("qk_norm", self.qk_norm, "RMSNorm of each query and key head before the rotation");
    visit("embedding_projection", self.embedding_projection,
          "full-rank projections after the embedding and before the head (EmbProj)");
    visit("init_std", self.init_std, Range{0, 10}, "standard deviation of the initial weights");
  }
};

// The same configuration with every derived size filled in. Error(usage) if sizes contradict each
// other (heads that do not divide the width, kv_heads that do not divide heads, odd head_size,
// EmbProj with a tied head), naming both and saying what to change.
ModelConfig resolved(ModelConfig config);

}  // namespace osp
