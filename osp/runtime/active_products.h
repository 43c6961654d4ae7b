// The integer tiles that this machine uses, after a test of each level at the start: a CPU, an
// emulator or a compiler that gets one integer wrong would give other texts without a word.
//
// Tested by active_products_test.cpp.
#pragma once

#include <span>

#include "osp/runtime/code_products.h"

namespace osp {

// The tiles of the active instruction set (osp/ops/isa.h), tested at the first call.
const kernels::CodeProducts& active_code_products();

// True if every tile of the level gives the integers of the portable one on a small product.
bool gives_exact_products(const kernels::CodeProducts& level);

// The first level that does, with a warning on stderr for each before it; the last one is
// taken as it is.
const kernels::CodeProducts& first_exact_products(
    std::span<const kernels::CodeProducts* const> levels);

}  // namespace osp
