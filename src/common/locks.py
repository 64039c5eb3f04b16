"""Locks between processes, on one machine or on several that share a folder: POSIX record locks.

A lock ends with the process that holds it, however that ends. NFS has these locks itself (since Linux 2.6.12 it turns
flock into them); a file system that has none is an error, not a lock file that outlives a kill.

That somebody is at work in a folder is told by a lock of the folder itself, which leaves no file there.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class FileLocks:
    """As many locks as one likes in one file: lock k is that of byte k. They exclude other processes, not threads."""

    def __init__(self, path: Path) -> None:
        # Never closed: to close the file anywhere in a process would drop all of its locks.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self, number: int, *, wait: bool = True) -> bool:
        """Take a lock, when no other process holds it any longer or if none does. Returns whether it is ours."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
            return True
        except (BlockingIOError, PermissionError):
            return False

    def release(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        self.acquire(number)
        try:
            yield
        finally:
            self.release(number)


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Have `is_at_work` tell of it, where the file system can; others are not kept away."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_at_work(folder: Path) -> bool:
    """Whether a process is `at_work` in a folder; False where the file system cannot tell."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
