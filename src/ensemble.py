"""Ensembles: average submissions, measure means of runs, weigh runs, train and average unlike ones in a given time.

    python -m src.ensemble combine a.csv b.csv --output submission_ab.csv       # any submissions
    python -m src.ensemble combine a.csv --expand 4 --output submission_a4.csv  # each with its neighbours
    python -m src.ensemble evaluate models/common_split                         # how good the mean of runs is
    python -m src.ensemble select models/common_split                           # which of them to average, how weighted
    python -m src.ensemble train --minutes 60                                   # the best ensemble of an hour

The ensembles of the inventory have scripts of their own: ensemble_combine_CSVs_*.py.
"""

import argparse
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.cli import (
    Parser,
    add_device_argument,
    command,
    positive_float,
    positive_int,
    print_next,
    print_settings,
    print_table,
)
from src.common.endings import run_main
from src.common.files import InputError, try_outputs
from src.common.paths import MODELS_DIR, TRAIN_NPZ
from src.ensembles.members import UNLIKE
from src.flags import add_job_arguments, add_log_argument, check_command, data_paths
from src.training.recipe import load_recipe, sized

if TYPE_CHECKING:
    from src.ensembles.held_out import Run
    from src.ensembles.selection import Selection

CURVE = "selection_curve.png"


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(required=True)
    combine = commands.add_parser("combine", help="average submissions", description=inspect.getdoc(combine_files))
    combine.set_defaults(function=combine_files)
    combine.add_argument("files", type=Path, nargs="+", metavar="CSV", help="the submissions to average")
    add_combine_arguments(combine)

    evaluate = commands.add_parser(
        "evaluate", help="measure the mean of runs", description=inspect.getdoc(evaluate_runs)
    )
    evaluate.set_defaults(function=evaluate_runs)
    select = commands.add_parser(
        "select", help="choose which runs to average, and their weights", description=inspect.getdoc(select_runs)
    )
    select.set_defaults(function=select_runs)
    for measuring in (evaluate, select):
        measuring.add_argument(
            "runs", type=Path, nargs="*", default=[MODELS_DIR], help="folders of runs, or above them"
        )
        measuring.add_argument(
            "--on", type=Path, default=TRAIN_NPZ, metavar="NPZ", help="unfiltered pairs to measure on"
        )
        add_device_argument(measuring)
    add_expand_argument(evaluate)
    how = evaluate.add_mutually_exclusive_group()
    against = "give differences from this run, or the mean of these, and not from the best single run"
    how.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUNS", help=against)
    how.add_argument("--out-of-fold", action="store_true", help="predict a caption by runs that never saw its image")
    unit = "average unit vectors (default: where the models are of several kinds)"
    select.add_argument("--normalize", "--normalise", action="store_true", help=unit)
    select.add_argument(
        "--seed", type=int, default=0, help="of the halving of the images: each half chooses for the other"
    )
    plot = f"the curve (default: {CURVE} in the folder of the runs)"
    select.add_argument("--plot", type=Path, metavar="PNG", help=plot)

    train = commands.add_parser(
        "train", help="train and average unlike members in a given time", description=inspect.getdoc(train_unlike)
    )
    train.set_defaults(function=train_unlike)
    minutes = "to train in, all in all: what finished members took counts"
    train.add_argument("--minutes", type=positive_float, required=True, help=minutes)
    train.add_argument("--members", type=positive_int, default=5, help="average so many of them at most")
    train.add_argument("--split-seed", type=int, default=0, help="of the split that all members have in common")
    output = Path("submission_ensemble_unlike.csv")
    train.add_argument("--submission", type=Path, default=output, metavar="CSV", help="the weighted mean's")
    add_job_arguments(train, models_dir=MODELS_DIR / "unlike")
    add_log_argument(train)
    args = parser.parse_args(argv)
    args.function(args)


def add_combine_arguments(parser: argparse.ArgumentParser, output: Path | None = None) -> None:
    parser.add_argument("--output", type=Path, default=output, required=output is None, help="the CSV to write")
    parser.add_argument("--normalize", "--normalise", action="store_true", help="average unit vectors, not predictions")
    weights = "uniform; mrr: by the validation MRR that the run of each file recorded; 3,1,2: by a number for each file"
    parser.add_argument("--weights", default="uniform", help=weights)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where the runs are")
    add_expand_argument(parser)


def add_expand_argument(parser: argparse.ArgumentParser) -> None:
    expand = "add to each prediction its K nearest of other captions; one fewer than captions an image (default: none)"
    parser.add_argument("--expand", type=positive_int, default=0, metavar="K", help=expand)


