"""What every command line shares: its looks, flags for the device, the opening lines."""

import argparse
import difflib
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from src.common.endings import fail
from src.common.processes import local_world_size

if TYPE_CHECKING:
    import pandas as pd

MAX_WORKERS = 1000
SCREEN = 100  # columns


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
        sys.exit(fail(message, f"see: {self.prog} --help"))


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


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--workers`, by default one a core of those that this process has to itself."""
    cores = max(1, (os.cpu_count() or 1) // local_world_size())
    parser.add_argument(
        "--workers", type=_workers, default=min(8, cores), help="processes that decode images; 0: this one"
    )


def _workers(text: str) -> int:
    if not 0 <= (value := int(text)) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {MAX_WORKERS:,}")
    return value


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


def print_table(table: "pd.DataFrame", key: str, width: int = SCREEN) -> None:
    """Print a table whose numbers are measures. Columns that are too many for so many letters stand below the others,
    again beside the key, which is one of the first."""
    block: list[str] = []
    for name in table:
        if len(block) > 1 and max(map(len, _lines(table, [*block, name]))) > width:
            print(*_lines(table, block), "", sep="\n")
            block = [key]
        block.append(name)
    print(*_lines(table, block), sep="\n")


def _lines(table: "pd.DataFrame", names: list[str]) -> list[str]:
    return table[names].to_string(index=False, na_rep="-", float_format="{:.4f}".format).split("\n")


def command(program: str, *words: object, **flags: tuple[object, object]) -> str:
    """What to type: a program, words, and those of its flags, each a value and the default, that differ from it."""
    given = [(f"--{name.replace('_', '-')}", value) for name, (value, default) in flags.items() if value != default]
    return " ".join(
        [program, *(shlex.quote(str(word)) for word in (*words, *(word for pair in given for word in pair)))]
    )


def print_next(*commands: str) -> None:
    """The last line of a script: what may come next."""
    print(f"next: {', or '.join(commands)}", flush=True)


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
