#!/usr/bin/env bash
# What a GPU must show, in at most ten minutes: losses beside the CPU's, checkpoints that go from one to the
# other, and speed beside PyTorch's compiled model. Prints a table; ends with status 1 if a check failed.
# Usage: scripts/gpu_check.sh [--device cuda|cpu] [--small] [--minutes N] [--peak TFLOPS] [--out FILE]
#                             [PART…]
#   PART…           losses (and checkpoints), muon, speed; without one all of them
#   --device NAME   cuda (default) or cpu, for a trial of this script
#   --small         tiny models, for a trial of this script; its rates say nothing
#   --minutes N     all in all (default 10); what does not fit is left out with a line that says so
#   --peak TFLOPS   bf16 rate of the device, dense; by default from a list of devices by name
#   --out FILE      keep the results as JSON
# The device needs 40 GB. The program must have been built for PyTorch with CUDA; OSP names another than build/release/osp.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || { echo "gpu-check: $python is missing; run scripts/setup.sh --with-tests first" >&2; exit 2; }
exec "$python" scripts/gpu_check.py "$@"
