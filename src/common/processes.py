"""Which process of a job this is, by the environment that torchrun gives it, and which of them speak: the first prints;
what ends the job is told once, by whichever process meets it first."""

import logging
import os
import sys
from collections.abc import Callable

_meets_it_first: Callable[[], bool] | None = None


def rank() -> int:
    """0, 1, … of all processes of a job."""
    return _of_torchrun("RANK", 0)


def local_rank() -> int:
    """0, 1, … of those on this machine."""
    return _of_torchrun("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many there are on this machine."""
    return _of_torchrun("LOCAL_WORLD_SIZE", 1)


def world_size() -> int:
    """How many there are."""
    return _of_torchrun("WORLD_SIZE", 1)


def restarts() -> int:
    """How often torchrun has started all of them anew, because one had died."""
    return _of_torchrun("TORCHELASTIC_RESTART_COUNT", 0)


def _of_torchrun(name: str, alone: int) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def hush() -> None:
    """Let a process that is not the first print nothing, draw no progress bars and log nothing."""
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (to the end)
        os.environ["TQDM_DISABLE"] = "1"  # of libraries that download; src.common.progress looks at the rank itself
        logging.disable()


def tell_errors_by(meets_it_first: Callable[[], bool]) -> None:
    """From now on the processes share something that says True to the first that asks."""
    global _meets_it_first
    _meets_it_first = meets_it_first


def tells_errors() -> bool:
    """Whether this process is to tell what ends it; before the processes share anything it is the first that does, for
    what they meet is the same. To be asked once."""
    try:
        return _meets_it_first() if _meets_it_first else not rank()
    except RuntimeError:  # what they share went with the process that had it
        return True
