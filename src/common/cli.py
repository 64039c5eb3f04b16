"""What every command line shares: its looks, errors as one line, flags for the device, the opening lines."""

import argparse
import difflib
import io
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from src.common.files import InputError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults in the help, where it does not tell them itself, and the module's docstring as it was typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is None or "(default: " in (action.help or "")
        return action.help if told else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser of a script or, by `add_subparsers`, of one of its commands; `description` is the module's docstring.

    Flags are typed in full. A wrong command line ends with two lines, the second of which names the help.
    """

    def __init__(self, description: str | None = None, **options: Any) -> None:
        options = {"prog": _program()} | options
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but tell the flags that come near to unknown ones."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = _flags(self)
            flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            near = [match for flag in flags if flag not in known for match in difflib.get_close_matches(flag, known, 1)]
            hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        status = _fail(message)
        print(f"see: {self.prog} --help", file=sys.stderr)
        sys.exit(status)


def _program() -> str:
    """What a user types before the flags."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {module.name}" if module else f"python {Path(sys.argv[0]).name}"


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """Every flag of a parser and of its commands."""
    flags: list[str] = []
    for action in parser._actions:
        flags += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            flags += [flag for command in action.choices.values() for flag in _flags(command)]
    return flags


# How libraries tell, in a RuntimeError or an error of their own, what is an OSError or a MemoryError elsewhere.
NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
NOT_WRITTEN = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing file",
    ". unexpected pos ",  # torch.save again, as it closes the file
)


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit.

    The status is 0, 2 with one line for what cannot be used, 130 when interrupted, 141 when nobody reads the output
    any more, 1 with one line for what is unexpected, whose traceback goes to a file.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Δ shows ?
    status: Any
    with _interruptible() as interrupted:
        try:
            status = main() or 0
        except SystemExit as end:
            status = end.code
        except (KeyboardInterrupt, Exception) as error:
            _close_bars()
            if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
                print("interrupted", file=sys.stderr)
                status = 130
            else:
                status = _explain(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it at its own flush
        status = status or _explain(error)
    if interrupted.is_set():  # at once: what was interrupted while it was imported may not survive being taken down
        sys.stderr.flush()
        os._exit(130)
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


def _explain(error: Exception) -> int:
    """Print one line on what ended the script. Returns the status."""
    text = str(error)
    first = text.strip().partition("\n")[0]
    if isinstance(error, InputError):
        return _fail(text)
    if isinstance(error, BrokenPipeError):  # `| head` has read enough
        return 141
    if isinstance(error, OSError):  # a file that may not be read or written, a full disk
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be imported for this
        return _fail(f"{first} Try a smaller --batch-size or another --device.")
    if isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY):
        return _fail(f"out of memory ({first or 'no details'}); close other programs or try a smaller --batch-size")
    if any(sign in text for sign in NOT_WRITTEN):
        return _fail(f"a file could not be written whole, is the disk full? ({first})")
    return _log(error)


def _log(error: Exception) -> int:
    """Write the traceback to a file and name it in one line. Returns the status."""
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


def _fail(reason: str) -> int:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--precision`, of which `src.training.machine.choose_machine` makes one value."""
    add_device_argument(parser)
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the translator's matrix products; auto is bfloat16 where the hardware has it",
    )


def record_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The command line as JSON can hold it, for a file's provenance."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def print_settings(title: str, settings: Mapping[str, Any]) -> None:
    """Print a title and aligned `name  value` lines: the opening and the summary of every script."""
    print(title)
    width = max(map(len, settings), default=0)
    for name, value in settings.items():
        print(f"  {name:<{width}}  {value}")
    sys.stdout.flush()


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
