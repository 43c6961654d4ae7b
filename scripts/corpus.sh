#!/usr/bin/env bash
# Builds a corpus of English and code from Debian packages, as token shards for `osp train`.
# Usage: scripts/corpus.sh [--small] [--out FOLDER] [--vocabulary N] [--packages FOLDER] [--table]
#   (no option)        all packages of scripts/corpus_text.py: 0.9 GB to download, 4.6 GB on disk
#   --small            four of them, 2 MB to download, for a trial
#   --out FOLDER       where text and tokens go; default runs/corpus (--small: runs/corpus-small)
#   --vocabulary N     trains a vocabulary of N tokens on the first 64 MB, into FOLDER/tokens-N; needs
#                      scripts/setup.sh --with-tests. Default: recipes/gcide-4096, into FOLDER/tokens
#   --packages FOLDER  takes the .deb files of this folder and downloads nothing
#   --table            also prints documents, bytes and tokens of every package as a Markdown table
# A second call does only what is missing. The environment's OSP names another program than
# build/release/osp. docs/corpus.md lists the packages, their licences and sizes.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "corpus: $1" >&2; exit "${2:-2}"; }
usage() { sed -n '3,11s/^# \?//p' scripts/corpus.sh >&2; exit 2; }
value() { if [ $# -lt 2 ]; then fail "$1 needs a value"; fi; printf '%s' "$2"; }
small='' out='' vocabulary='' given='' table=''
while [ $# -gt 0 ]; do
  case "$1" in
    --small) small=--small ;;
    --table) table=1 ;;
    --out) out=$(value "$@"); shift ;;
    --vocabulary) vocabulary=$(value "$@"); shift ;;
    --packages) given=$(value "$@"); shift ;;
    *) usage ;;
  esac
  shift
done
[ -n "$out" ] || out=runs/corpus${small:+-small}
[[ "$vocabulary" =~ ^[0-9]*$ ]] || fail "--vocabulary takes a number, not '$vocabulary'"
[ -z "$given" ] || [ -d "$given" ] || fail "--packages $given: no such folder"
osp=${OSP:-build/release/osp}
[ -x "$osp" ] || fail "$osp is missing; run scripts/build.sh osp first"
command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing: this script needs Debian or Ubuntu"
if [ -n "$vocabulary" ] && ! .venv/bin/python -c 'import tokenizers' 2>/dev/null; then
  fail "--vocabulary needs the Python package tokenizers; run scripts/setup.sh --with-tests first"
fi
start=$SECONDS
say() { printf 'corpus [%d min]: %s\n' $(((SECONDS - start) / 60)) "$*" >&2; }
text() { python3 scripts/corpus_text.py "$@"; }

packages=${given:-.cache/corpus}
mkdir -p "$packages" "$out/text"
free=$(df --output=avail -m "$out" | tail -1)
if [ -z "$small" ] && [ ! -d "$out/documents" ] && [ "$free" -lt 6000 ]; then
  fail "$out has $free MB free, and the corpus needs 6000; name another disk with --out" 5
fi

# file_of PACKAGE: its .deb, or nothing.
file_of() { compgen -G "$packages/$1_*.deb" | sort | tail -1 || true; }

updated=''
offered() {
  apt-cache show "$1" >/dev/null 2>&1 && return
  if [ -z "$updated" ]; then
    updated=1
    if [ "$(id -u)" -eq 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi >&2 || true
  fi
  apt-cache show "$1" >/dev/null 2>&1
}

# download PACKAGE: into a folder of its own first, so that an interrupted file is never taken for a whole one.
download() {
  local partial=$packages/partial
  rm -rf "$partial" && mkdir -p "$partial"
  (cd "$partial" && apt-get download -qq "$1") 2>"$packages/error.txt" \
    || fail "cannot download $1; check the network, or call 'apt-get update'. apt says: $(tail -1 "$packages/error.txt")" 5
  mv "$partial"/*.deb "$packages/"
}

# From package to text, one at a time and without unpacking on disk.
missing=()
names=$(text list $small)
count=$(wc -w <<<"$names")
number=0
for name in $names; do
  number=$((number + 1))
  if [ -f "$out/text/$name.jsonl" ]; then continue; fi
  if [ -z "$(file_of "$name")" ]; then
    if [ -n "$given" ] || ! offered "$name"; then
      missing+=("$name")
      continue
    fi
    say "$number of $count: downloading $name"
    download "$name"
  fi
  say "$number of $count: text of $name"
  status=0
  text extract "$name" "$(file_of "$name")" "$out/text/$name.jsonl" || status=$?
  case $status in
    0) rm -rf "$out/documents" ;;
    4) missing+=("$name") ;;
    *) exit "$status" ;;
  esac
done
[ ${#missing[@]} -eq 0 ] || say "not to be had here, left out: ${missing[*]}"
compgen -G "$out/text/*.jsonl" >/dev/null || fail "no package to be had; check 'apt-get update'" 5

if [ ! -d "$out/documents" ]; then
  say "mixing the documents"
  text mix "$out/text" "$out/documents"
fi

tokenizer=recipes/gcide-4096 tokens=$out/tokens
if [ -n "$vocabulary" ]; then
  tokenizer=$out/vocabulary-$vocabulary tokens=$out/tokens-$vocabulary
  if [ ! -f "$tokenizer/tokenizer.json" ]; then
    say "training a vocabulary of $vocabulary tokens"
    text sample "$out/documents" "$out/sample.txt"
    .venv/bin/python scripts/make_vocabulary.py "$out/sample.txt" "$tokenizer/tokenizer.json" \
      --vocabulary "$vocabulary"
    rm "$out/sample.txt"
  fi
fi
# Shards that are older than the documents belong to an earlier choice of packages.
if [ ! -f "$tokens/index.json" ] || [ "$out/documents" -nt "$tokens/index.json" ]; then
  say "tokenizing into $tokens"
  "$osp" tokenize "$out/documents" --tokenizer "$tokenizer" --validation-fraction 0.004 --overwrite \
    --out "$tokens"
fi

if [ -n "$table" ]; then
  for name in $names; do
    index=$tokens/by-package/$name.json
    if [ ! -f "$out/text/$name.jsonl" ] || [ "$index" -nt "$out/text/$name.jsonl" ]; then continue; fi
    mkdir -p "$tokens/by-package"
    "$osp" tokenize "$out/text/$name.jsonl" --tokenizer "$tokenizer" --overwrite --out "$out/one" --quiet
    mv "$out/one/index.json" "$index" && rm -rf "$out/one"
  done
  text table "$tokens/by-package" "$out/text" "$packages" $small
fi
say "done: $(text total "$tokens/index.json"); train with --set data.path=$tokens"
