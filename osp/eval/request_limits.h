// Limits of requests to a model: its vocabulary and its context.
// Tested by request_scorer_test.cpp and request_generator_test.cpp.
#pragma once

#include <cstdint>
#include <span>

namespace osp {

// Error(damaged) naming the request (counted from 0) and the first id that is not below the
// vocabulary.
void check_request_ids(std::span<const int32_t> ids, int64_t vocabulary, size_t request);

// The newest tokens of a context that leave room for `after` more. Error(usage) for an empty
// context, Error(unsupported) if there is no room for one token of it.
std::span<const int32_t> cut_context(std::span<const int32_t> context, int64_t after, int64_t limit,
                                     size_t request);

}  // namespace osp
