#include "osp/ranks/ranks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
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

// Starts an operation and waits for it.
template <class Start>
void run(const Start& start) {
  finish(*or_lost(start));
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
  if (!c10d::is_process_group_registered(name)) {
    fail(ErrorCode::usage,
         "{} names the process group {}, which does not exist here: it is set by `python -m osp "
         "train` alone",
         kGroupVariable, name);
  }
  ranks.group_ = std::make_shared<Group>(Group{c10d::resolve_process_group(name)});
  ranks.rank_ = ranks.group_->group->getRank();
  ranks.size_ = ranks.group_->group->getSize();
  return ranks;
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
  run([&] { return group_->group->all_gather_single(out, in, options); });
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
