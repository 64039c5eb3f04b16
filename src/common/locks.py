"""Locks between processes, on one machine or on several that share a folder.

A lock ends with the process that holds it, however that ends, so nothing is left to clean up after a kill.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileLocks:
    """As many locks as one likes in one file: lock k is the POSIX record lock of byte k.

    Works wherever `fcntl` locks do: local disks and NFS. The locks exclude other processes, not other threads of this
    one. The file stays open for as long as the process lives: closing it anywhere in a process would drop all of the
    process's locks on it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self, number: int) -> None:
        """Wait until the lock is ours."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, number)

    def try_acquire(self, number: int) -> bool:
        """Take the lock unless another process holds it. Returns whether it is ours."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """Hold the lock for the length of a `with` block."""
        self.acquire(number)
        try:
            yield
        finally:
            self.release(number)
