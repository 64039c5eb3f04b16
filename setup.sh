#!/usr/bin/env bash
# Make .venv, install the requirements, put data into place. Safe to repeat: the second call takes seconds.
#
#   bash setup.sh                               data/train/train.npz if it is there, else the embedded sample
#   bash setup.sh --scale 2                     a sample twice as large (--seed N: another one)
#   bash setup.sh --zip train.zip test.zip      unpack the challenge's archives into data/
#   KAGGLE_COMPETITION=<slug> bash setup.sh     download them with the Kaggle CLI (its credentials are yours to set)
#   bash setup.sh --system                      no .venv: what lacks is added to the Python that is there, whose
#                                               PyTorch and NumPy stay, as on Kaggle and Colab
#   bash setup.sh --cpu                         PyTorch without CUDA: one GB instead of six
#   PYTHON=python3.12 VENV=~/venvs/t2i bash setup.sh     another Python, another place for the environment
#   CONSTRAINTS=/dev/null bash setup.sh         the newest versions that requirements.txt allows, not the tested ones
#
# Call it from any folder: the paths that you name are seen from there. Data that it did not make are never overwritten.
# uv installs where there is one, else pip.
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

system='' cpu='' rest=()
for word in "$@"; do
    case $word in
    --system) system=yes ;;
    --cpu) cpu=yes ;;
    *) rest+=("$word") ;;
    esac
done
if [[ $system && $cpu ]]; then
    echo "error: --system keeps the PyTorch that is there, --cpu installs one; give one of them" >&2
    exit 2
fi

uv=$(command -v uv) || true
[[ $system ]] && python=$PYTHON || python=$VENV/bin/python
install() { # what and by which constraints
    if [[ $uv ]]; then
        "$uv" pip install --quiet --python "$python" ${cpu:+--torch-backend=cpu} "$@"
    else
        "$python" -m pip install --quiet --disable-pip-version-check \
            ${cpu:+--extra-index-url https://download.pytorch.org/whl/cpu} "$@"
    fi
}
wanted=$(cat "$project/requirements.txt" "$CONSTRAINTS" && echo "${cpu:+# cpu}")
installed=$VENV/installed-requirements.txt
if [[ $system || $wanted != "$(cat "$installed" 2> /dev/null)" ]]; then
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        echo "error: $PYTHON is not a Python of version 3.11 or later; name one with PYTHON=" >&2
        exit 2
    fi
    if [[ $system ]]; then
        there=$(mktemp)
        trap 'rm -f "$there"' EXIT
        "$python" - torch torchvision numpy > "$there" << 'END'
import sys
from importlib.metadata import distributions
print(*{f"{it.name}=={it.version}" for it in distributions() if it.name in sys.argv}, sep="\n")
END
        install -r "$project/requirements.txt" -c "$there"
        rm -f "$there" # exec, below, is no exit
    else
        if [[ ! -x $VENV/bin/pip ]]; then
            if [[ $uv ]]; then "$uv" venv --quiet --seed --python "$PYTHON" "$VENV"; else "$PYTHON" -m venv "$VENV"; fi
        fi
        [[ $cpu ]] && size="about 1 GB" || size="some 6 GB with PyTorch's CUDA libraries; --cpu goes without"
        echo "installing requirements.txt into $VENV ($size)"
        install -r "$project/requirements.txt" -c "$CONSTRAINTS"
        echo "$wanted" > "$installed.part"
        mv "$installed.part" "$installed"
    fi
fi
# -P: nothing of the caller's folder is imported.
PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m src.sample.prepare --data-dir "$project/data" ${rest[@]+"${rest[@]}"}