def combine_files(args: argparse.Namespace) -> None:
    """The mean of submissions, from CSV files alone: caption by caption, in the order of the first file.

        python -m src.ensemble combine a.csv b.csv --output submission_ab.csv
        python -m src.ensemble combine a.csv b.csv --expand 4 --output submission_ab4.csv

    Where a file has several captions of most images, predictions that are near each other are often of one image:
    --expand adds to each mean, as unit vectors, the K nearest means of other captions, weighted by their cosines. One
    file alone can be expanded too. With five captions an image take K = 4, one fewer. This uses the other captions of
    the file, which is allowed for a leaderboard, but says nothing of a single caption asked alone: it has no others.
    See first what it brings: `evaluate --expand`.
    """
    from src.ensembles.averaging import refuse_twice

    try_outputs([args.output], args.files)
    refuse_twice(args.files)
    weights, weighting = file_weights(args.weights, args.files, args.models_dir)
    vectors = "unit vectors" if args.normalize else "predictions"
    settings = {
        "average of": vectors,
        "weights": weighting,
        **({"expanded by": f"{args.expand} nearest predictions"} if args.expand else {}),
        "output": args.output,
    }
    print_settings(f"Averaging {len(args.files)} submissions", settings)
    count, width = write_mean(args.files, weights, args.output, normalize=args.normalize, neighbours=args.expand)
    print(f"{args.output}: {count} captions × {width} numbers, {args.output.stat().st_size / 1e6:.1f} MB")
    print_next(command("python -m src.submission check", args.output))


def file_weights(given: str, files: Sequence[Path], models_dir: Path) -> tuple[list[float], str]:
    """The weights of `--weights`, one for each file, and what to say of them. Raises InputError."""
    from src.ensembles.averaging import recorded_mrrs

    if given == "uniform":
        return [1.0] * len(files), given
    if given == "mrr":
        weights = recorded_mrrs(files, models_dir)
        return weights, f"by validation MRR, {min(weights):.4f} to {max(weights):.4f}"
    try:
        weights = list(map(float, given.split(",")))
    except ValueError:
        weights = []
    if len(weights) != len(files) or not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
        expected = f"uniform, mrr, or for {len(files)} files as many numbers with commas, none below 0 and not all 0"
        raise InputError(f"--weights {given}: expected {expected}")
    return weights, given


def write_mean(
    files: Sequence[Path], weights: Sequence[float], output: Path, *, normalize: bool, neighbours: int = 0
) -> tuple[int, int]:
    """Write the weighted mean of submissions, or of their unit vectors; with `neighbours`, expanded by so many. Returns
    its captions and width."""
    from src.data.submissions import write_submission
    from src.ensembles.averaging import average

    caption_ids, embeddings = average(files, weights, normalize=normalize)
    if neighbours:
        import torch

        from src.ensembles.expansion import expand_queries

        embeddings = expand_queries(torch.from_numpy(embeddings), neighbours).numpy()
    write_submission(output, caption_ids, embeddings)
    return embeddings.shape


