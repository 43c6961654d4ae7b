// The processes that train one model together (ranks), and what they say to each other.
//
// Python makes the group (torch.distributed: Gloo between CPUs, NCCL between GPUs); a program that
// was started otherwise is alone. Every rank must call the same functions in the same order.
//
// Tested by tests/python/test_ranks.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "osp/base/error.h"

namespace osp {

// How long ranks wait for each other where some read or write files: hashing shards, verifying and
// saving checkpoints.
inline constexpr double kPatience_s = 3600;

// Another rank is gone, or does not answer in time. Only it knows why.
class LostRank : public Error {
 public:
  explicit LostRank(const std::string& message) : Error(ErrorCode::io, message) {}
};

// An exchange that is under way. Its tensors must not be touched until wait() returns.
class Pending {
 public:
  Pending() = default;  // done
  // Error as the exchange's, LostRank.
  void wait();

 private:
  friend class Ranks;
  struct Work;  // keeps the library's headers out of here
  std::shared_ptr<Work> work_;
};

class Ranks {
 public:
  Ranks() = default;  // alone
  // The group that OSP_PROCESS_GROUP names in this process; alone where it is not set.
  static Ranks of_process();

  // The same ranks in a group of their own (OSP_SAVE_GROUP), for another thread: exchanges of the
  // two groups may be under way at the same time.
  Ranks for_other_thread() const;

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  bool alone() const { return size_ == 1; }
  bool is_first() const { return rank_ == 0; }
  // How long a function waits for the others before it fails.
  void set_timeout(double seconds) { timeout_ = std::chrono::milliseconds(int64_t(seconds * 1e3)); }

  // This group with more time: for the meeting after work that may take one rank much longer
  // than another, such as reading files.
  Ranks patient(double seconds) const;
  // This group, whose all_gather() and texts_of_all() wait no longer once `given_up` is true:
  // LostRank.
  Ranks until(std::shared_ptr<const std::atomic<bool>> given_up) const;

  // In all of the following a rank that is gone, or does not answer in time, is a LostRank.

  // Sends in[sizes before r …][0 … in_sizes[r]) to rank r, elements of a contiguous tensor, and
  // receives out_sizes[r] elements of it into `out`, in the order of ranks.
  void all_to_all(const at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_sizes,
                  std::vector<int64_t> in_sizes) const;
  // Starts the same and returns; several may be under way, and all ranks must start them in
  // the same order.
  Pending start_all_to_all(const at::Tensor& out, const at::Tensor& in,
                           std::vector<int64_t> out_sizes, std::vector<int64_t> in_sizes) const;
  // [size, own…]: the tensors of all ranks, which must have the same shape.
  at::Tensor all_gather(const at::Tensor& own) const;
  // Overwrites a tensor with that of the first rank.
  void from_first(const at::Tensor& tensor) const;

  // The largest value of all ranks, and the sum.
  int64_t largest(int64_t value) const;
  int64_t sum(int64_t value) const;
  // The text that the first rank gives; waits as long as it works at it, at most `patience_s`.
  std::string text_of_first(const std::string& text, double patience_s) const;
  // The texts of all ranks, on every rank.
  std::vector<std::string> texts_of_all(const std::string& own) const;

 private:
  struct Group;  // keeps the library's headers out of here
  std::shared_ptr<Group> group_;
  int64_t rank_ = 0;
  int64_t size_ = 1;
  std::chrono::milliseconds timeout_{120000};
  std::shared_ptr<const std::atomic<bool>> given_up_;  // null: nobody can
};

// A statement of a rank before the first step, to be compared: "recipe", its hash.
struct Statement {
  std::string name;
  std::string text;
};

// Compares the statements of all ranks, at most 16, by one exchange of fixed size. Returns the
// names of those in which a rank differs from the first, with both texts: "recipe (12ab on rank 0,
// 34cd on rank 1)", or nothing.
std::vector<std::string> disagreements(const Ranks& ranks,
                                       const std::vector<Statement>& statements);

}  // namespace osp
