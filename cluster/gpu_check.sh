#!/usr/bin/env bash
# Tries every path that Shoal has on a GPU, on this machine, in at most eight minutes, and prints a table:
#
#   cluster/gpu_check.sh                  # PYTHON=/path/to/python for another than .venv/bin/python or python3
#   cluster/gpu_check.sh --rehearse       # the same code over little data on a CPU, to find mistakes of the script itself
#
# It ends with 0 if every row is good, 1 if one failed, 3 if there is no GPU here. It needs shoal[gpu], and shoal[cuvs] in its
# place for the row of cagra. Nothing is downloaded and nothing outside a temporary folder is written.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
exec timeout --kill-after=10 480 "$python" -m cluster.gpu_check "$@"
