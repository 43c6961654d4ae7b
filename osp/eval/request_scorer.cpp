#include "osp/eval/request_scorer.h"

#include <ATen/ops/amax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/eval/prefix_tree.h"
#include "osp/eval/request_limits.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

constexpr int64_t kLogitBytes = 64 << 20;  // limit on the logits that exist at a time

// A choice behind its context: the tokens that the model reads, all but the last of the choice.
struct Sequence {
  std::vector<int32_t> tokens;
  int64_t context = 0;  // tokens of the context, after the cut
  TokenSpan choice;
  int64_t request = 0;
  ChoiceScore* score = nullptr;
};

// A token to score, and the row of the pass that predicts it.
struct Target {
  int64_t row = 0;
  int32_t token = 0;
  ChoiceScore* score = nullptr;
};

// The choices of all requests behind their contexts, which are cut to fit; sizes `results` to
// match.
std::vector<Sequence> sequences_of(const ParameterStore& store,
                                   std::span<const ChoiceRequest> requests,
                                   std::vector<ScoredRequest>& results) {
  std::vector<Sequence> sequences;
  for (size_t r = 0; r < requests.size(); ++r) {
    check_request_ids(requests[r].context, store.config.vocabulary, r);
    results[r].choices.resize(requests[r].continuations.size());
    for (size_t c = 0; c < requests[r].continuations.size(); ++c) {
      // Check the ids.
      const TokenSpan choice = requests[r].continuations[c];
      results[r].choices[c].greedy = true;
      if (choice.empty()) {
        fail(ErrorCode::unsupported,
             "request {}: a continuation has no tokens, so there is nothing to score", r + 1);
      }
      check_request_ids(choice, store.config.vocabulary, r);
      const std::vector<int32_t>& whole = requests[r].context_of(c);
      check_request_ids(whole, store.config.vocabulary, r);
      // Cut the context and join both.
      const TokenSpan context =
          cut_context(whole, static_cast<int64_t>(choice.size()) - 1, store.config.context, r);
      const int64_t cut = static_cast<int64_t>(whole.size() - context.size());
      results[r].cut = std::max(results[r].cut, cut);
      Sequence& sequence = sequences.emplace_back();
      sequence.tokens.assign(context.begin(), context.end());
      sequence.tokens.insert(sequence.tokens.end(), choice.begin(), choice.end() - 1);
      sequence.context = static_cast<int64_t>(context.size());
      sequence.choice = choice;
      sequence.request = static_cast<int64_t>(r);
      sequence.score = &results[r].choices[c];
    }
  }
  return sequences;
}

std::vector<TokenSpan> spans_of(std::span<const Sequence> sequences) {
  std::vector<TokenSpan> spans;
  for (const Sequence& sequence : sequences) spans.push_back(sequence.tokens);
  return spans;
}

// The sequences in lexicographic order, so that those that begin alike are neighbours.
std::vector<Sequence> sorted_sequences(std::vector<Sequence> sequences) {
  const std::vector<TokenSpan> spans = spans_of(sequences);
  std::vector<Sequence> sorted;
  for (const int64_t i : lexicographic_order(spans)) {
    sorted.push_back(std::move(sequences[static_cast<size_t>(i)]));
  }
  return sorted;
}

// Texts that are long for longrope, behind all others. Every key of such a text is turned by other
// factors, those of its beginning too, so that it has a pass of its own and shares none.
std::vector<Sequence> long_texts_last(std::vector<Sequence> sequences, const RopeScaling& scaling) {
  if (scaling.type != "longrope") return sequences;
  const auto is_short = [&](const Sequence& sequence) {
    return !beyond_original(scaling, static_cast<int64_t>(sequence.tokens.size()));
  };
  std::stable_partition(sequences.begin(), sequences.end(), is_short);
  return sequences;
}

// Behind the last of the sequences from `first` on that one pass takes: whole questions (choices
// with one context) of at most that many tokens, counting what neighbours begin with once, or one
// question.
size_t end_of_pass(std::span<const Sequence> sequences, size_t first, int64_t batch_tokens,
                   const RopeScaling& scaling) {
  const auto is_long = [&](const Sequence& sequence) {
    return scaling.type == "longrope" &&
           beyond_original(scaling, static_cast<int64_t>(sequence.tokens.size()));
  };
  if (is_long(sequences[first])) return first + 1;
  size_t question = first;
  int64_t tokens = 0;
  for (size_t i = first; i < sequences.size(); ++i) {
    int64_t common = 0;
    if (i > first) {
      common = common_length(sequences[i - 1].tokens, sequences[i].tokens);
      const bool same_context =
          sequences[i].context == sequences[i - 1].context && common >= sequences[i].context;
      if (!same_context) question = i;
    }
    tokens += static_cast<int64_t>(sequences[i].tokens.size()) - common;
    if (is_long(sequences[i])) return i;
    if (tokens > batch_tokens && question > first) return question;
  }
  return sequences.size();
}

// Tokens, segments and targets of one forward pass.
struct Pass {
  std::vector<int64_t> tokens;
  std::vector<Segment> segments;
  std::vector<Target> targets;
};

