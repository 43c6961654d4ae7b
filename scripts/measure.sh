#!/usr/bin/env bash
# Measures what the documents say about speed, on this machine, and writes docs/measured/NAME.json.
# Usage: scripts/measure.sh [--list] [--peers PYTHON] [--ik PYTHON] [--onnxruntime PYTHON]
#                           [--benchmarks FOLDER] [--gptqmodel PYTHON] [--calibration PATH]
#                           [--text PATH] [--witness NAME=FILE]… [--witness-tokens N]
#                           [--witness-attribution N] [NAME…]
#   NAME…           these measurements alone (--list names them); without one all of them, some hours
#   --peers PYTHON  interpreter of the environment with llama.cpp and OpenVINO (bench/peers/run_peer.py
#                   says how to make it), for engine; without any peer osp's engine is timed alone
#   --ik PYTHON     that of the environment with ik_llama.cpp
#   --onnxruntime PYTHON    that of the environment with ONNX Runtime GenAI
#   --benchmarks FOLDER     the benchmarks' files (README, "Benchmarks"); without it eval is left out
#   --gptqmodel PYTHON      that of the environment with GPTQModel (bench/peers/gptqmodel_peer.py says how to
#                           make it); without it quantize is left out
#   --calibration PATH      text for calibration windows
#   --text PATH             text to measure SmolLM2 on, for remedies-smollm2; without it that is left out
#   --witness NAME=FILE     for causes, and as often as you like: a model that other people trained; models
#                           measured before keep their numbers
#   --witness-tokens N      tokens that these are measured on (default 4096; at least their window, 2048)
#   --witness-attribution N tokens on which every quantizer is switched on alone (default 256)
#   --list          print the names and what they measure
# Afterwards scripts/measured_tables.py writes the tables of README.md and docs/ anew from these files. The
# machine should have nothing else to do: its load is kept in each file.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x build/release/osp ] || scripts/build.sh osp
exec .venv/bin/python scripts/measure.py "$@"
