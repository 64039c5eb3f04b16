"""Whatever happens at whichever step of a script on the disk, it ends in one line, and the next run ends the same.

    STEPS=99 python -m pytest -m slow -s tests/faults/test_every_step.py      # so many faults a script, and figures

A step is a file that is opened for writing, renamed or removed, a folder that is made or removed. A kill comes just
before it; Ctrl-C and a full disk are what it raises.
"""

import errno
import importlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import src.search.loop  # noqa: F401 (what takes long to import is shared with the forked processes)
from src.common.endings import run_main
from tests.conftest import REPO, assert_input_error
from tests.faults.conftest import SCRIPTS, contents, fill, is_written_at_once

STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MORE = {"clip": ("--workers", "0"), "sample": ("--scale", "0.03")}  # all in one process, and quick


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_fault_at_any_step_changes_nothing_in_the_end(name, inputs, tmp_path):
    whole = fill(tmp_path / "whole", inputs)
    status, errors, steps = run(name, whole)
    assert status == 0, errors
    expected, wrong = contents(whole), []
    tries = [(at, fault) for at in range(1, len(steps) + 1) for fault in (kill, interrupt, fill_disk)]
    tries = random.Random(name).sample(tries, min(len(tries), int(os.environ.get("STEPS", "2"))))
    for at, fault in tries:
        folder = fill(tmp_path / f"{fault.__name__}{at}", inputs)
        found = what_is_wrong(name, folder, at, fault, expected)
        wrong += [f"{fault.__name__} at {at}, {steps[at - 1]}: {each}" for each in found]
    print(f"{name}: {len(steps)} steps, {len(tries)} faults, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)


def what_is_wrong(name: str, folder: Path, at: int, fault: Callable[[], None], expected: dict) -> list[str]:
    """Run a script with a fault, then without one. Returns what is wrong after either."""
    wrong = []
    status, errors, _ = run(name, folder, at, fault)
    statuses = {kill: (-signal.SIGKILL,), interrupt: (130,), fill_disk: (0, 2)}[fault]  # 0: it did without
    if status not in statuses or "Traceback" in errors:
        wrong.append(f"status {status}: {errors[-1000:]}")
    elif status == 2:
        assert_input_error(subprocess.CompletedProcess(name, status, stderr=errors))
    found = contents(folder, is_written_at_once)
    wrong += [
        f"{path} is not what it is in the end" for path in found if found[path] != expected.get(path, found[path])
    ]
    status, errors, _ = run(name, folder)
    wrong += [f"the next run has status {status}: {errors[-1000:]}"] if status else []
    found, hidden = contents(folder), {str(path.relative_to(folder)) for path in folder.rglob(".*")}
    wrong += [f"{path} is left" for path in hidden | found.keys() - expected.keys()]
    return wrong + [f"{path} is another" for path in expected if found.get(path) != expected[path]]


def run(name: str, folder: Path, at: int = 0, fault: Callable[[], None] = kill) -> tuple[int, str, list[str]]:
    """Run a script in a forked process, with a fault at one of its steps. Returns its status, stderr and steps."""
    first, *words = [word for word in (*SCRIPTS[name], *MORE.get(name, ())) if word != "-m"]
    if name == "train" and list(folder.glob("models/*/last.pt")):
        words.append("--resume")
    errors, steps = folder.with_suffix(".stderr"), folder.with_suffix(".steps")
    script = multiprocessing.get_context("fork").Process(
        target=run_here, args=([first, *words], folder, errors, steps, at, fault)
    )
    script.start()
    script.join()
    return script.exitcode, errors.read_text(), steps.read_text().splitlines()


def run_here(command: list[str], folder: Path, errors: Path, steps: Path, at: int, fault: Callable[[], None]) -> None:
    """Be the script's process. The audit hook that counts steps stays for the rest of it."""
    os.chdir(folder)
    null, log = os.open(os.devnull, os.O_WRONLY), steps.open("w", buffering=1)
    sys.stdout, sys.stderr = os.fdopen(null, "w"), errors.open("w", buffering=1)
    sys.argv = command
    sys.path.insert(0, str(REPO))
    script, count = importlib.import_module(command[0].removesuffix(".py")), 0

    def watch(event, args):
        nonlocal count
        if event in STEPS or (event == "open" and args[2] & WRITING):
            path = "" if isinstance(args[0], int) else os.path.relpath(os.fsdecode(args[0]))
            if path and not path.startswith(".."):
                count += 1
                log.write(f"{event} {path}\n")
                if count == at:
                    fault()

    sys.addaudithook(watch)
    run_main(script.main)
