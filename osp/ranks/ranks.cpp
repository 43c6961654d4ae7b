#include "osp/ranks/ranks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <utility>

#include "osp/base/error.h"

namespace osp {

// The library's handle, and the tensors that it reads and writes.
struct Pending::Work {
  c10::intrusive_ptr<c10d::Work> work;
  at::Tensor out, in;
};

struct Ranks::Group {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
};

namespace {

constexpr const char* kGroupVariable = "OSP_PROCESS_GROUP";
constexpr const char* kSaveGroupVariable = "OSP_SAVE_GROUP";
constexpr std::chrono::milliseconds kBetweenLooks{2};
constexpr int64_t kMostStatements = 16;
constexpr int64_t kStatementBytes = 160;

// The reason in a message of the library: its first line, without the place in the
// library's source.
std::string reason_of(const char* text) {
  std::string reason = text;
  reason = reason.substr(0, reason.find('\n'));
  if (reason.starts_with("[")) {
    const size_t end = reason.find("] ");
    if (end != std::string::npos) reason = reason.substr(end + 2);
  }
  reason = reason.substr(0, reason.find(". This is typically"));
  while (reason.ends_with('.') || reason.ends_with(' ')) reason.pop_back();
  return reason;
}

// The result of `body`, or the failure of an operation, which may be of several types, as
// a LostRank.
template <class Body>
auto or_lost(const Body& body) {
  std::string reason;
  try {
    return body();
  } catch (const LostRank&) {
    throw;
  } catch (const c10::Error& error) {
    reason = reason_of(error.what_without_backtrace());
  } catch (const std::exception& error) {  // gloo::IoException
    reason = reason_of(error.what());
  }
  throw LostRank(fmt::format(
      "another rank has ended or does not answer ({}); go on from the newest checkpoint with "
      "--resume",
      reason));
}

// Waits for a started operation.
void finish(c10d::Work& work) {
  or_lost([&] {
    if (!work.wait()) throw std::runtime_error("the operation was ended");
  });
}

// Starts an operation and waits for it, or until it is given up; then the library goes on with
// it alone.
template <class Start>
void run(const Start& start, const std::atomic<bool>* given_up = nullptr) {
  const auto work = or_lost(start);
  while (given_up != nullptr && !work->isCompleted()) {
    if (*given_up) throw LostRank("another rank has ended or does not answer");
    std::this_thread::sleep_for(kBetweenLooks);
  }
  finish(*work);
}

// The group that a variable names.
c10::intrusive_ptr<c10d::ProcessGroup> group_of(const char* variable, const char* name) {
  if (name == nullptr || !c10d::is_process_group_registered(name)) {
    fail(ErrorCode::usage,
         "{} names the process group {}, which does not exist here: it is set by `python -m osp "
         "train` alone",
         variable, name == nullptr ? "(none)" : name);
  }
  return c10d::resolve_process_group(name);
}

}  // namespace

void Pending::wait() {
  if (!work_) return;
  const std::shared_ptr<Work> work = std::exchange(work_, nullptr);
  finish(*work->work);
}

Ranks Ranks::of_process() {
  Ranks ranks;
  const char* name = std::getenv(kGroupVariable);
  if (name == nullptr) return ranks;
  ranks.group_ = std::make_shared<Group>(Group{group_of(kGroupVariable, name)});
  ranks.rank_ = ranks.group_->group->getRank();
  ranks.size_ = ranks.group_->group->getSize();
  return ranks;
}

Ranks Ranks::for_other_thread() const {
  if (alone()) return *this;
  Ranks copy = *this;
  copy.group_ =
      std::make_shared<Group>(Group{group_of(kSaveGroupVariable, std::getenv(kSaveGroupVariable))});
  OSP_CHECK(copy.group_->group->getRank() == rank_ && copy.group_->group->getSize() == size_,
            "{} has other ranks", kSaveGroupVariable);
  return copy;
}

Ranks Ranks::until(std::shared_ptr<const std::atomic<bool>> given_up) const {
  Ranks copy = *this;
  copy.given_up_ = std::move(given_up);
  return copy;
}

Ranks Ranks::patient(double seconds) const {
  Ranks copy = *this;
  copy.set_timeout(std::max(seconds, static_cast<double>(timeout_.count()) / 1e3));
  return copy;
}

void Ranks::all_to_all(const at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_sizes,
                       std::vector<int64_t> in_sizes) const {
  start_all_to_all(out, in, std::move(out_sizes), std::move(in_sizes)).wait();
}

Pending Ranks::start_all_to_all(const at::Tensor& out, const at::Tensor& in,
                                std::vector<int64_t> out_sizes,
                                std::vector<int64_t> in_sizes) const {
  Pending pending;
  if (alone()) {
    out.copy_(in);
    return pending;
  }
  OSP_CHECK(out.is_contiguous() && in.is_contiguous(), "exchange of parts that have gaps");
  at::Tensor to = out.view({-1}), from = in.view({-1});
  c10d::AllToAllOptions options;
  options.timeout = timeout_;
  pending.work_ = std::make_shared<Pending::Work>(Pending::Work{
      or_lost(
          [&] { return group_->group->all_to_all_single(to, from, out_sizes, in_sizes, options); }),
      to, from});
  return pending;
}

at::Tensor Ranks::all_gather(const at::Tensor& own) const {
  at::Tensor in = own.contiguous().view({-1});
  std::vector<int64_t> shape = own.sizes().vec();
  shape.insert(shape.begin(), size_);
  if (alone()) return own.clone().view(shape);
  at::Tensor out = at::empty({size_ * in.numel()}, in.options());
  c10d::AllgatherOptions options;
  options.timeout = timeout_;
  run([&] { return group_->group->all_gather_single(out, in, options); }, given_up_.get());
  return out.view(shape);
}

void Ranks::from_first(const at::Tensor& tensor) const {
  if (alone()) return;
  OSP_CHECK(tensor.is_contiguous(), "broadcast of a tensor that has gaps");
  std::vector<at::Tensor> tensors = {tensor};
  c10d::BroadcastOptions options;
  options.timeout = timeout_;
  run([&] { return group_->group->broadcast(tensors, options); });
}

int64_t Ranks::largest(int64_t value) const {
  return alone() ? value : all_gather(at::tensor({value}, at::kLong)).max().item<int64_t>();
}

int64_t Ranks::sum(int64_t value) const {
  return alone() ? value : all_gather(at::tensor({value}, at::kLong)).sum().item<int64_t>();
}

std::string Ranks::text_of_first(const std::string& text, double patience_s) const {
  if (alone()) return text;
  const at::Tensor length = at::tensor({static_cast<int64_t>(text.size())}, at::kLong);
  patient(patience_s).from_first(length);
  std::string received = text;
  received.resize(static_cast<size_t>(length.item<int64_t>()));
  if (received.empty()) return received;
  from_first(at::from_blob(received.data(), {static_cast<int64_t>(received.size())},
                           at::TensorOptions().dtype(at::kByte)));
  return received;
}

std::vector<std::string> Ranks::texts_of_all(const std::string& own) const {
  if (alone()) return {own};
  const at::Tensor lengths = all_gather(at::tensor({static_cast<int64_t>(own.size())}, at::kLong));
  // All send as much as the longest; what is sent may outlive this call (until()).
  const at::Tensor padded =
      at::zeros({std::max<int64_t>(lengths.max().item<int64_t>(), 1)}, at::kByte);
  std::memcpy(padded.mutable_data_ptr<uint8_t>(), own.data(), own.size());
  const at::Tensor all = all_gather(padded);
  std::vector<std::string> texts;
  for (int64_t rank = 0; rank < size_; ++rank) {
    texts.emplace_back(reinterpret_cast<const char*>(all[rank].const_data_ptr<uint8_t>()),
                       static_cast<size_t>(lengths[rank].item<int64_t>()));
  }
  return texts;
}

std::vector<std::string> disagreements(const Ranks& ranks,
                                       const std::vector<Statement>& statements) {
  OSP_CHECK(static_cast<int64_t>(statements.size()) <= kMostStatements, "{} statements",
            statements.size());
  at::Tensor own = at::zeros({kMostStatements, kStatementBytes}, at::kByte);
  for (size_t i = 0; i < statements.size(); ++i) {
    const std::string& text = statements[i].text;
    std::memcpy(own[static_cast<int64_t>(i)].data_ptr<uint8_t>(), text.data(),
                std::min(text.size(), static_cast<size_t>(kStatementBytes - 1)));
  }
  const at::Tensor all = ranks.all_gather(own);
  const auto said = [&](int64_t rank, int64_t i) {
    return std::string(reinterpret_cast<const char*>(all[rank][i].const_data_ptr<uint8_t>()));
  };
  std::vector<std::string> found;
  for (size_t i = 0; i < statements.size(); ++i) {
    const auto place = static_cast<int64_t>(i);
    for (int64_t rank = 1; rank < ranks.size(); ++rank) {
      if (said(rank, place) == said(0, place)) continue;
      found.push_back(fmt::format("{} (\"{}\" on rank 0, \"{}\" on rank {})", statements[i].name,
                                  said(0, place), said(rank, place), rank));
      break;
    }
  }
  return found;
}

}  // namespace osp
