"""Ensembles: average submissions, measure means of runs, choose which runs to average.

    python -m src.ensemble combine a.csv b.csv --output submission_ab.csv       # any submissions
    python -m src.ensemble evaluate models/common_split                         # how good the mean of runs is
    python -m src.ensemble select models/common_split                           # which of them to average

The ensembles of the inventory have scripts of their own: ensemble_combine_CSVs_*.py.
"""

import argparse
import inspect
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.common.cli import Parser, add_device_argument, print_settings
from src.common.endings import run_main
from src.common.files import InputError, require_file, try_outputs
from src.common.paths import CLIP_NPZ, MODELS_DIR, TRAIN_NPZ
from src.ensembles.members import Ensemble, Member, member_files
from src.flags import add_job_arguments, add_recipe_arguments, data_paths, override
from src.training.recipe import RECIPES, describe_recipe, load_recipe
from src.training.runs import RUN_JSON

if TYPE_CHECKING:
    import pandas as pd


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
    select = commands.add_parser("select", help="choose which runs to average", description=inspect.getdoc(select_runs))
    select.set_defaults(function=select_runs)
    for command in (evaluate, select):
        command.add_argument("runs", type=Path, nargs="*", default=[MODELS_DIR], help="folders of runs, or above them")
        command.add_argument("--on", type=Path, default=TRAIN_NPZ, metavar="NPZ", help="unfiltered pairs to measure on")
        add_device_argument(command)
    how = evaluate.add_mutually_exclusive_group()
    against = "give differences from this run, or the mean of these, and not from the best single run"
    how.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUNS", help=against)
    how.add_argument("--out-of-fold", action="store_true", help="predict a caption by runs that never saw its image")
    select.add_argument("--normalize", "--normalise", action="store_true", help="average unit vectors")
    select.add_argument("--seed", type=int, default=0, help="of the halving of the images: one half chooses")
    plot = "the curve (default: selection_curve.png in the folder of the runs)"
    select.add_argument("--plot", type=Path, metavar="PNG", help=plot)
    args = parser.parse_args(argv)
    args.function(args)


def add_combine_arguments(parser: argparse.ArgumentParser, output: Path | None = None) -> None:
    parser.add_argument("--output", type=Path, default=output, required=output is None, help="the CSV to write")
    parser.add_argument("--normalize", "--normalise", action="store_true", help="average unit vectors, not predictions")
    weights = "mrr: by the validation MRR that the run of each file recorded"
    parser.add_argument("--weights", choices=("uniform", "mrr"), default="uniform", help=weights)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where the runs are")


def combine_files(args: argparse.Namespace) -> None:
    """The mean of submissions, from CSV files alone: caption by caption, in the order of the first file."""
    from src.data.submissions import write_submission
    from src.ensembles.averaging import average, recorded_mrrs, refuse_twice

    try_outputs([args.output], args.files)
    refuse_twice(args.files)
    weights, weighting = [1.0] * len(args.files), "uniform"
    if args.weights == "mrr":
        weights = recorded_mrrs(args.files, args.models_dir)
        weighting = f"by validation MRR, {min(weights):.4f} to {max(weights):.4f}"
    vectors = "unit vectors" if args.normalize else "predictions"
    settings = {"average of": vectors, "weights": weighting, "output": args.output}
    print_settings(f"Averaging {len(args.files)} submissions", settings)
    caption_ids, embeddings = average(args.files, weights, normalize=args.normalize)
    write_submission(args.output, caption_ids, embeddings)
    count, width = embeddings.shape
    print(f"{args.output}: {count} captions × {width} numbers, {args.output.stat().st_size / 1e6:.1f} MB")


def combine_members(argv: list[str] | None, doc: str | None, members: Sequence[Member], output: Path) -> None:
    """The whole of a combining script's `main`."""
    parser = Parser(doc)
    parser.add_argument("files", type=Path, nargs="*", metavar="CSV", help="average these instead of the members")
    add_combine_arguments(parser, output)
    args = parser.parse_args(argv)
    args.files = args.files or member_files(members, args.models_dir)
    combine_files(args)


