# osp_torch_operators(FILES...): the operators of the Python package for eager PyTorch on a CPU, as _ops.so in
# the build folder: target torch_operators. It uses PyTorch through its stable ABI alone, so that one file
# serves PyTorch 2.10 and later; so it takes sources instead of our libraries, which use ATen.
function(osp_torch_operators)
  set(kernels "")
  foreach(level portable avx2 avx512)
    list(APPEND kernels ${CMAKE_BINARY_DIR}/generated/osp/ops/kernels_${level}.cpp)
  endforeach()
  set(panels osp/ops/panel_kernels_avx512bf16.cpp osp/optim/momentum_kernels_portable.cpp)
  foreach(file ${panels})
    osp_set_kernel_flags(${file})
  endforeach()
  add_library(torch_operators MODULE ${ARGN} osp/ops/isa.cpp osp/base/error.cpp osp/optim/panel_iteration.cpp
    ${panels} ${kernels})
  # The others take the system's fmt, whose headers PyTorch has as well, but not for users of its stable ABI.
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "-isystem;${TORCH_DIR}/include"
    COMPILE_DEFINITIONS TORCH_TARGET_VERSION=0x020a000000000000)
  target_link_libraries(torch_operators PRIVATE fmt::fmt-header-only ${TORCH_DIR}/lib/libtorch_cpu.so)
  # Whoever loads it has loaded PyTorch, so no folder needs to be searched.
  set_target_properties(torch_operators PROPERTIES PREFIX "" OUTPUT_NAME _ops SUFFIX .so SKIP_BUILD_RPATH ON
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON UNITY_BUILD OFF)
  target_link_options(torch_operators PRIVATE -Wl,--exclude-libs,ALL -Wl,--as-needed)
endfunction()
