// For tests only: what code throws when it is given something wrong.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "osp/base/error.h"

namespace osp {

// The message of the Error of kind `code` that `action` must throw; without one the test fails and
// "" is returned.
template <class Action>
std::string message_of(ErrorCode code, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

// `action` must throw an Error of kind `code` whose message holds all of `parts`.
template <class Action>
void expect_error(ErrorCode code, const std::vector<std::string>& parts, const Action& action) {
  const std::string message = message_of(code, action);
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "\"" << part << "\" not in: " << message;
  }
}

}  // namespace osp