def evaluate_runs(args: argparse.Namespace) -> None:
    """How good the mean of some runs is, on captions that they did not train on; differences with their uncertainty.

        python -m src.ensemble evaluate models/common_split
        python -m src.ensemble evaluate models/common_split --against models/baseline_train_seed43
        python -m src.ensemble evaluate models/ensemble_* --out-of-fold      # members that each held out other images

    Runs are given as their folders, or as folders of those. The mean of runs with one common split is measured on the
    captions of the images that they held out. Runs with splits of their own have trained on each other's validation
    images: --out-of-fold averages, for every caption, only the runs that never saw its image. With 10% held out these
    are a tenth of all runs, so the figure is that of a smaller ensemble. The gallery is all images that are measured.

    --expand adds rows: the best single run and each mean, expanded by the K nearest predictions among the captions that
    are measured, as `combine --expand` does it among those of a submission. They foresee a test with as many captions
    of an image, and say nothing of a single caption asked alone. Runs with splits of their own cannot tell.
    """
    from src.data.pairs import open_pairs
    from src.ensembles.evaluation import comparison, measure_runs
    from src.ensembles.held_out import describe_left_out, finished_runs, held_out_part, unseen_captions
    from src.training.machine import find_device

    pairs = open_pairs(args.on)
    (runs, left_out), (others, _) = finished_runs(args.runs, pairs), finished_runs(args.against, pairs)
    part = held_out_part(pairs, [*runs, *others], find_device(args.device), out_of_fold=args.out_of_fold)
    unseen_Rn = unseen_captions(runs, part)
    settings = {
        "captions from": args.on,
        "measured": f"{len(part):,} of {len(part.of.pairs):,} captions",
        "gallery": f"{len(part.images):,} images, held out by {'any' if args.out_of_fold else 'every'} run",
        "runs a caption": f"{unseen_Rn.sum() / len(part):.1f} on average",
        **({"expanded by": f"{args.expand} nearest predictions, in rows of their own"} if args.expand else {}),
        "device": part.of.device,
    }
    print_settings(f"Measuring {len(runs)} runs", settings)
    for line in describe_left_out(left_out):
        print(line)
    singles, means, expanded = measure_runs(runs, part, unseen_Rn, neighbours=args.expand)
    measured = [*singles, *means, *expanded]
    reference = means[0] if args.out_of_fold and means else max(singles, key=lambda single: single.mrr)
    if others:
        unseen_Rn = unseen_captions(others, part)
        singles, means, expanded = measure_runs(others, part, unseen_Rn, prefix="against: ", neighbours=args.expand)
        reference = means[1] if means else singles[0]  # the mean comes after the average
        measured += [*singles, *means, *expanded]
    print_table(comparison([each for each in measured if not each.partial], reference), key="runs")
    print(f"Differences are from: {reference.label} (n = {reference.count})")
    if partial := [each for each in measured if each.partial]:
        print("\nSingle runs, each on the captions that it did not train on; the gallery is the same:")
        print_table(comparison(partial), key="runs")
    elif len(runs) > 1 and not args.out_of_fold:
        print_next(command("python -m src.ensemble select", *args.runs, on=(args.on, TRAIN_NPZ)))


def select_runs(args: argparse.Namespace) -> None:
    """Which runs to average, and with which weights: forward selection on validation predictions.

        python -m src.ensemble select models/common_split
        python -m src.ensemble select models/common_split --normalize

    Starts with the best run and adds, again and again, the one that raises the MRR of the mean most, be it in it
    already: a run's weight is how often it was added (Caruana et al. 2004). The highest point is what is selected. If
    the models are of several kinds, whose predictions have lengths of their own, unit vectors are averaged.

    Weights flatter themselves on the captions that they were fitted to. So the images are halved, and each half is
    measured by the weights that the other one chose: these figures, out of fold, are to be believed. The gallery is all
    images, as for `evaluate`. If the plain mean of all runs is as good, that is recommended. The weights to use are
    fitted to all captions; on these the table says what the mean loses without each run.
    """
    from src.data.pairs import open_pairs
    from src.ensembles.held_out import describe_left_out, finished_runs, held_out_part
    from src.ensembles.selection import plot_selection, select
    from src.training.machine import find_device
    from src.training.runs import intact_submission

    pairs = open_pairs(args.on)
    runs, left_out = finished_runs(args.runs, pairs)
    if len(runs) < 2:
        raise InputError(f"{runs[0].folder}: is the only finished run; there is nothing to select from")
    plot = args.plot or common_folder(args.runs) / CURVE
    try_outputs([plot], [args.on])
    part = held_out_part(pairs, runs, find_device(args.device))
    normalize, vectors = averaged_vectors(runs, args.normalize)
    settings = {
        "captions from": args.on,
        "measured": f"{len(part):,} of {len(part.of.pairs):,} captions, in two halves",
        "gallery": f"{len(part.images):,} images, held out by every run",
        "average of": vectors,
        "device": part.of.device,
    }
    print_settings(f"Selecting among {len(runs)} runs", settings)
    for line in describe_left_out(left_out):
        print(line)
    selection = select(runs, part, normalize=normalize, seed=args.seed)
    plot_selection(selection, plot)
    averaged = [run for run, weight in zip(runs, selection.weights, strict=True) if weight]
    files = [intact_submission(run.folder) for run in averaged]
    lacking = [run for run, file in zip(averaged, files, strict=True) if file is None]
    words = [*files, *["--normalize"] * normalize]
    weights = [weight for weight in selection.weights if weight]
    if len(set(weights)) > 1:
        words += ["--weights", ",".join(map(str, weights))]
    print_selection(selection, {"curve": plot})
    if not lacking:
        output = "submission_ensemble_selected.csv"
        print_next(command("python -m src.ensemble combine", *words, "--output", output))
    for run in lacking:
        command_line = run.record.provenance.command
        again = f"python {command_line}" if command_line else "what trained it"
        reason = "its submission is gone or has changed, so they cannot be averaged yet"
        print(f"{run.folder}: {reason}; repeat: {again}")


