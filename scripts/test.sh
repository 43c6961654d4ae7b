#!/usr/bin/env bash
# Builds everything and runs all tests: ctest (C++) and pytest (whole programs and comparisons with
# PyTorch, transformers, tokenizers, safetensors and tensorboard). Formatters and linters run first.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
scripts/setup.sh --with-tests
status=0
scripts/check.sh --fast || status=$?
echo "test: building" >&2
scripts/build.sh all
echo "test: built after $((SECONDS - start)) s" >&2
# Tests run side by side: a thread that waits must not spin on the other's core.
export OMP_WAIT_POLICY=passive
ctest --test-dir build/release --output-on-failure -j "$(nproc)" || status=$?
# Files of tests go to as many workers as there are cores; a file's tests share what they have made.
.venv/bin/python -m pytest -q -rs --durations=30 -n "$(nproc)" --dist loadfile tests/python || status=$?
exit $status