def evaluate_runs(args: argparse.Namespace) -> None:
    """How good the mean of some runs is, on captions that they did not train on; differences with their uncertainty.

        python -m src.ensemble evaluate models/common_split
        python -m src.ensemble evaluate models/common_split --against models/baseline_train_seed43
        python -m src.ensemble evaluate models/ensemble_* --out-of-fold      # members that each held out other images

    Runs are given as their folders, or as folders of those. The mean of runs with one common split is measured on the
    captions of the images that they held out. Runs with splits of their own have trained on each other's validation
    images: --out-of-fold averages, for every caption, only the runs that never saw its image. With 10% held out these
    are a tenth of all runs, so the figure is that of a smaller ensemble. The gallery is all images that are measured.
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
        "device": part.of.device,
    }
    print_settings(f"Measuring {len(runs)} runs", settings)
    for line in describe_left_out(left_out):
        print(line)
    singles, means = measure_runs(runs, part, unseen_Rn)
    measured = [*singles, *means]
    reference = means[0] if args.out_of_fold and means else max(singles, key=lambda single: single.mrr)
    if others:
        singles, means = measure_runs(others, part, unseen_captions(others, part), prefix="against: ")
        reference = means[1] if means else singles[0]  # the mean comes after the average
        measured += [*singles, *means]
    print_table(comparison([each for each in measured if not each.partial], reference))
    print(f"Differences are from: {reference.label} (n = {reference.count})")
    if partial := [each for each in measured if each.partial]:
        print("\nSingle runs, each on the captions that it did not train on; the gallery is the same:")
        print_table(comparison(partial))


def select_runs(args: argparse.Namespace) -> None:
    """Which runs to average: forward selection on validation predictions.

        python -m src.ensemble select models/common_split
        python -m src.ensemble select models/common_split --normalize

    Starts with the best run and adds, again and again, the one that raises the MRR of the mean most (Caruana et al.
    2004). The curve goes on to the mean of all runs; its highest point is what is selected.

    A choice flatters itself on the captions that it was made on. So half of the images choose, and the figures to
    believe are those of the other half; the gallery is all of them for both, as for `evaluate`. If on that half the
    mean of all runs is as good as that of the selected, all are recommended.
    """
    from src.data.pairs import open_pairs
    from src.ensembles.held_out import describe_left_out, finished_runs, held_out_part
    from src.ensembles.selection import choosing_half, plot_selection, select
    from src.training.machine import find_device
    from src.training.runs import intact_submission

    pairs = open_pairs(args.on)
    runs, left_out = finished_runs(args.runs, pairs)
    if len(runs) < 2:
        raise InputError(f"{runs[0].folder}: is the only finished run; there is nothing to select from")
    plot = args.plot or common_folder(args.runs) / "selection_curve.png"
    try_outputs([plot], [args.on])
    part = held_out_part(pairs, runs, find_device(args.device))
    chooses_n = choosing_half(part, args.seed)
    halves = f"{chooses_n.sum():,} choose, {(~chooses_n).sum():,} report"
    settings = {
        "captions from": args.on,
        "measured": f"{len(part):,} of {len(part.of.pairs):,} captions; {halves}",
        "gallery": f"{len(part.images):,} images, held out by every run",
        "average of": "unit vectors" if args.normalize else "predictions",
        "device": part.of.device,
    }
    print_settings(f"Selecting among {len(runs)} runs", settings)
    for line in describe_left_out(left_out):
        print(line)
    selection = select(runs, part, chooses_n, normalize=args.normalize)
    print_table(selection.curve)
    plot_selection(selection, plot)
    mean, gain, averaged = selection.means[selection.count - 1], selection.gain, selection.recommended
    summary = {
        "MRR, other half": f"{mean.mrr:.4f}",
        "over the best single": f"{mean.over(selection.means[0])} (95% interval)",
        "over the mean of all": f"{gain} (95% interval)",
        "curve": plot,
    }
    files = [intact_submission(run.folder) for run in averaged]
    lacking = [run for run, file in zip(averaged, files, strict=True) if file is None]
    if not lacking:
        flags = [*["--normalize"] * args.normalize, "--output", "submission_ensemble_selected.csv"]
        command = shlex.join(["python", "-m", "src.ensemble", "combine", *map(str, files), *flags])
        summary["average them with" if len(averaged) == selection.count else "average all with"] = command
    print_settings(f"{selection.count} of {len(runs)} runs selected", summary)
    if len(averaged) > selection.count:
        print("On the other half the selected runs are not better than the mean of all: average all.")
    elif selection.count < len(runs) and gain.low <= 0:
        print("On the other half they are not clearly better than the mean of all: the choice may be chance.")
    for run in lacking:
        command = run.record.provenance.command
        again = f"python {command}" if command else "what trained it"
        reason = "its submission is gone or has changed, so they cannot be averaged yet"
        print(f"{run.folder}: {reason}; repeat: {again}")


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder itself, if one is given; else the one that all are in."""
    if any(path.is_absolute() for path in paths):
        paths = [path.absolute() for path in paths]
    return Path(os.path.commonpath(paths))


