#include "osp/eval/request_scorer.h"

#include <ATen/ops/amax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/eval/prefix_groups.h"
#include "osp/eval/request_limits.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

constexpr int64_t kLogitBytes = 64 << 20;  // limit on the logits that exist at a time

// A continuation and the place of its score.
struct Choice {
  TokenSpan tokens;
  int64_t request = 0;
  ChoiceScore* score = nullptr;
};

// Choices whose contexts are equal after the cut.
struct Question {
  TokenSpan context;
  std::vector<Choice> choices;

  // Tokens of the choices that the model reads: all but the last of each.
  int64_t choice_tokens() const {
    int64_t sum = 0;
    for (const Choice& choice : choices) sum += static_cast<int64_t>(choice.tokens.size()) - 1;
    return sum;
  }
};

// A token to score, and the row of the pass that predicts it.
struct Target {
  int64_t row = 0;
  int32_t token = 0;
  ChoiceScore* score = nullptr;
};

// The cut contexts in lexicographic order, each with its choices; sizes `results` to match.
std::vector<Question> questions_of(const ParameterStore& store,
                                   std::span<const ChoiceRequest> requests,
                                   std::vector<ScoredRequest>& results) {
  // Check the ids of each choice and cut its context to fit.
  std::vector<Choice> choices;
  std::vector<TokenSpan> contexts;
  for (size_t r = 0; r < requests.size(); ++r) {
    check_request_ids(requests[r].context, store.config.vocabulary, r);
    results[r].choices.resize(requests[r].continuations.size());
    for (size_t c = 0; c < requests[r].continuations.size(); ++c) {
      const TokenSpan tokens = requests[r].continuations[c];
      ChoiceScore& score = results[r].choices[c];
      score.greedy = true;
      if (tokens.empty()) {
        fail(ErrorCode::unsupported,
             "request {}: a continuation has no tokens, so there is nothing to score", r + 1);
      }
      check_request_ids(tokens, store.config.vocabulary, r);
      const std::vector<int32_t>& whole = requests[r].context_of(c);
      check_request_ids(whole, store.config.vocabulary, r);
      const TokenSpan context =
          cut_context(whole, static_cast<int64_t>(tokens.size()) - 1, store.config.context, r);
      const int64_t cut = static_cast<int64_t>(whole.size() - context.size());
      results[r].cut = std::max(results[r].cut, cut);
      choices.push_back({tokens, static_cast<int64_t>(r), &score});
      contexts.push_back(context);
    }
  }
  // Join choices whose contexts are equal.
  std::vector<Question> questions;
  for (const int64_t i : lexicographic_order(contexts)) {
    const TokenSpan context = contexts[static_cast<size_t>(i)];
    if (questions.empty() || !std::ranges::equal(questions.back().context, context)) {
      questions.push_back({context, {}});
    }
    questions.back().choices.push_back(choices[static_cast<size_t>(i)]);
  }
  return questions;
}

// Tokens, segments and targets of one forward pass.
struct Pass {
  std::vector<int64_t> tokens;
  std::vector<Segment> segments;
  std::vector<Target> targets;

  // Appends a segment and returns the rows that it has in the pass.
  KeyRange append(TokenSpan span, const std::vector<KeyRange>& context) {
    const KeyRange rows{static_cast<int64_t>(tokens.size()), static_cast<int64_t>(span.size())};
    tokens.insert(tokens.end(), span.begin(), span.end());
    segments.push_back({rows.length, rows.begin, context});
    return rows;
  }
};

void append_question(Pass& pass, const Question& question, int64_t shared,
                     std::vector<KeyRange> context) {
  const KeyRange own = pass.append(question.context.subspan(static_cast<size_t>(shared)), context);
  context.push_back(own);
  for (const Choice& choice : question.choices) {
    pass.targets.push_back({own.begin + own.length - 1, choice.tokens[0], choice.score});
    if (choice.tokens.size() == 1) continue;
    const KeyRange rows = pass.append(choice.tokens.first(choice.tokens.size() - 1), context);
    for (size_t i = 1; i < choice.tokens.size(); ++i) {
      pass.targets.push_back(
          {rows.begin + static_cast<int64_t>(i) - 1, choice.tokens[i], choice.score});
    }
  }
}

Pass pass_of(std::span<const Question> questions, std::span<const PrefixGroup> groups) {
  Pass pass;
  for (const PrefixGroup& group : groups) {
    std::vector<KeyRange> context;
    if (group.shared > 0) {
      const TokenSpan first = questions[static_cast<size_t>(group.first)].context;
      context.push_back(pass.append(first.first(static_cast<size_t>(group.shared)), {}));
    }
    for (int64_t i = group.first; i < group.first + group.count; ++i) {
      append_question(pass, questions[static_cast<size_t>(i)], group.shared, context);
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
        logits_of_hidden(store, hidden_ND.index_select(0, on_device(rows)), tap);
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
  const std::vector<Question> questions = questions_of(store, requests, results);
  std::vector<int64_t> waiting(requests.size());  // choices that are not scored yet
  for (const Question& question : questions) {
    for (const Choice& choice : question.choices) ++waiting[static_cast<size_t>(choice.request)];
  }
  int64_t done = std::ranges::count(waiting, 0);
  for (size_t first = 0; first < questions.size();) {
    // Take as many questions as fit one pass.
    PrefixGrouper grouper;
    int64_t tokens = 0;
    size_t end = first;
    for (; end < questions.size(); ++end) {
      const int64_t more = grouper.cost(questions[end].context) + questions[end].choice_tokens();
      if (end > first && tokens + more > options.batch_tokens) break;
      grouper.add(questions[end].context);
      tokens += more;
    }
    // Run the pass and score its targets.
    const std::span<const Question> taken(questions.begin() + first, questions.begin() + end);
    const Pass pass = pass_of(taken, grouper.groups());
    const at::Tensor tokens_1N =
        at::tensor(pass.tokens).unsqueeze(0).to(store.banks.front().master.device());
    const ForwardOptions forward{.tap = options.tap, .segments = pass.segments};
    add_log_likelihoods(store, forward_hidden(store, tokens_1N, forward)[0], pass.targets,
                        options.tap);
    // Count the requests whose choices are all scored.
    for (const Question& question : taken) {
      for (const Choice& choice : question.choices) {
        if (--waiting[static_cast<size_t>(choice.request)] == 0) ++done;
      }
    }
    if (options.progress) options.progress(done, static_cast<int64_t>(requests.size()));
    first = end;
  }
  return results;
}

}  // namespace osp
