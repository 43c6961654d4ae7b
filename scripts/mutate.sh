#!/usr/bin/env bash
# Mutation testing: changes one line at a time (a constant, a comparison, a sign, a removed statement …)
# and looks whether the tests of the folder notice. What survives shows what no test could fail for.
#
#   scripts/mutate.sh [--folders A,B] [--count N] [--seed S] [--minutes M] [--jobs J]
#   scripts/mutate.sh --list               all mutants, one a line
#   scripts/mutate.sh --only ID...         these mutants, by the names that --list prints
#   scripts/mutate.sh --report             the table of what build/mutate/results.jsonl holds
#
# Mutants are built in build/mutate from the objects of build/release, which is brought up to date first. A
# run that was stopped goes on where it was: results are kept by mutant. See docs/mutation.md.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python scripts/mutate.py "$@"
