#include "osp/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/philox.h"

namespace osp {
namespace {

// kMixtureBlock as the weights divide it: rounded down, and the rest to the largest remainders, the
// first of equal ones.
std::vector<uint64_t> divided_block(const std::vector<MixtureSource>& sources) {
  double sum = 0;
  for (const MixtureSource& source : sources) {
    if (!(source.weight > 0) || !std::isfinite(source.weight)) {
      fail(ErrorCode::usage,
           "data.source {}: weight = {}, expected a number above 0; leave the "
           "source out to train without it",
           source.name, source.weight);
    }
    sum += source.weight;
  }
  std::vector<uint64_t> parts;
  std::vector<double> remainders;
  uint64_t divided = 0;
  for (const MixtureSource& source : sources) {
    const double exact = source.weight / sum * static_cast<double>(kMixtureBlock);
    if (!(exact >= 1)) {
      fail(
          ErrorCode::usage,
          "data.source {}: weight = {} is less than 1/{} of all weights together, {}; raise it, or "
          "leave the source out",
          source.name, source.weight, kMixtureBlock, sum);
    }
    parts.push_back(static_cast<uint64_t>(exact));
    remainders.push_back(exact - std::floor(exact));
    divided += parts.back();
  }
  std::vector<size_t> order(sources.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (size_t i = 0; divided < kMixtureBlock; ++i, ++divided) ++parts[order[i % order.size()]];
  return parts;
}

}  // namespace

// Of each visit of a block its source, and which of this source's in the block it is.
struct Mixture::Block {
  uint64_t number = 0, seed = 0;
  std::vector<uint32_t> source, rank;
};

struct Mixture::LastBlock {
  std::mutex mutex;
  std::shared_ptr<const Block> block;
};

Mixture::Mixture(std::vector<MixtureSource> sources)
    : sources_(std::move(sources)),
      of_block_(divided_block(sources_)),
      last_(std::make_shared<LastBlock>()) {
  OSP_CHECK(!sources_.empty(), "a mixture of nothing");
}

double Mixture::share(size_t source) const {
  return static_cast<double>(of_block_[source]) / static_cast<double>(kMixtureBlock);
}

Mixture::Visit Mixture::at(uint64_t visit, uint64_t seed) const {
  if (!is_mixed()) return {0, visit};
  const std::shared_ptr<const Block> of = block(visit / kMixtureBlock, seed);
  const auto i = static_cast<size_t>(visit % kMixtureBlock);
  const size_t source = of->source[i];
  return {source, of->number * of_block_[source] + of->rank[i]};
}

std::shared_ptr<const Mixture::Block> Mixture::block(uint64_t number, uint64_t seed) const {
  const std::lock_guard lock(last_->mutex);
  if (last_->block && last_->block->number == number && last_->block->seed == seed) {
    return last_->block;
  }
  auto made = std::make_shared<Block>(Block{number, seed, {}, {}});
  std::vector<uint32_t> taken(sources_.size());
  for (uint64_t i = 0; i < kMixtureBlock; ++i) {
    // Places 0 … n_0 − 1 of the shuffle are of source 0, and so on.
    uint64_t place = shuffled_index(i, kMixtureBlock, seed, "data.sources", number);
    uint32_t source = 0;
    while (place >= of_block_[source]) place -= of_block_[source++];
    made->source.push_back(source);
    made->rank.push_back(taken[source]++);
  }
  last_->block = made;
  return made;
}

void Mixture::count(uint64_t begin, uint64_t end, uint64_t seed,
                    std::vector<uint64_t>& counts) const {
  counts.resize(sources_.size());
  while (begin < end) {
    if (begin % kMixtureBlock == 0 && end - begin >= kMixtureBlock) {
      for (size_t k = 0; k < counts.size(); ++k) counts[k] += of_block_[k];
      begin += kMixtureBlock;
    } else {
      ++counts[at(begin++, seed).source];
    }
  }
}

}  // namespace osp
