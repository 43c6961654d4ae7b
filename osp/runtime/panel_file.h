// Panel files: the layers of a quantized model as the engine reads them, which are mapped and not
// unpacked, so that a model is there at once. docs/formats.md, "Panels", has the tensors.
//
// One file serves every instruction set. It depends on the version of its layout and on that of the
// engine's arithmetic, and holds the sums of its codes, by which a changed file is found.
//
// Tested by panel_file_test.cpp and tests/python/test_panels.py.
#pragma once

#include <memory>
#include <string>

#include "osp/runtime/engine_kernels.h"
#include "osp/runtime/runtime_model.h"

namespace osp {

inline constexpr int kPanelLayout = 1;

// Writes the model and its 8-bit head to a file at `path` (not atomic by itself). `source`: SHA-256
// of the weights that the model was made from.
void write_panel_file(const RuntimeModel& model, const kernels::EngineKernels& kernels,
                      const std::string& source, const std::string& path);

// The model of a panel file with the sizes and grids of `parts` (whose reader is not used).
// Error(damaged) naming the tensor: missing, of another size, with sums that its codes do not have
// or numbers that are not finite; Error(unsupported) for other versions, and as runtime_frame.
std::unique_ptr<const RuntimeModel> map_panel_file(const QuantizedParts& parts,
                                                   const kernels::CodeProducts& products,
                                                   const std::string& path);

// The `source` of a panel file.
std::string panel_file_source(const std::string& path);

}  // namespace osp
