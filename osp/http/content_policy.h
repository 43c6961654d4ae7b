// Content security policies: which scripts and styles a browser may run for a page.
//
// Tested by content_policy_test.cpp.
#pragma once

#include <string>
#include <string_view>

namespace osp {

// The source 'sha256-…' (the digest in base 64) that allows an inline script or style
// with this text.
std::string content_hash(std::string_view text);

}  // namespace osp
