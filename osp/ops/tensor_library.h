// Settings that the tensor library needs before its first use in a process.
//
// Tested by tests/python/test_repeatable.py and, as every test program calls it, by all tests.
#pragma once

namespace osp {

// Must run before the tensor library is first used. Sets ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA
// to match OSP_ISA, where it is set, with the errors of active_isa().
void prepare_tensor_library();

// Calls every elementwise function of oneMKL that osp uses once in the life of the process, from
// this thread alone. oneMKL chooses the kernel of a function at the first call of it, and where two
// threads make that call side by side, one of them may run its part by a kernel of low accuracy
// (5e-6 relative instead of 1e-7; PyTorch's issue 188792, oneMKL 2024). Whatever makes or loads the
// parameters of a model calls this; a program that computes without them does so itself. It costs
// some MB of memory, which `osp report` need not have.
void prepare_vector_functions();

}  // namespace osp
