# osp_folder(NAME [TORCH] [PROGRAM name] LINK libs...): the library osp_NAME from the files of osp/NAME and,
# where there are *_test.cpp files, the test program osp_NAME_test.
#   PROGRAM       also the executable of that name and the Python module osp._engine
#   TORCH         uses the tensor library; omitted where OSP_TORCH is off
#   X_body.inc    kernels that are compiled once per instruction set; the files that include it are
#                 generated from kernel_level.cpp.in
#   X.js, X.css, X.html, X.json   embedded as strings: the functions X_js(), X_css(), X_html(), X_json()
# Every folder is added to OSP_LIBRARIES (last folder first, as a linker wants them), those with
# TORCH also to OSP_TENSOR_FOLDERS.
function(osp_folder name)
  cmake_parse_arguments(ARG "TORCH" "PROGRAM" "LINK" ${ARGN})
  set(torch "")
  if(ARG_TORCH)
    set(torch TORCH)
    set(OSP_TENSOR_FOLDERS ${OSP_TENSOR_FOLDERS} ${name} PARENT_SCOPE)
    if(NOT OSP_TORCH)
      return()
    endif()
    list(APPEND ARG_LINK torch)
  endif()
  set(folder ${CMAKE_SOURCE_DIR}/osp/${name})
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  file(GLOB bodies CONFIGURE_DEPENDS ${folder}/*_body.inc)
  foreach(body ${bodies})
    osp_generate_kernels(${name} ${body} sources)
  endforeach()
  file(GLOB assets CONFIGURE_DEPENDS ${folder}/*.css ${folder}/*.js ${folder}/*.html ${folder}/*.json)
  foreach(asset ${assets})
    osp_embed(${asset} sources)
  endforeach()
  foreach(file ${sources})
    osp_set_kernel_flags(${file})
  endforeach()

  if(ARG_PROGRAM)
    # What belongs to one of the two ways to start the program: the executable and the Python module.
    set(executable ${folder}/main.cpp ${folder}/wait_policy.cpp)
    file(GLOB module CONFIGURE_DEPENDS ${folder}/python_*.cpp)
    list(REMOVE_ITEM sources ${executable} ${module})
    add_executable(${ARG_PROGRAM} ${executable})
    target_link_libraries(${ARG_PROGRAM} PRIVATE osp_${name})
    set_target_properties(${ARG_PROGRAM} PROPERTIES UNITY_BUILD OFF)
    osp_python_module(osp_${name} ${module})
  endif()
  add_library(osp_${name} STATIC ${sources})
  target_link_libraries(osp_${name} PUBLIC ${ARG_LINK})
  osp_precompile(osp_${name} ${torch})
  set(OSP_LIBRARIES osp_${name} ${OSP_LIBRARIES} PARENT_SCOPE)
  if(tests)
    add_executable(osp_${name}_test ${tests})
    if(ARG_TORCH)
      target_sources(osp_${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/cmake/tensor_test_main.cpp)
      target_link_libraries(osp_${name}_test PRIVATE osp_${name} osp_ops GTest::gtest)
    else()
      target_link_libraries(osp_${name}_test PRIVATE osp_${name} GTest::gtest GTest::gtest_main)
    endif()
    osp_precompile(osp_${name}_test ${torch} TEST)
    target_compile_definitions(osp_${name}_test PRIVATE OSP_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    gtest_discover_tests(osp_${name}_test DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120 PROPERTIES TIMEOUT 600)
  endif()
endfunction()

# osp_python_module(LIBRARY FILES...): the Python module osp._engine, as _engine.abi3.so in the build folder.
# It shows Python its one function alone: other libraries of the process have the names of ours as well.
# Beside it lies _engine.torch, the version of PyTorch that it is for, which python/osp/engine.py compares.
function(osp_python_module library)
  add_library(python_engine MODULE ${ARGN})
  target_include_directories(python_engine SYSTEM PRIVATE ${OSP_PYTHON_INCLUDE})
  target_link_libraries(python_engine PRIVATE ${library})
  target_link_options(python_engine PRIVATE -Wl,--exclude-libs,ALL)
  set_target_properties(python_engine PROPERTIES PREFIX "" OUTPUT_NAME _engine SUFFIX .abi3.so
    CXX_VISIBILITY_PRESET hidden UNITY_BUILD OFF)
  file(WRITE ${CMAKE_BINARY_DIR}/_engine.torch "${OSP_TORCH_VERSION}\n")
endfunction()

# Adds to the list `out` one generated file per instruction set for osp/FOLDER/X_body.inc.
function(osp_generate_kernels folder body out)
  get_filename_component(family ${body} NAME)
  string(REGEX REPLACE "_body\\.inc$" "" family ${family})
  foreach(level portable avx2 avx512)
    set(file ${CMAKE_BINARY_DIR}/generated/osp/${folder}/${family}_${level}.cpp)
    configure_file(${CMAKE_SOURCE_DIR}/cmake/kernel_level.cpp.in ${file} @ONLY)
    list(APPEND ${out} ${file})
  endforeach()
  set(${out} ${${out}} PARENT_SCOPE)
endfunction()

# Kernels whose results must not depend on whether the instruction set has a fused multiply-add:
#   quantized_momentum_kernels  the same bits at every level, so that any machine resumes a run
#   grid_kernels                |code · scale − x| is 0 where it should be only if the product is
#                               rounded before the difference is taken
#   float_grid_kernels          the same bits as the quantizer of another program
#   engine_kernels              the integer engine's results are the same bits everywhere
#   moment_kernels              the same moments at every level
set(OSP_EXACT_KERNELS quantized_momentum_kernels grid_kernels float_grid_kernels engine_kernels moment_kernels)

# The instruction set is the end of a file's name. Such a file must include nothing but intrinsics
# and raw-pointer headers: an inline function would be compiled for that set in the whole program.
set(OSP_FLAGS_portable -O3 -fopenmp-simd)
set(OSP_FLAGS_avx2 -O3 -fopenmp-simd -mavx2 -mfma -mf16c)
set(OSP_FLAGS_avx512 -O3 -fopenmp-simd -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
  -mprefer-vector-width=512)
# g++ 12 warns of undefined operands inside its own intrinsics (its bug 105593).
set(OSP_FLAGS_avx512bf16 -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx2 -mfma
  -Wno-uninitialized -Wno-maybe-uninitialized)
set(OSP_FLAGS_avx512vnni -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma
  -Wno-uninitialized -Wno-maybe-uninitialized)

set(OSP_FLAGS_amx ${OSP_FLAGS_avx512} -mamx-tile -mamx-int8)

function(osp_set_kernel_flags file)
  if(NOT file MATCHES "/([^/]*)_(portable|avx2|avx512|avx512bf16|avx512vnni|amx)\\.cpp$")
    return()
  endif()
  set(flags ${OSP_FLAGS_${CMAKE_MATCH_2}})
  if(CMAKE_MATCH_1 IN_LIST OSP_EXACT_KERNELS)
    list(APPEND flags -ffp-contract=off)
  endif()
  set_source_files_properties(${file} PROPERTIES SKIP_PRECOMPILE_HEADERS ON COMPILE_OPTIONS "${flags}")
endfunction()

# Adds to the list `out` a generated file that holds `asset` as a string.
function(osp_embed asset out)
  file(RELATIVE_PATH path ${CMAKE_SOURCE_DIR} ${asset})
  string(REPLACE "." "_" stem ${path})
  set(file ${CMAKE_BINARY_DIR}/generated/${stem}.cpp)
  add_custom_command(OUTPUT ${file} DEPENDS ${asset} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
    COMMAND ${CMAKE_COMMAND} -D ASSET=${path} -D OUTPUT=${file} -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} COMMENT "Embedding ${path}" VERBATIM)
  set(${out} ${${out}} ${file} PARENT_SCOPE)
endfunction()

# osp_precompile(TARGET [TORCH] [TEST]): gives the target a precompiled header that is parsed once for
# all targets of its kind. Tests are compiled without optimisation: the code they test has it.
function(osp_precompile target)
  cmake_parse_arguments(ARG "TORCH;TEST" "" "" ${ARGN})
  set(shared osp_precompiled)
  set(headers <nlohmann/json.hpp> <fmt/format.h> <filesystem> <fstream> <functional> <map> <string> <vector>)
  set(libraries fmt::fmt nlohmann_json::nlohmann_json)
  if(ARG_TEST)
    list(PREPEND headers <gtest/gtest.h>)
    list(APPEND libraries GTest::gtest)
    target_compile_options(${target} PRIVATE -O0)
  endif()
  if(ARG_TORCH)
    list(PREPEND headers <ATen/core/Tensor.h> <ATen/TensorOperators.h>)
    list(PREPEND libraries torch)
  else()
    string(APPEND shared _plain)
  endif()
  if(ARG_TEST)
    string(APPEND shared _test)
  endif()
  if(NOT TARGET ${shared})
    if(NOT EXISTS ${CMAKE_BINARY_DIR}/precompiled.cpp)
      file(WRITE ${CMAKE_BINARY_DIR}/precompiled.cpp "")
    endif()
    add_library(${shared} OBJECT ${CMAKE_BINARY_DIR}/precompiled.cpp)
    target_link_libraries(${shared} PRIVATE ${libraries})
    target_precompile_headers(${shared} PRIVATE ${headers})
    if(ARG_TEST)
      target_compile_options(${shared} PRIVATE -O0)
    endif()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${shared})
endfunction()

# One program per file of a folder. A file that includes a tensor header, or a header of a folder that
# uses them, is linked with all libraries; the others with the byte-level folders.
function(osp_programs folder)
  list(JOIN OSP_TENSOR_FOLDERS "|" tensor_folders)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cpp)
  foreach(file ${files})
    get_filename_component(name ${file} NAME_WE)
    file(STRINGS ${file} needs_torch REGEX "(osp/(${tensor_folders})/|ATen/)")
    if(needs_torch AND NOT OSP_TORCH)
      continue()
    endif()
    add_executable(${name} ${file})
    if(needs_torch)
      target_link_libraries(${name} PRIVATE ${OSP_LIBRARIES} torch)
      osp_precompile(${name} TORCH)
    else()
      target_link_libraries(${name} PRIVATE osp_http osp_template osp_data)
      osp_precompile(${name})
    endif()
  endforeach()
endfunction()

# fuzz/NAME_fuzz.cpp defines LLVMFuzzerTestOneInput. With OSP_FUZZ (clang) it becomes a libFuzzer
# program; otherwise it is linked with fuzz/replay/main.cpp, which runs every file of
# fuzz/corpus/NAME once: that is a test.
function(osp_fuzzers folder)
  list(JOIN OSP_TENSOR_FOLDERS "|" tensor_folders)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*_fuzz.cpp)
  if(NOT OSP_FUZZ)
    add_library(osp_replay OBJECT ${CMAKE_SOURCE_DIR}/${folder}/replay/main.cpp)
    target_link_libraries(osp_replay PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
    osp_precompile(osp_replay)
  endif()
  foreach(file ${files})
    get_filename_component(name ${file} NAME_WE)
    string(REGEX REPLACE "_fuzz$" "" short ${name})
    file(STRINGS ${file} needs_torch REGEX "osp/(${tensor_folders})/")
    if(needs_torch AND NOT OSP_TORCH)
      continue()
    endif()
    if(OSP_FUZZ)
      add_executable(${name} ${file})
      target_compile_definitions(${name} PRIVATE OSP_LIBFUZZER)
      target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    else()
      add_executable(${name} ${file} $<TARGET_OBJECTS:osp_replay>)
      add_test(NAME fuzz_replay_${short} COMMAND ${name} ${CMAKE_SOURCE_DIR}/${folder}/corpus/${short})
    endif()
    if(needs_torch)
      target_link_libraries(${name} PRIVATE osp_runtime osp_eval osp_train osp_report osp_template torch)
      osp_precompile(${name} TORCH)
    else()
      target_link_libraries(${name} PRIVATE osp_report osp_template osp_data)
      osp_precompile(${name})
    endif()
  endforeach()
endfunction()
