"""Every long script, killed at random moments and started again, ends with what it would have ended with.

    KILLS=200 python -m pytest -m slow -s tests/faults/test_kills.py      # so many in all, and their figures

By kill, kill -9 and Ctrl-C in turn. `train_mrr.py` is started again with --resume where it left a checkpoint.
"""

import itertools
import os
import random
import signal
import time

import pytest

from tests.faults.conftest import SCRIPTS, contents, fill, is_written_at_once, run_whole, started

KILLS_IN_A_ROW = 3  # a search gives a trial up whose process dies more often before an epoch is over
KILLS = int(os.environ.get("KILLS", "0"))
KILLED = tuple(SCRIPTS) if KILLS else ("train", "search", "clip")  # test_every_step.py kills all of them
ROUNDS = max(1, round(KILLS / KILLS_IN_A_ROW / len(KILLED)))


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_what_is_killed_and_started_again_ends_the_same(name, inputs, tmp_path):
    whole, errors = fill(tmp_path / "whole", inputs), tmp_path / "stderr"
    begun = time.monotonic()
    run_whole(name, whole)
    seconds, expected = time.monotonic() - begun, contents(whole)
    signals, draw, killed = itertools.cycle((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)), random.Random(name), 0
    for number in range(ROUNDS):
        folder = fill(tmp_path / f"round{number}", inputs)
        for _ in range(KILLS_IN_A_ROW):
            how, moment = next(signals), draw.triangular(0.2, seconds, 0.9 * seconds)
            killed += kill(name, folder, how, moment, errors)
            for path, content in contents(folder, is_written_at_once).items():
                assert path not in expected or content == expected[path], f"{path} after {how} at {moment:.2f} s"
        run_whole(name, folder)
        found = contents(folder)
        assert found.keys() == expected.keys()
        assert [path for path in found if found[path] != expected[path]] == []
    print(f"{name}: {ROUNDS * KILLS_IN_A_ROW} signals, {killed} of them while it ran ({seconds:.1f} s)")


def kill(name, folder, how, moment, errors) -> bool:
    """Start a script and kill it after some seconds. Returns whether it was still running."""
    with started(name, folder, errors) as process:
        time.sleep(moment)
        if process.poll() is None:
            # Ctrl-C reaches the whole group, kill the process alone.
            (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        status = process.wait(timeout=60)
    told = errors.read_text()
    # Ctrl-C is Python's own matter before a script's first line and after its last.
    assert "Traceback" not in told or ("KeyboardInterrupt" in told and "run_main" not in told), told[-2000:]
    assert status in (0, -how, *[130] * (how == signal.SIGINT)), told[-2000:]
    return status != 0
