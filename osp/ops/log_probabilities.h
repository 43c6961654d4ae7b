// Logarithms of probabilities over a large vocabulary.
//
// The tensor library's log_softmax and logsumexp add up a row in fp32 with few partial sums: over 49,152
// logits their result is 7e-6 too large or small on average, which a perplexity in six digits shows. Here
// the exponentials are fp32 and their sum is fp64.
//
// Tested by log_probabilities_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

namespace osp {

// log Σ_v exp(z_v) of logits fp32 [..., V], [...]. No gradient.
at::Tensor log_sums(const at::Tensor& logits);

// z − log Σ_v exp(z_v), [..., V]. No gradient.
at::Tensor log_probabilities(const at::Tensor& logits);

}  // namespace osp
