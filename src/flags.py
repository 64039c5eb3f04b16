"""Flags that several scripts and commands share, and the values made of them. No library function sees parsed
arguments; they end here and in the scripts."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.cli import add_machine_arguments, command
from src.common.paths import MODELS_DIR, TEST_NPZ, TRAIN_NPZ
from src.training.recipe import OPTIONS, Recipe, flag_of, types_of

if TYPE_CHECKING:
    from src.training.inputs import DataPaths


def add_job_arguments(
    parser: argparse.ArgumentParser, *, train_npz: Path = TRAIN_NPZ, models_dir: Path = MODELS_DIR
) -> None:
    """Add the flags of a trainer: its data (`data_paths` reads them), the folder of the runs, the machine."""
    parser.add_argument("--train-npz", type=Path, default=train_npz, help="caption-image pairs to train on")
    parser.add_argument(
        "--keep-list",
        type=Path,
        help="train on the captions that a filter's keep-list of --train-npz keeps (default: all)",
    )
    parser.add_argument(
        "--soft",
        action="store_true",
        help="train on all captions, weighed by the ranks in --keep-list: 1 / (1 + (rank / k)²), k being its --top-k",
    )
    parser.add_argument(
        "--val-npz",
        type=Path,
        help="take the captions that validate from here: of the same images as ever, by their names (default: the file "
        "that --train-npz was filtered from, or itself; own: those that the filter left)",
    )
    parser.add_argument("--test-npz", type=Path, default=TEST_NPZ, help="captions to predict for the submission")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        help="folder of large files as they are mapped into memory (default: $T2I_CACHE_DIR, else beside them)",
    )
    parser.add_argument("--models-dir", type=Path, default=models_dir, help="each run gets a folder here")
    add_machine_arguments(parser)


def add_log_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--log`, which `src.training.scalars.require_log` checks."""
    log = (
        "write every epoch's figures to the run's folder (tensorboard --logdir models) or to WANDB_PROJECT, too; after "
    )
    log += "torchrun, which has flags of such a name, put -- before the script"
    parser.add_argument("--log", default="none", choices=("none", "tensorboard", "wandb"), help=log)


def check_command(submission: Path, args: argparse.Namespace) -> str:
    """The check of a submission that a trainer wrote by its flags."""
    files = {"test_npz": (args.test_npz, TEST_NPZ), "train_npz": (args.train_npz, TRAIN_NPZ)}
    return command("python -m src.submission check", submission, **files)


def data_paths(args: argparse.Namespace, *, with_test: bool = True) -> "DataPaths":
    from src.training.inputs import DataPaths

    return DataPaths(
        train_npz=args.train_npz,
        keep_list=args.keep_list,
        soft=args.soft,
        val_npz=args.val_npz,
        test_npz=args.test_npz if with_test else None,
        cache_dir=args.cache_dir,
    )


def add_recipe_arguments(
    parser: argparse.ArgumentParser,
    recipe: Recipe,
    *,
    without: tuple[str, ...] = (),
    choices: Mapping[str, tuple] | None = None,
) -> None:
    """Add one flag for each field, but for the name and `without`. `recipe` gives the defaults that help shows.

    With a search's `choices`, {field: its default choices}, the flags of these fields take several values.
    """
    choices = choices or {}
    group = parser.add_argument_group("recipe", "Defaults are those of the recipe.")
    for option in OPTIONS:
        if option.name in without:
            continue
        defaults = choices.get(option.name, (getattr(recipe, option.name),))
        group.add_argument(
            flag_of(option.name),
            type=types_of(option.type)[0],
            choices=option.metadata["choices"] or None,
            nargs="+" if option.name in choices else None,
            default=argparse.SUPPRESS,
            help=f"{option.metadata['help']} (default: {' '.join(map(str, defaults))})",
        )


def recipe_changes(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a recipe that the user gave."""
    return {option.name: getattr(args, option.name) for option in OPTIONS if option.name in args}


def override(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the user gave on the command line."""
    return replace(recipe, **recipe_changes(args))
