#!/usr/bin/env bash
# Make .venv, install the requirements, put data into place. Safe to repeat: the second call takes seconds.
#
#   bash setup.sh                               data/train/train.npz if it is there, else the embedded sample
#   bash setup.sh --scale 2                     a sample twice as large (--seed N: another one)
#   bash setup.sh --zip train.zip test.zip      unpack the challenge's archives into data/
#   KAGGLE_COMPETITION=<slug> bash setup.sh     download them with the Kaggle CLI (its credentials are yours to set)
#   PYTHON=python3.12 VENV=~/venvs/t2i bash setup.sh     another Python, another place for the environment
#   CONSTRAINTS=/dev/null bash setup.sh         the newest versions that requirements.txt allows, not the tested ones
#
# Call it from any folder: the paths that you name are seen from there. Data that it did not make are never overwritten.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as `sh setup.sh`
set -euo pipefail
project=$(dirname "${BASH_SOURCE[0]}")
PYTHON=${PYTHON:-python3}
VENV=${VENV:-$project/.venv}
[[ -r $project/constraints.txt ]] && tested=$project/constraints.txt || tested=/dev/null
CONSTRAINTS=${CONSTRAINTS:-$tested}
for name in PYTHON VENV CONSTRAINTS; do # ~ in quotes
    [[ ${!name} != '~/'* ]] || printf -v "$name" %s "$HOME/${!name:2}"
done

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
if [[ ! -r $CONSTRAINTS ]]; then
    echo "error: $CONSTRAINTS: no such file; name one with CONSTRAINTS=" >&2
    exit 2
fi

installed=$VENV/installed-requirements.txt
if ! cat "$project/requirements.txt" "$CONSTRAINTS" | cmp -s - "$installed"; then
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $PYTHON is not a Python of version 3.11 or later; name one with PYTHON=" >&2
        exit 2
    fi
    [[ -x $VENV/bin/pip ]] || "$PYTHON" -m venv "$VENV"
    echo "installing requirements.txt into $VENV (some 6 GB with PyTorch's CUDA libraries)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r "$project/requirements.txt" -c "$CONSTRAINTS"
    cat "$project/requirements.txt" "$CONSTRAINTS" > "$installed.part"
    mv "$installed.part" "$installed"
fi
# -P: nothing of the caller's folder is imported.
PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH} exec "$VENV/bin/python" -P -m src.sample.prepare --data-dir "$project/data" "$@"
