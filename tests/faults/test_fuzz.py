"""What users give and is damaged or odd ends in the project's own error that names it, or is read as it should be.

FUZZ_CASES=20000 FUZZ_SEED=1 python -m pytest -m slow tests/faults      # more cases, for all kinds together, and others
"""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPO
from tests.faults.kinds import KINDS

CASES = int(os.environ.get("FUZZ_CASES", "1000"))
SEED = os.environ.get("FUZZ_SEED", "0")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_files_are_refused_or_read_right(kind):
    command = [sys.executable, "-W", "error", "-m", "tests.faults", kind, "--cases", str(-(-CASES // len(KINDS)))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "--seed", SEED], cwd=REPO, env=environment, timeout=60 + CASES, capture_output=True, text=True
    )
    last = "\n".join(result.stdout.splitlines()[-2:])  # the case that ended the process, if one did
    assert result.returncode == 0, f"{last}\n{result.stderr}"
