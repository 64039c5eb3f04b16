"""How far long work has come, on stderr: bars of tqdm on a terminal. In a file, as under nohup or Slurm, a bar would be
hundreds of KB: there it is a line now and then, and one at the end."""

import math
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from src.common.processes import rank

SECONDS_BETWEEN_LINES = 30


class Progress(tqdm):
    """A bar of tqdm, by its arguments and TQDM_DISABLE. With `told` its lines in a file are those of `tell` alone."""

    def __init__(self, iterable: Iterable[Any] | None = None, *, told: bool = False, **options: Any) -> None:
        self.between = math.inf if told else SECONDS_BETWEEN_LINES
        self.last_line = time.monotonic()
        if rank():  # the first process alone draws
            options["disable"] = True
        super().__init__(iterable, **options)

    @property
    def as_lines(self) -> bool:
        return not self.disable and not self.fp.isatty()

    def tell(self, line: str) -> None:
        """Say something that a bar shows in its own way."""
        if self.as_lines:
            print(f"{self.desc}: {line}" if self.desc else line, file=self.fp, flush=True)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """What tqdm calls, many times a second, to draw."""
        if not self.as_lines:
            return super().display(msg, pos)
        if time.monotonic() - self.last_line >= self.between:
            self.last_line = time.monotonic()
            print(self, file=self.fp, flush=True)
        return True

    def close(self) -> None:
        if not self.as_lines:
            return super().close()
        ended = self.total is None or self.n >= self.total  # else an error did, and tells it in a line
        if ended and self.between < math.inf and self.leave is not False:
            print(self, file=self.fp, flush=True)
        self.disable = True  # as tqdm marks what is closed
        self._decr_instances(self)
        return None


def about(seconds: float) -> str:
    """A duration to two digits at most: "41 s", "6 min", "2.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
