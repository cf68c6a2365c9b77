#!/usr/bin/env bash
# Checks and times the engine on one accelerator in less than ten minutes.
#
#     scripts/device_check.sh                   on the first GPU; results in $OUT, by default device_check/
#     scripts/device_check.sh --tiny            on the CPU with tiny settings, to see that the script works
#     PEER=path/to/python scripts/device_check.sh    the Python that has PyTorch, by default the same one
#
# It writes a line of JSON for each step to $OUT/rows.jsonl as soon as the step ends, and a table to $OUT/table.md.
# It needs jax, flax, optax and numpy; pytest for the tests, and torch for the comparison.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" scripts/device_check.py --out "${OUT:-device_check}" --peer "${PEER:-${PYTHON:-python}}" "$@"
