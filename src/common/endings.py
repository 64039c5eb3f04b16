"""How every script ends: its status and, whatever went wrong, one line."""

import io
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from src.common.files import InputError
from src.common.processes import hush, tells_errors, world_size

# How libraries tell, in a RuntimeError or an error of their own, what is an OSError or a MemoryError elsewhere.
NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
NOT_WRITTEN = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing file",
    ". unexpected pos ",  # torch.save again, as it closes the file
)


def run_main(main: Callable[[], int | None], *, several: bool = False) -> NoReturn:
    """Run a script's `main` and exit. Only one that says so may be started by torchrun, as `several` processes.

    The status is 0, 2 with one line for what cannot be used, 130 when interrupted, 141 when nobody reads the output
    any more, 1 with one line for what is unexpected, whose traceback goes to a file.
    """
    for name in (
        "stdout",
        "stderr",
    ):  # closed by the shell, ">&-"; else the next file to be opened would get its number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (to the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Δ shows ?
    hush()
    os.environ["MPLBACKEND"] = "agg"  # scripts only write pictures, and a backend that is not there ends the import
    status: Any
    with _interruptible() as interrupted:
        try:
            if world_size() > 1 and not several:
                raise InputError(f"{Path(sys.argv[0]).name} works in one process; start it without torchrun")
            status = main() or 0
        except SystemExit as end:
            status = end.code
        except (KeyboardInterrupt, Exception) as error:
            _close_bars()
            if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
                status = _tell("interrupted", 130)
            else:
                status = _explain(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it at its own flush
        status = status or _explain(error)
    # At once: what was interrupted while it was imported may not survive being taken down, nor may gloo's threads.
    if interrupted.is_set() or _shares_a_job():
        sys.stderr.flush()
        os._exit(130 if interrupted.is_set() else status if isinstance(status, int) else 1)
    sys.exit(status)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Have Ctrl-C raise KeyboardInterrupt, wherever it comes, and yield the event that tells of it: compiled code makes
    other errors of it while it is imported, and in a callback of Python's own it would be reported and lost."""
    interrupted, handler, hook = threading.Event(), signal.getsignal(signal.SIGINT), sys.unraisablehook

    def interrupt(number: int, frame: Any) -> NoReturn:
        interrupted.set()
        raise KeyboardInterrupt

    def raise_again(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            again = (threading.main_thread().ident, signal.SIGINT)
            threading.Timer(0.05, signal.pthread_kill, again).start()  # when the callback is over
        else:
            hook(unraisable)

    if handler is signal.default_int_handler:  # not where Ctrl-C is ignored, as under nohup
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = raise_again
    try:
        yield interrupted
    finally:
        if handler is signal.default_int_handler:
            signal.signal(signal.SIGINT, handler)
            sys.unraisablehook = hook


def _close_bars() -> None:
    """Close the progress bars that an error left open: they would draw over its line, or below it."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


def _shares_a_job() -> bool:
    """Whether this process has met the others that torchrun started."""
    distributed: Any = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def _explain(error: Exception) -> int:
    """Print one line on what ended the script. Returns the status."""
    text = str(error)
    first = text.strip().partition("\n")[0]
    if isinstance(error, InputError):
        return fail(text)
    if isinstance(error, BrokenPipeError):  # `| head` has read enough
        return 141
    if isinstance(error, OSError):  # a file that may not be read or written, a full disk
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}")
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be imported for this
        return fail(f"{first} Try a smaller --batch-size or another --device.")
    if isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY):
        return fail(f"out of memory ({first or 'no details'}); close other programs or try a smaller --batch-size")
    if any(sign in text for sign in NOT_WRITTEN):
        return fail(f"a file could not be written whole, is the disk full? ({first})")
    return _log(error)


def _log(error: Exception) -> int:
    """Write the traceback to a file and name it in one line. Returns the status."""
    if not tells_errors():  # as a rule, that another process is gone
        return 1
    trace = "".join(traceback.format_exception(error))
    try:
        handle, log = tempfile.mkstemp(prefix=f"error-{time.strftime('%Y%m%d-%H%M%S')}-", suffix=".log")
        os.close(handle)
        Path(log).write_text(trace, encoding="utf-8", errors="replace")
    except OSError:  # no room for it: better on the screen than lost
        print(trace, end="", file=sys.stderr)
        return 1
    what = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"unexpected error: {what} (details: {log})", file=sys.stderr)
    return 1


def fail(reason: str, hint: str = "") -> int:
    """Print what cannot be used, as one line, and a hint below it. Returns the status."""
    return _tell(f"error: {' '.join(reason.split())}" + f"\n{hint}" * bool(hint), 2)


def _tell(line: str, status: int) -> int:
    if tells_errors():
        print(line, file=sys.stderr)
    return status
