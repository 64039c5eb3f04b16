"""Read spoiled files of one kind, and tell what is neither the project's own error nor a right result.

    python -m tests.faults "train NPZ" --cases 1000 --seed 0
    python -m tests.faults "train NPZ" --case 17             # one of them again, with its traceback

Every case is made from the seed, its number and the kind alone. A line is printed for each case before it is read, so
that whatever ends the process is known.
"""

import argparse
import contextlib
import faulthandler
import gc
import io
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from src.common.cli import positive_int
from src.common.files import InputError
from tests.faults.kinds import KINDS, Kind
from tests.faults.mutations import damage

MOST_MEMORY = 3 << 30  # bytes of address space, beyond what the process has at the start
MOST_SECONDS = 20  # for a case


class TooLong(BaseException):
    """A case takes more than MOST_SECONDS."""


def _too_long(*_: object) -> NoReturn:
    raise TooLong


def limit_memory() -> None:
    """So that what asks for more gets a MemoryError, as on a machine that has no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


class Fuzzer:
    """The cases of one kind, read one after another in a folder of their own inside `root`."""

    def __init__(self, kind: Kind, name: str, root: Path, seed: int) -> None:
        self.kind, self.name, self.seed = kind, name, seed
        self.whole, self.work, self.marker = root / "whole", root / "outer/work", root / "executed"
        self.root = root
        self.whole.mkdir()
        self.work.parent.mkdir()
        kind.prepare(self.whole)
        shutil.copytree(self.whole, self.work)
        self.right = kind.read(self.work)
        kind.holds(self.right, None)
        self.outside = self._outside()
        self.read = self.refused = 0

    def run(self, case: int) -> str | None:
        """Read one spoiled file. Returns what is wrong with that, None for nothing."""
        rng = np.random.default_rng((self.seed, zlib.crc32(self.name.encode()), case))
        content = (self.whole / self.kind.target).read_bytes()
        if rng.integers(2):
            how, spoiled = damage(rng, content)
        else:
            how, spoiled = "odd", self.kind.odd(rng, content, self.marker)
        print(f"case {case}: {how}, {len(spoiled)} bytes", flush=True)
        shutil.rmtree(self.work)
        shutil.copytree(self.whole, self.work)
        (self.work / self.kind.target).write_bytes(spoiled)
        wrong = self._read(spoiled if how == "odd" else None)
        if self._outside() != self.outside:
            return f"something was written or executed: {self._outside() ^ self.outside}"
        return wrong

    def _read(self, odd: bytes | None) -> str | None:
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                result = self.kind.read(self.work)
            self.read += 1
            self.kind.holds(result, self.right if odd is None else None)
        except InputError as error:
            self.refused += 1
            message = " ".join(str(error).split())
            if not message or not any(name in message for name in self.kind.named):
                return f"its error does not name the file: {message!r}"
        except TooLong:
            return f"took longer than {MOST_SECONDS} s\n{traceback.format_exc()}"
        except (Exception, RecursionError):
            return traceback.format_exc(limit=-6)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None

    def _outside(self) -> set[str]:
        """All that is there besides the folder of the case."""
        return {str(path) for path in self.root.rglob("*") if self.work not in (path, *path.parents)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=positive_int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one only")
    args = parser.parse_args(argv)
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _too_long)
    failures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(KINDS[args.kind](), args.kind, Path(folder), args.seed)
        limit_memory()
        for case in range(args.cases) if args.case is None else [args.case]:
            if wrong := fuzzer.run(case):
                failures.setdefault(wrong.strip().splitlines()[-1][:200], (case, wrong))
            if case % 50 == 0:
                gc.collect()
    for case, wrong in failures.values():
        print(f"FAILED: {args.kind!r} --seed {args.seed} --case {case}: {wrong}", file=sys.stderr)
    print(f"{args.kind}: {fuzzer.read} read, {fuzzer.refused} refused, {len(failures)} kinds of failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
