"""What every script's command line shares: errors as one line, device and precision, the opening lines."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from src.common.files import InputError

TRAIN_NPZ = Path("data/train/train.npz")
TEST_NPZ = Path("data/test/test.clean.npz")
IMAGES_ROOT = Path("data/train/Images")
MODELS_DIR = Path("models")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults in the help, where it does not tell them itself, and the module's docstring as it was typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is None or "(default: " in (action.help or "")
        return action.help if told else super()._get_help_string(action)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit: 0, 2 with one line for what cannot be used, 130 when interrupted."""
    try:
        status = main() or 0
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except OSError as error:  # a file that may not be read or written, a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        status = 2
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"error: {reason} Try a smaller --batch-size or another --device.", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; `resolve_device` reads it."""
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--precision`; `resolve_device` and `resolve_precision` read them."""
    add_device_argument(parser)
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the translator's matrix products; auto is bfloat16 where the hardware has it",
    )


def resolve_device(name: str) -> torch.device:
    """Turn `--device` into a torch device. Raises InputError if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn `--precision` into "float32" or "bfloat16" for `device`."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # no public probe up to torch 2.11
        return "bfloat16" if any(getattr(torch.cpu, probe, bool)() for probe in probes) else "float32"
    return "float32"


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
