#!/usr/bin/env bash
# Configures and builds the release preset into build/release. Usage: scripts/build.sh [TARGET…]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f build/release/build.ninja ] || cmake --preset release >&2
cmake --build build/release --target "${@:-all}" >&2
