#include "osp/train/exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "osp/base/error.h"

namespace osp {
namespace {

// Elements of a unit of a bank.
int64_t unit_size(const TrainState& state, size_t bank) {
  return state.store.banks[bank].gradient.numel() / state.owners.units(bank);
}

// Elements of a bank that each rank owns.
std::vector<int64_t> owned_sizes(const TrainState& state, size_t bank) {
  std::vector<int64_t> sizes = state.owners.counts[bank];
  for (int64_t& size : sizes) size *= unit_size(state, bank);
  return sizes;
}

// The lists of all ranks as one.
template <class Item>
std::vector<Item> joined(const std::vector<std::vector<Item>>& lists) {
  std::vector<Item> all;
  for (const std::vector<Item>& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

int64_t own_size(const TrainState& state, const std::vector<int64_t>& sizes) {
  return sizes[static_cast<size_t>(state.ranks.rank())];
}

// Starts to send every owner's matrices of a bank's tensor to all ranks, in place.
Pending start_owned_to_all(const TrainState& state, size_t bank, const at::Tensor& tensor) {
  const int64_t rank = state.ranks.rank(), ranks = state.ranks.size();
  const std::vector<int64_t> sizes = owned_sizes(state, bank);
  const int64_t own = own_size(state, sizes);
  const at::Tensor mine = state.owners.own(bank, rank, tensor).reshape({1, own});
  return state.ranks.start_all_to_all(tensor, mine.expand({ranks, own}).contiguous(), sizes,
                                      std::vector(static_cast<size_t>(ranks), own));
}

// The sum of one of this rank's subtrees, in units: the last is in the gradient banks.
at::Tensor sum_of_subtree(const TrainState& state, size_t bank, size_t number, size_t count) {
  return state.owners.in_units(bank, number + 1 < count ? state.group_sums.of_subtree(number)[bank]
                                                        : state.store.banks[bank].gradient);
}

// The first parameter of the blocks.
int64_t first_of_blocks(const ParameterStore& store) {
  const auto in_block = [](const ParameterSpec& spec) { return spec.layer != kNoLayer; };
  return std::find_if(store.specs.begin(), store.specs.end(), in_block) - store.specs.begin();
}

bool read_as_master(const Bank& bank) {
  return bank.kind == ParameterKind::gain || bank.kind == ParameterKind::bias;
}

// Replaces masters that only owners keep by tensors of their shape without memory, whose numbers
// are NaN: whoever reads one by mistake is seen.
void drop_masters(TrainState& state) {
  for (Bank& bank : state.store.banks) {
    if (!only_owners_keep(state, bank)) continue;
    const at::Tensor one = at::full({1}, std::nan(""), bank.master.options());
    bank.master = one.expand(bank.master.sizes());
    state.masters_complete = false;
  }
}

// The bank whose matrices a state tensor GROUP.BANK.WHAT is about; −1 for a count GROUP.WHAT.
int64_t bank_of_state(const TrainState& state, const std::string& name) {
  for (size_t i = 0; i < state.store.banks.size(); ++i) {
    const Bank& bank = state.store.banks[i];
    const std::string& group = state.routing.groups[static_cast<size_t>(bank.group)].name;
    if (name.starts_with(fmt::format("{}.{}.", group, bank.name))) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace

bool only_owners_keep(const TrainState& state, const Bank& bank) {
  return !state.ranks.alone() && state.recipe.train.precision == "bf16" && !read_as_master(bank);
}

void separate_owned_masters(TrainState& state) {
  for (size_t i = 0; i < state.store.banks.size(); ++i) {
    Bank& own = state.owned.banks[i];
    if (only_owners_keep(state, state.store.banks[i])) own.master = own.master.clone();
  }
}

void weights_of_first_rank(TrainState& state) {
  if (state.ranks.alone()) return;
  for (const Bank& bank : state.store.banks) state.ranks.from_first(bank.master);
  sync_compute(state.store);
  for (size_t i = 0; i < state.store.banks.size(); ++i) {
    const Bank& bank = state.store.banks[i];
    if (!only_owners_keep(state, bank)) continue;
    state.owned.banks[i].master.copy_(state.owners.own(i, state.ranks.rank(), bank.master));
  }
  drop_masters(state);
}

// One subtree of every rank that has so many, on its way to the owners.
struct Round {
  std::vector<size_t> senders;
  at::Tensor received;  // [senders, own units of the part…]
  Pending pending;
};

struct GradientExchange::Part {
  size_t bank = 0;
  BankSlice own;  // this rank's units of the part
  std::vector<Round> rounds;
};

namespace {

// At most so many parts are under way, which bounds the memory of what is received.
constexpr size_t kMostUnderWay = 4;

BankSlice overlap(const BankSlice& one, const BankSlice& other) {
  const int64_t first = std::max(one.first, other.first);
  const int64_t last = std::min(one.first + one.count, other.first + other.count);
  return {first, std::max(last - first, int64_t{0})};
}

// Starts to send each owner its units of a part of a bank's gradient: one sum per subtree. A
// rank has one subtree or a few; in round n all send their n-th.
std::vector<Round> start_rounds(const TrainState& state, size_t bank, const BankSlice& part,
                                const std::vector<std::vector<GroupRun>>& trees,
                                size_t num_rounds) {
  const auto rank = static_cast<size_t>(state.ranks.rank());
  const at::Tensor gradient = state.owners.in_units(bank, state.store.banks[bank].gradient);
  const bool narrow = state.recipe.train.reduce_precision == "bf16";
  const at::TensorOptions options = gradient.options().dtype(narrow ? at::kBFloat16 : at::kFloat);
  std::vector<int64_t> sizes;  // of the part, by owner
  for (size_t r = 0; r < trees.size(); ++r) {
    const BankSlice owned = overlap(state.owners.slice(bank, static_cast<int64_t>(r)), part);
    sizes.push_back(owned.count * gradient[0].numel());
  }
  std::vector<Round> rounds(num_rounds);
  for (size_t n = 0; n < num_rounds; ++n) {
    Round& round = rounds[n];
    std::vector<int64_t> in_sizes(trees.size(), 0), out_sizes(trees.size(), 0);
    at::Tensor in = at::empty({0}, options);
    if (n < trees[rank].size()) {
      in = part.of(sum_of_subtree(state, bank, n, trees[rank].size())).to(options);
      in_sizes = sizes;
    }
    for (size_t r = 0; r < trees.size(); ++r) {
      if (n >= trees[r].size()) continue;
      out_sizes[r] = sizes[rank];
      round.senders.push_back(r);
    }
    std::vector<int64_t> shape = gradient.sizes().vec();
    shape[0] = sizes[rank] / gradient[0].numel();
    shape.insert(shape.begin(), static_cast<int64_t>(round.senders.size()));
    round.received = at::empty(shape, options);
    round.pending = state.ranks.start_all_to_all(round.received, in, out_sizes, in_sizes);
  }
  return rounds;
}

}  // namespace

GradientExchange::GradientExchange(TrainState& state) : state_(state) {
  const int64_t ranks = state.ranks.size();
  for (int64_t rank = 0; rank < ranks; ++rank) {
    trees_.push_back(subtrees(groups_of_rank(state.groups(), ranks, rank)));
    rounds_ = std::max(rounds_, trees_.back().size());
  }
  for (size_t i = 0; i < state.store.banks.size(); ++i) unsent_.push_back(state.owners.units(i));
}

GradientExchange::~GradientExchange() = default;

bool GradientExchange::may_send_early() const {
  return !state_.ranks.alone() && state_.groups() == state_.ranks.size();
}

void GradientExchange::blocks_done(int64_t layer) {
  // Parameters, and so the members of a bank, are in the order of the forward pass.
  const int64_t first_in_blocks = first_of_blocks(state_.store);
  std::vector<int64_t> first_units;
  double bytes = 0;
  for (size_t i = 0; i < unsent_.size(); ++i) {
    const Bank& bank = state_.store.banks[i];
    const int64_t units = state_.owners.units(i) / bank.gradient.size(0);  // of a matrix
    int64_t slot = unsent_[i] / units;
    const auto is_behind = [&](int64_t member) {
      const int64_t of_member = state_.store.specs[static_cast<size_t>(member)].layer;
      return of_member >= layer || (of_member == kNoLayer && member > first_in_blocks);
    };
    while (slot > 0 && is_behind(bank.members[static_cast<size_t>(slot - 1)])) --slot;
    first_units.push_back(slot * units);
    bytes += 4.0 * static_cast<double>((unsent_[i] - slot * units) * unit_size(state_, i));
  }
  if (bytes >= state_.recipe.train.bucket_mb * 1e6) send_from(first_units);
}

void GradientExchange::finish() {
  if (state_.ranks.alone()) {
    // There is nothing to send; the subtrees are added where they are.
    for (size_t i = 0; i < unsent_.size(); ++i) {
      std::vector<at::Tensor> sums;
      for (size_t n = 0; n < rounds_; ++n) sums.push_back(sum_of_subtree(state_, i, n, rounds_));
      add_subtrees(joined(trees_), sums);
    }
    return;
  }
  send_from(std::vector<int64_t>(unsent_.size(), 0));
  while (!under_way_.empty()) receive_oldest();
}

// Starts to send all of each bank from its unit on.
void GradientExchange::send_from(const std::vector<int64_t>& first_units) {
  for (size_t i = 0; i < unsent_.size(); ++i) {
    const BankSlice part{first_units[i], unsent_[i] - first_units[i]};
    if (part.count == 0) continue;
    if (under_way_.size() >= kMostUnderWay) receive_oldest();
    const BankSlice own = overlap(state_.owners.slice(i, state_.ranks.rank()), part);
    under_way_.push_back({i, own, start_rounds(state_, i, part, trees_, rounds_)});
    unsent_[i] = first_units[i];
  }
}

// Waits for the oldest part, and adds what all ranks have of this rank's units: the subtrees of
// the first rank first. What this rank has itself was never rounded.
void GradientExchange::receive_oldest() {
  const at::NoGradGuard no_grad;
  Part part = std::move(under_way_.front());
  under_way_.erase(under_way_.begin());
  const auto rank = static_cast<size_t>(state_.ranks.rank());
  std::vector<std::vector<at::Tensor>> received(trees_.size());  // [rank][subtree]
  for (size_t n = 0; n < part.rounds.size(); ++n) {
    Round& round = part.rounds[n];
    round.pending.wait();
    for (size_t i = 0; i < round.senders.size(); ++i) {
      at::Tensor sum = round.received[static_cast<int64_t>(i)];
      if (round.senders[i] == rank && sum.scalar_type() != at::kFloat) {
        sum = part.own.of(sum_of_subtree(state_, part.bank, n, trees_[rank].size())).clone();
      }
      received[round.senders[i]].push_back(sum.to(at::kFloat));
    }
  }
  const at::Tensor sum = add_subtrees(joined(trees_), joined(received));
  part.own.of(state_.owners.in_units(part.bank, state_.store.banks[part.bank].gradient)).copy_(sum);
}

WeightExchange::WeightExchange(TrainState& state)
    : state_(state), is_sent_(state.store.banks.size(), false) {}

void WeightExchange::send_group(int64_t group) {
  if (state_.ranks.alone()) return;
  for (size_t i = 0; i < is_sent_.size(); ++i) {
    const Bank& bank = state_.store.banks[i];
    if (is_sent_[i] || bank.group != group || !only_owners_keep(state_, bank)) continue;
    // Owners round their masters; half of the bytes travel.
    const Bank& own = state_.owned.banks[i];
    own.compute.copy_(own.master);
    start(i, bank.compute);
  }
}

void WeightExchange::finish() {
  if (state_.ranks.alone()) {
    sync_compute(state_.store);
    return;
  }
  for (const Bank& bank : state_.store.banks) send_group(bank.group);
  for (size_t i = 0; i < is_sent_.size(); ++i) {
    if (!is_sent_[i]) start(i, state_.store.banks[i].master);
  }
  while (!under_way_.empty()) wait_for_oldest();
  for (const Bank& bank : state_.store.banks) {
    const bool is_copied = !bank.compute.is_same(bank.master);
    if (is_copied && !only_owners_keep(state_, bank)) bank.compute.copy_(bank.master);
  }
  drop_masters(state_);
}

void WeightExchange::start(size_t bank, const at::Tensor& tensor) {
  is_sent_[bank] = true;
  if (under_way_.size() >= kMostUnderWay) wait_for_oldest();
  under_way_.push_back(start_owned_to_all(state_, bank, tensor));
}

void WeightExchange::wait_for_oldest() {
  under_way_.front().wait();
  under_way_.erase(under_way_.begin());
}

void masters_to_first_rank(TrainState& state) {
  if (state.masters_complete) return;
  const auto ranks = static_cast<size_t>(state.ranks.size());
  for (size_t i = 0; i < state.store.banks.size(); ++i) {
    Bank& bank = state.store.banks[i];
    if (!only_owners_keep(state, bank)) continue;
    const at::Tensor& own = state.owned.banks[i].master;
    std::vector<int64_t> sent(ranks, 0), received(ranks, 0);
    sent[0] = own.numel();
    at::Tensor whole = at::empty({0}, own.options());
    if (state.ranks.is_first()) {
      whole = at::empty(bank.master.sizes(), own.options());
      received = owned_sizes(state, i);
    }
    state.ranks.all_to_all(whole, own, received, sent);
    if (state.ranks.is_first()) bank.master = whole;
  }
  state.masters_complete = true;
}

std::vector<double> of_all_parts(const TrainState& state, const std::vector<double>& of_owned) {
  if (state.ranks.alone()) return of_owned;
  // Fill up to the longest list, so that all ranks send the same number.
  const int64_t ranks = state.ranks.size();
  const size_t banks = state.owners.counts.size();
  std::vector<size_t> lengths(static_cast<size_t>(ranks), 0);
  for (size_t bank = 0; bank < banks; ++bank) {
    for (int64_t r = 0; r < ranks; ++r) {
      lengths[static_cast<size_t>(r)] += static_cast<size_t>(state.owners.numbers(bank, r));
    }
  }
  const size_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<double> padded = of_owned;
  padded.resize(longest, 0.0);
  const at::Tensor all = state.ranks.all_gather(at::tensor(padded, at::kDouble));
  // Put them into the order of banks.
  const double* numbers = all.const_data_ptr<double>();
  std::vector<double> ordered;
  std::vector<size_t> next(static_cast<size_t>(ranks), 0);
  for (size_t bank = 0; bank < banks; ++bank) {
    for (int64_t r = 0; r < ranks; ++r) {
      const auto rank = static_cast<size_t>(r);
      for (int64_t i = 0; i < state.owners.numbers(bank, r); ++i) {
        ordered.push_back(numbers[rank * longest + next[rank]++]);
      }
    }
  }
  return ordered;
}

StatePlace place_of_state(const TrainState& state, const std::string& name,
                          const at::Tensor& tensor) {
  StatePlace place{.first = 0, .whole = tensor.sizes().vec(), .is_known = true};
  const int64_t number = bank_of_state(state, name);
  if (number < 0) return place;
  const auto bank = static_cast<size_t>(number);
  const at::Tensor& master = state.store.banks[bank].master;
  const BankSlice own = state.owners.slice(bank, state.ranks.rank());
  if (state.owners.units(bank) != master.size(0)) {
    // Of rows: a number of state for each weight.
    place.whole = master.sizes().vec();
    place.first = own.first * unit_size(state, bank);
    return place;
  }
  if (state.ranks.alone()) return place;
  if (own.count == 0) {
    place.is_known = false;
    return place;
  }
  // A matrix of the bank is one or more (heads) entries of the state.
  place.whole[0] = master.size(0) * (tensor.size(0) / own.count);
  place.first = own.first * (tensor.numel() / own.count);
  return place;
}

bool StatePlace::fits(const std::vector<int64_t>& shape) const {
  if (shape.size() != whole.size()) return false;
  const long from = is_known ? 0 : 1;
  return std::equal(whole.begin() + from, whole.end(), shape.begin() + from);
}

std::vector<WholeState> whole_optimizer_state(const TrainState& state) {
  std::vector<WholeState> all;
  std::vector<int64_t> lengths;
  for (const auto& optimizer : state.optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) {
      all.push_back({.name = name, .own = tensor, .shape = tensor.sizes().vec()});
      lengths.push_back(tensor.size(0));
    }
  }
  if (all.empty()) return all;
  const at::Tensor of_ranks = state.ranks.all_gather(at::tensor(lengths, at::kLong));
  for (size_t i = 0; i < all.size(); ++i) {
    WholeState& one = all[i];
    if (bank_of_state(state, one.name) < 0) {
      one.is_written_here = state.ranks.is_first();
      continue;
    }
    const StatePlace place = place_of_state(state, one.name, one.own);
    one.shape = place.whole;
    // A rank that has nothing of the bank knows the others' shape by their numbers of entries.
    const at::Tensor of_one = of_ranks.select(1, static_cast<int64_t>(i));
    if (!place.is_known) one.shape[0] = of_one.sum().item<int64_t>();
    one.first_byte = static_cast<uint64_t>(place.first * one.own.element_size());
  }
  return all;
}

}  // namespace osp
