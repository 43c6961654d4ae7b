#include "osp/eval/request_limits.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {

void check_request_ids(std::span<const int32_t> ids, int64_t vocabulary, size_t request) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocabulary) {
      fail(ErrorCode::damaged,
           "request {}: token id {}, the model's vocabulary has {}: tokenizer.json belongs to "
           "another model",
           request, id, vocabulary);
    }
  }
}

std::span<const int32_t> cut_context(std::span<const int32_t> context, int64_t after, int64_t limit,
                                     size_t request) {
  if (context.empty()) {
    fail(ErrorCode::usage, "request {}: the context has no token; give the end of a document",
         request);
  }
  const int64_t room = limit - after;
  if (room < 1) {
    fail(ErrorCode::unsupported,
         "request {}: {} tokens after the context leave no room for it, the model's context is {}",
         request, after, limit);
  }
  return context.last(std::min(context.size(), static_cast<size_t>(room)));
}

}  // namespace osp