Pass pass_of(std::span<const Sequence> sequences) {
  const PrefixTree tree = prefix_tree(spans_of(sequences));
  Pass pass;
  for (const PrefixTree::Node& node : tree.nodes) {
    const std::vector<int32_t>& tokens = sequences[static_cast<size_t>(node.sequence)].tokens;
    pass.tokens.insert(pass.tokens.end(), tokens.begin() + node.begin, tokens.begin() + node.end);
    Segment segment{node.end - node.begin, node.first_row};
    if (node.parent >= 0) {
      const Segment& before = pass.segments[static_cast<size_t>(node.parent)];
      segment.context = before.context;
      segment.context.push_back({before.slot, before.length});
    }
    pass.segments.push_back(std::move(segment));
  }
  for (size_t s = 0; s < sequences.size(); ++s) {
    const Sequence& sequence = sequences[s];
    for (size_t i = 0; i < sequence.choice.size(); ++i) {
      const int64_t before = sequence.context - 1 + static_cast<int64_t>(i);
      pass.targets.push_back(
          {tree.row(static_cast<int64_t>(s), before), sequence.choice[i], sequence.score});
    }
  }
  return pass;
}

// Adds log p of every target to its choice.
void add_log_likelihoods(const ParameterStore& store, const at::Tensor& hidden_ND,
                         std::span<const Target> targets, Tap* tap) {
  // Sort by row: targets of one row are not neighbours where a question has several choices.
  std::vector<Target> sorted(targets.begin(), targets.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Target& a, const Target& b) { return a.row < b.row; });
  const size_t most = static_cast<size_t>(std::max<int64_t>(
      1, kLogitBytes / static_cast<int64_t>(sizeof(float)) / store.config.vocabulary));
  for (size_t begin = 0, end = 0; begin < sorted.size(); begin = end) {
    // Take targets until they need `most` different rows; row_of[i] is target i's index into rows.
    std::vector<int64_t> rows, row_of, ids;
    for (; end < sorted.size(); ++end) {
      if (rows.empty() || rows.back() != sorted[end].row) {
        if (rows.size() == most) break;
        rows.push_back(sorted[end].row);
      }
      row_of.push_back(static_cast<int64_t>(rows.size()) - 1);
      ids.push_back(sorted[end].token);
    }
    // Compute the logits of those rows, and of each its log-sum-exp and maximum.
    const auto on_device = [&](const std::vector<int64_t>& x) {
      return at::tensor(x).to(hidden_ND.device());
    };
    const auto to_host = [](const at::Tensor& x) { return x.to(at::kDouble).cpu(); };
    const at::Tensor logits_RV =
        logits_of_hidden(store, hidden_ND.index_select(0, on_device(rows)), tap, /*fast=*/true);
    const at::Tensor log_sums = to_host(at::logsumexp(logits_RV, -1));
    const at::Tensor largest = to_host(at::amax(logits_RV, -1));
    const at::Tensor logits = to_host(logits_RV.index({on_device(row_of), on_device(ids)}));
    // log p = logit − log Σ exp(logits).
    for (size_t i = begin; i < end; ++i) {
      const int64_t row = row_of[i - begin];
      const double logit = logits.const_data_ptr<double>()[i - begin];
      sorted[i].score->log_likelihood += logit - log_sums.const_data_ptr<double>()[row];
      if (logit < largest.const_data_ptr<double>()[row]) sorted[i].score->greedy = false;
    }
  }
}

}  // namespace

std::vector<ScoredRequest> score_choices(const ParameterStore& store,
                                         std::span<const ChoiceRequest> requests,
                                         const ScoreOptions& options) {
  const c10::NoGradGuard no_graph;
  std::vector<ScoredRequest> results(requests.size());
  const RopeScaling& scaling = store.config.rope_scaling;
  const std::vector<Sequence> sequences =
      long_texts_last(sorted_sequences(sequences_of(store, requests, results)), scaling);
  std::vector<int64_t> waiting(requests.size());  // choices that are not scored yet
  for (const Sequence& sequence : sequences) ++waiting[static_cast<size_t>(sequence.request)];
  int64_t done = std::ranges::count(waiting, 0);
  for (size_t first = 0; first < sequences.size();) {
    // Run the pass and score its targets.
    const size_t end = end_of_pass(sequences, first, options.batch_tokens, scaling);
    const auto taken = std::span(sequences).subspan(first, end - first);
    const Pass pass = pass_of(taken);
    const at::Tensor tokens_1N =
        at::tensor(pass.tokens).unsqueeze(0).to(store.banks.front().master.device());
    const ForwardOptions forward{.tap = options.tap, .segments = pass.segments};
    add_log_likelihoods(store, forward_hidden(store, tokens_1N, forward)[0], pass.targets,
                        options.tap);
    // Count the requests whose choices are all scored.
    for (const Sequence& sequence : taken) {
      if (--waiting[static_cast<size_t>(sequence.request)] == 0) ++done;
    }
    if (options.progress) options.progress(done, static_cast<int64_t>(requests.size()));
    first = end;
  }
  return results;
}

}  // namespace osp