def averaged_vectors(runs: Sequence["Run"], normalize: bool = False) -> tuple[bool, str]:
    """Whether to average unit vectors, and what to say of it."""
    models = sorted({run.record.recipe.model for run in runs})
    if len(models) > 1:
        return True, f"unit vectors, for the models are of several kinds: {', '.join(models)}"
    return normalize, "unit vectors" if normalize else "predictions"


def print_selection(selection: "Selection", more: Mapping[str, Any]) -> None:
    """Print what each run adds, and how good the mean is."""
    print_table(selection.table, key="run")
    selected, runs = sum(map(bool, selection.weights)), len(selection.weights)
    summary: dict[str, Any] = {
        "MRR, out of fold": f"{selection.mrr:.4f}",
        "over the best single": f"{selection.over_best} (95% interval)",
        "fitted over equal weights": f"{selection.gain} (95% interval)",
    }
    print_settings(f"{selected} of {runs} runs selected", {**summary, **more})
    if selection.gain.value <= 0:
        print("Out of fold, fitted weights are not better than equal ones: all weigh the same.")
    elif selection.gain.low <= 0:
        print("Out of fold, the fitted weights are not clearly better than equal ones: they may be chance.")


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder itself, if one is given; else the one that all are in."""
    if any(path.is_absolute() for path in paths):
        paths = [path.absolute() for path in paths]
    return Path(os.path.commonpath(paths))


def train_unlike(args: argparse.Namespace) -> None:
    """Train members that are unlike each other for some minutes, and average the best of them.

        python -m src.ensemble train --minutes 60
        python -m src.ensemble train --minutes 120       # later: these members, and those of another hour

    Members are taken in turn from a short list of recipes, those in closed form once and the others by seeds 0, 1, …,
    all on one split. Each is started if there is time left and, once another of its recipe was timed, if it fits in.
    What is finished is not trained again, and what was interrupted continues. Then at most --members of them are chosen
    and weighted as by `select`, and the submission is their mean.
    """
    from src.ensembles.held_out import Run
    from src.ensembles.selection import plot_selection, select
    from src.ensembles.training import tabulate, train_in_turn
    from src.training.inputs import open_training_data
    from src.training.job import describe_data
    from src.training.machine import choose_machine
    from src.training.runs import SUBMISSION, read_run
    from src.training.scalars import require_log

    require_log(args.log)
    machine, paths = choose_machine(args.device, args.precision), data_paths(args)
    data = open_training_data(paths, machine.device)
    own = [sized(load_recipe(name), len(data.train.pairs)) for name in UNLIKE]
    recipes = [replace(recipe, seed=0, split_seed=args.split_seed) for recipe in own]
    plot = args.models_dir / CURVE
    try_outputs([args.submission, plot], (paths.train_npz, paths.keep_list, paths.val_npz, paths.test_npz))
    settings = {
        "recipes, in turn": ", ".join(UNLIKE),
        "split": f"common, by seed {args.split_seed}",
        "minutes": f"{args.minutes:g}",
        "device, precision": machine,
        "runs": args.models_dir,
    }
    print_settings("Training an ensemble of unlike members", describe_data(paths, data) | settings)
    tasks = train_in_turn(recipes, 60 * args.minutes, data, machine, args.models_dir, args.log)
    if tasks:
        print_table(tabulate(tasks), key="run")
    failed = [f"{task.run_dir}: {task.reason}" for task in tasks if task.reason]
    runs = [Run(task.run_dir, record) for task in tasks if not task.reason and (record := read_run(task.run_dir))]
    if not runs:
        raise InputError("; ".join(failed) or f"--minutes {args.minutes:g}: over before a member could be started")
    normalize, vectors = averaged_vectors(runs)
    weights, selection = [1], None
    if len(runs) > 1:
        part = data.split(recipes[0].val_fraction, args.split_seed).validation
        selection = select(runs, part, normalize=normalize, members=args.members)
        weights = selection.weights
    averaged = {run.folder / SUBMISSION: weight for run, weight in zip(runs, weights, strict=True) if weight}
    write_mean(list(averaged), list(averaged.values()), args.submission, normalize=normalize)
    more = {"average of": vectors, "submission": args.submission}
    if selection:
        plot_selection(selection, plot)
        print_selection(selection, {"curve": plot} | more)
    else:
        print_settings("The only member is the ensemble", more)
    if failed:
        raise InputError(f"{len(failed)} of {len(tasks)} members failed: {'; '.join(failed)}")
    print_next(check_command(args.submission, args))


if __name__ == "__main__":
    run_main(main)
