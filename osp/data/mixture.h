// Several corpora as one: which of them each training sequence is taken from.
//
// Sequences ("visits") come in blocks of kMixtureBlock. Of a block, source k has n_k visits, its
// weight's share by largest remainders (Σ n_k = kMixtureBlock), and a shuffle of (seed, block) says
// which visits of the block they are. Visit i of a block, if it is the r-th of source k there, is
// visit block · n_k + r of that source: a pure function of (seed, visit), so that a run needs no
// state of it, and each source's visits come in their order without gaps. With one source, visit v
// is its visit v.
//
// Tested by osp/data/mixture_test.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "osp/data/dataset.h"

namespace osp {

inline constexpr uint64_t kMixtureBlock = 65536;

struct MixtureSource {
  std::string name;  // for messages and logs; "" for the only one
  const TokenDataset* data = nullptr;
  double weight = 1;  // relative to those of the others
};

// Refers to data sets that must outlive it.
class Mixture {
 public:
  Mixture(const TokenDataset& data)
      : Mixture({{"", &data, 1}}) {}  // NOLINT(google-explicit-constructor)
  Mixture(TokenDataset&&) = delete;
  // Error(usage) naming the source for a weight that is not above 0 or less than
  // 1 / kMixtureBlock of all.
  explicit Mixture(std::vector<MixtureSource> sources);

  const std::vector<MixtureSource>& sources() const { return sources_; }
  bool is_mixed() const { return sources_.size() > 1; }
  // Of all sequences, the part that comes from a source.
  double share(size_t source) const;

  struct Visit {
    size_t source = 0;
    uint64_t number = 0;  // of this source
  };
  // Thread-safe. The table of the block that was asked for last is kept.
  Visit at(uint64_t visit, uint64_t seed) const;
  // Adds to `counts` how many of the visits [begin, end) each source has.
  void count(uint64_t begin, uint64_t end, uint64_t seed, std::vector<uint64_t>& counts) const;

 private:
  struct Block;
  struct LastBlock;
  std::shared_ptr<const Block> block(uint64_t number, uint64_t seed) const;

  std::vector<MixtureSource> sources_;
  std::vector<uint64_t> of_block_;  // n_k
  std::shared_ptr<LastBlock> last_;
};

}  // namespace osp