def train_members(argv: list[str] | None, doc: str | None, ensemble: Ensemble) -> None:
    """The whole of an ensemble trainer's `main`. Raises InputError, at the end, if a seed failed."""
    parser, own = Parser(doc), ensemble.recipe
    parser.add_argument("--seeds", type=int, nargs="+", default=list(ensemble.reference_mrr), help="members to train")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be trained and what exists")
    recipes = f"{', '.join(RECIPES)}, or a JSON file of its fields (default: the script's own, {own.name})"
    parser.add_argument("--recipe", help=recipes)
    add_job_arguments(parser, train_npz=ensemble.train_npz)
    add_recipe_arguments(parser, own, without=("seed",))
    args = parser.parse_args(argv)
    # A member keeps its recipe's name, by which it is combined.
    base = replace(load_recipe(args.recipe), name=own.name) if args.recipe else own
    recipe = override(base, args)
    if args.train_npz == CLIP_NPZ:
        require_file(CLIP_NPZ, "make it with `python -m src.clip_filter_pairs`")

    from tqdm import tqdm

    from src.ensembles.training import carry_out, plan, tabulate
    from src.training.inputs import open_training_data
    from src.training.job import describe_data
    from src.training.machine import choose_machine

    machine, paths = choose_machine(args.device, args.precision), data_paths(args)
    data = open_training_data(paths, machine.device)
    members = ensemble.members(*dict.fromkeys(args.seeds))
    tasks = [plan(replace(recipe, seed=member.seed), data, args.models_dir / member.run_name) for member in members]
    given_up = ensemble.given_up(recipe)
    settings = {
        "recipe": describe_recipe(recipe, replace(base, name=args.recipe or own.name)),
        **({"without its own": f"{given_up}, which make this script's models different"} if given_up else {}),
        "split": "by each seed" if recipe.split_seed is None else f"common, by seed {recipe.split_seed}",
        "seeds": " ".join(str(member.seed) for member in members),
        "device, precision": machine,
        "runs": args.models_dir / f"{own.name}_seed*",
    }
    print_settings(f"Training {len(members)} ensemble members", describe_data(paths, data) | settings)
    if not args.dry_run:
        outputs = [task.run_dir / RUN_JSON for task in tasks]
        try_outputs(outputs, (paths.train_npz, paths.keep_list, paths.val_npz, paths.test_npz))
        tasks = [carry_out(task, data, machine) for task in tqdm(tasks, desc="members", unit="member", position=0)]
    table = tabulate(tasks)
    print_table(table)
    if "MRR" in table:
        scores = table["MRR"].dropna()
        print(f"validation MRR: {scores.mean():.4f} ± {scores.std(ddof=0):.4f} (mean ± s.d., n = {len(scores)})")
    failed = [f"seed {task.recipe.seed}: {task.reason}" for task in tasks if task.reason]
    if failed:
        raise InputError(f"{len(failed)} of {len(members)} members failed: {'; '.join(failed)}")


def print_table(table: "pd.DataFrame") -> None:
    print(table.to_string(index=False, na_rep="-", float_format="{:.4f}".format))


if __name__ == "__main__":
    run_main(main)
