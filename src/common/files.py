"""Files that are written whole or not at all, and the one error for what the user gave."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """What the user gave cannot be used: a script prints it as one line and ends with status 2."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The temporary name ends with the target's own suffix, because libraries choose a format by it. What a killed process
    left of the same target is removed. What is under its name survives a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    handle, temporary = _make_temporary(path)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; give what open() would have given
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _make_temporary(path: Path) -> tuple[int, Path]:
    """An empty file beside `path`, locked as long as the handle is open: an unlocked one is of a dead process."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.part-", suffix=path.suffix, dir=path.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else it was swept before it was locked
            return handle, Path(name)
        os.close(handle)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, to be removed at the end, by the next one or by `sweep(path)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.part-", dir=path.parent) as temporary:
        handle = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield Path(temporary)
        finally:
            os.close(handle)


def sweep(path: Path) -> None:
    """Remove the temporary files and folders of `path` that processes left which were killed."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.part-*{glob.escape(path.suffix)}"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: another process is using it
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def _flush(path: Path) -> None:
    """Have a file's contents, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def try_outputs(outputs: Iterable[Path], inputs: Iterable[Path | None] = ()) -> None:
    """Try all files that are to be written, leaving nothing behind. To be called before long work: raises InputError
    for one that cannot be written, is a folder, or is one of `inputs`."""
    read = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path.resolve() in read:
            raise InputError(f"{path}: is read, so it cannot be written; choose another name")
        if path.is_dir():
            raise InputError(f"{path}: is a folder, where a file is to be written")
        try:
            with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
                pass
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's contents, whole or not at all."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises InputError, naming the file, if it is missing or is not JSON."""
    return parse_json(require_file(path).read_bytes(), f"{path}: not a JSON file")


def parse_json(text: str | bytes, reason: str) -> Any:
    """Parse JSON. Raises InputError with `reason` and why, also for numbers and nesting beyond Python's limits."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{reason} ({error})") from None


def require_file(path: str | Path, hint: str = "") -> Path:
    """Return `path` as a Path. Raises InputError, with `hint` on what to do, unless it is a file."""
    path = Path(path)
    if not path.is_file():
        reason = "is not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {reason}" + (f"; {hint}" if hint else ""))
    return path


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
