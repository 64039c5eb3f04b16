"""List the runs in models/, the best first, or put two of them side by side.

    python -m src.runs                                  # which runs there are, how good each is, what became of it
    python -m src.runs --sort started                   # the latest first
    python -m src.runs --models-dir models/hpsearch     # the trials of a search
    python -m src.runs --csv > runs.csv                 # or --json: the whole names, and more columns
    python -m src.runs compare baseline_train_seed43 auto_train_seed43

A run that is trained anew or continued is "running" as long as its process lives; "to resume" if that died and left a
checkpoint, "to train" if it left none. Its CSV is "lost" if the submission is gone or is no longer the recorded one.
"""

import argparse
import csv
import inspect
import json
import math
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.cli import Parser, add_device_argument, print_settings, print_table
from src.common.endings import run_main
from src.common.files import InputError, try_outputs
from src.common.locks import is_at_work
from src.common.paths import MODELS_DIR
from src.submission import LOG, read_log
from src.training.recipe import difference, named_recipe
from src.training.runs import RUNNING, RunRecord, intact_submission, read_run, recorded_runs, state_of

if TYPE_CHECKING:
    import pandas as pd

    from src.ensembles.held_out import Run

RunRow = dict[str, Any]  # of the table, as RUN_COLUMNS; None for what is not known

RUN_COLUMNS = (
    *("run", "recipe", "changes", "data", "seed", "best_epoch", "epochs", "minutes", "mrr", "challenge_mrr"),
    *("submission", "score", "state", "reason", "started", "folder"),
)
SORTS = {
    "mrr": True,
    "challenge_mrr": True,
    "score": True,
    "started": True,
    "minutes": False,
    "run": False,
}  # downwards
NARROWEST = 100  # columns of a terminal that the table may count on
SHORTENED = {"run": 16, "recipe": 10, "data": 8}  # the columns that give way on it, and down to which width


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.set_defaults(function=list_runs)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where the runs are")
    parser.add_argument("--sort", choices=SORTS, default="mrr", help="the best or the latest first, or the shortest")
    parser.add_argument("--all", action="store_true", help="list the trials of searches and the models of folds, too")
    parser.add_argument("--log", type=Path, default=LOG, help="the table of what was sent, with the scores")
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--csv", action="store_true", help="print the rows as CSV")
    machine.add_argument("--json", action="store_true", help="print the rows as a JSON list of objects")
    commands = parser.add_subparsers(metavar="compare")
    compare = commands.add_parser("compare", help="two runs side by side", description=inspect.getdoc(compare_runs))
    compare.set_defaults(function=compare_runs)
    compare.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, or its name in --models-dir")
    where = f"where the runs are (default: {MODELS_DIR})"
    compare.add_argument("--models-dir", type=Path, default=argparse.SUPPRESS, help=where)
    compare.add_argument("--output", type=Path, default=Path("compare.png"), metavar="PNG", help="the curves")
    on = "measure both on these pairs (default: the file that both validated on)"
    compare.add_argument("--on", type=Path, metavar="NPZ", help=on)
    add_device_argument(compare)
    args = parser.parse_args(argv)
    if args.models_dir != MODELS_DIR and not args.models_dir.is_dir():  # before any training there is no models/
        raise InputError(f"--models-dir {args.models_dir}: no such folder")
    args.function(args)


def list_runs(args: argparse.Namespace) -> None:
    from src.ensembles.held_out import describe_left_out

    scores = {row["sha256"]: row["score"] or "sent" for row in read_log(args.log)}
    runs, left_out = dict(recorded_runs(args.models_dir)), {}
    if not args.all:
        left_out = {
            folder: why for folder in runs if (why := reason_to_leave_out(folder, runs[folder], args.models_dir))
        }
    rows = [row_of(folder, runs[folder], args.models_dir, scores) for folder in runs if folder not in left_out]
    rows = in_order(rows, args.sort)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, RUN_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print_rows(rows, args.models_dir)
        for line in describe_left_out(left_out):
            print(f"{line}; see --all")


def reason_to_leave_out(folder: Path, record: RunRecord, models_dir: Path) -> str | None:
    """Why a run is not one of those that a user trained by name, unless its own folder is the one that is listed."""
    from src.ensembles.held_out import ON_A_PART, SEARCH_JOURNAL

    if folder.parent == models_dir:
        return None
    if (folder.parent / SEARCH_JOURNAL).is_file():
        return "trial of a search"
    return "trained on a part of the data" if ON_A_PART in record.data.train_fingerprint else None


def row_of(folder: Path, record: RunRecord, models_dir: Path, scores: Mapping[str, str]) -> RunRow:
    """A run's row; `scores` by the SHA-256 of what was sent."""
    from src.training.inputs import DataPaths

    data, results, submission, base = record.data, record.results, record.submission, named_recipe(record.recipe)
    keep_list = Path(data.keep_list) if data.keep_list else None
    paths = DataPaths(train_npz=Path(data.train_npz), keep_list=keep_list, soft=bool(data.caption_weights))
    row: RunRow = dict.fromkeys(RUN_COLUMNS)
    row |= {
        "run": folder.relative_to(models_dir).as_posix(),
        "recipe": base.name,
        "changes": difference(record.recipe, base),
        "data": paths.tag,
        "seed": record.recipe.seed,
        "state": RUNNING if record.status == RUNNING and is_at_work(folder) else str(state_of(folder)),
        "reason": record.reason,
        "started": record.provenance.started or None,
        "folder": str(folder),
    }
    if results:
        seconds = results.training_seconds + (results.refit_seconds or 0.0)
        row |= {
            "best_epoch": results.best_epoch,
            "epochs": results.epochs,
            "minutes": seconds / 60 if math.isfinite(seconds) else None,
            "mrr": results.mrr,
            "challenge_mrr": results.measures.get("challenge_mrr"),
        }
    if submission:
        row |= {"submission": "intact" if intact_submission(folder) else "lost", "score": scores.get(submission.sha256)}
    return row


def in_order(rows: list[RunRow], by: str) -> list[RunRow]:
    """Rows sorted by a column of SORTS; those that lack it come last."""

    def value(row: RunRow) -> Any:
        return _number(row[by]) if by == "score" else row[by]

    known = [row for row in rows if value(row) is not None]
    return sorted(known, key=value, reverse=SORTS[by]) + [row for row in rows if value(row) is None]


def _number(score: str | None) -> float | None:
    """A score of the log that is one: not "sent", not "error"."""
    try:
        return float(score or "")
    except ValueError:
        return None


def print_rows(rows: list[RunRow], models_dir: Path) -> None:
    """Print the table, on as many columns as the terminal has, and in full why runs failed."""
    if not rows:
        print(f"{models_dir}: no runs yet; train one with `python train_mrr.py`")
        return
    tags = {row["data"] for row in rows}
    common = {"data": tags.pop()} if len(tags) == 1 else {}
    print_settings(f"{len(rows)} runs in {models_dir}", common)
    width = max(NARROWEST, shutil.get_terminal_size().columns)
    table = fitted(as_shown(rows).drop(columns=list(common)), width)
    print_table(table, key=table.columns[0], width=width)
    for row in rows:
        if row["reason"]:
            print(f"{row['state']}: {row['run']}: {row['reason']}")


def as_shown(rows: list[RunRow]) -> "pd.DataFrame":
    """The rows as text, without the columns that are empty."""
    import pandas as pd

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    table = pd.DataFrame(
        {
            "run": row["run"],
            "recipe": f"{row['recipe']} {row['changes']}".strip(),
            "data": row["data"],
            "seed": str(row["seed"]),
            "epoch": str(row["best_epoch"] or ""),
            "min": number(row["minutes"], 1),
            "MRR": number(row["mrr"], 4),
            "chall.": number(row["challenge_mrr"], 4),
            "CSV": {"intact": "yes", None: ""}.get(row["submission"], row["submission"]),
            "score": row["score"] or "",
            "state": row["state"],
        }
        for row in rows
    )
    return table.loc[:, (table != "").any()]


def fitted(table: "pd.DataFrame", width: int) -> "pd.DataFrame":
    """A table of text whose lines are no longer than `width`: the widest of the columns that may be SHORTENED gives way
    first. Text is made to start at the left."""
    widths = {name: max(len(name), *map(len, table[name])) for name in table}
    text = [name for name in SHORTENED if name in widths]
    while sum(widths.values()) + len(widths) - 1 > width:
        wide = [name for name in text if widths[name] > SHORTENED[name]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    shown = {name: [cell.ljust(widths[name]) for cell in _shortened(list(table[name]), widths[name])] for name in text}
    return table.assign(**shown).rename(columns={name: name.ljust(widths[name]) for name in text})


def _shortened(texts: list[str], width: int) -> list[str]:
    """Texts without their middle, or without what comes before and after a part of it, such that those which differ
    still do, if that can be."""

    def cut(head: int, end: int) -> list[str]:
        """The first `head` characters, and of those from the `end`-th last one on what there is room for."""
        tail = width - head - 1
        ends = (text[-end:] if end <= tail else f"{text[-end:][: tail - 1]}…" for text in texts)
        return [text if len(text) <= width else f"{text[:head]}…{last}" for text, last in zip(texts, ends, strict=True)]

    longest = max(map(len, texts))
    ways = [(head, width - head - 1) for head in range(width // 2, 0, -1)]
    ways += [(width // 3, end) for end in range(width, longest)]
    return next((short for way in ways if len(set(short := cut(*way))) == len(set(texts))), cut(*ways[0]))


def compare_runs(args: argparse.Namespace) -> None:
    """Two runs, A and B: what differs in recipe and data, their measures, curves, and whether one is better.

        python -m src.runs compare baseline_train_seed43 auto_train_seed43
        python -m src.runs compare models/a models/b --output a_and_b.png
        python -m src.runs compare models/a models/b --on data/train/train.npz

    A name may be typed as the list shortens it, with its …. The paired difference of the MRR has a 95% interval, by a
    bootstrap over images: A is better where it lies above 0. Both are measured on the captions that validated both,
    which needs the same split (one --split-seed or one seed); else a line says why there is no such difference.

    Training losses are comparable only where both minimise the same: with another temperature or other negatives the
    loss is another.
    """
    from src.ensembles.held_out import Run
    from src.ensembles.side_by_side import labels_of, plot_overlaid, read_history
    from src.training.machine import find_device

    device, folders = find_device(args.device), [find_run(name, args.models_dir) for name in args.runs]
    if folders[0].resolve() == folders[1].resolve():
        raise InputError(f"{folders[0]}: is named twice; name two runs")
    ours, theirs = runs = [Run(folder, record) for folder in folders if (record := read_run(folder))]
    try_outputs([args.output], [args.on])
    tables = map(read_history, runs)
    histories = {label: table for label, table in zip(labels_of(runs), tables, strict=True) if table is not None}
    if histories:
        plot_overlaid(histories, args.output)
    print_differences(ours, theirs)
    print_paired(ours, theirs, device, args.on)
    print_settings("Curves", {"picture": args.output if histories else "none: neither has trained an epoch yet"})


def find_run(name: str, models_dir: Path) -> Path:
    """The folder of a run, by its path, or by its name in `models_dir`, which may be shortened. Raises InputError."""
    for folder in (models_dir / name, Path(name)):
        if read_run(folder):
            return folder
    pattern = re.compile(".*".join(map(re.escape, name.split("…"))))
    known = {folder.relative_to(models_dir).as_posix(): folder for folder, _ in recorded_runs(models_dir)}
    found = [folder for run, folder in known.items() if "…" in name and pattern.fullmatch(run)]
    if len(found) > 1:
        raise InputError(f"{name}: may be any of {len(found)} runs, such as {found[0]} and {found[1]}")
    if not found:
        raise InputError(f"{name}: no run's folder, nor the name of one in {models_dir}; see `python -m src.runs`")
    return found[0]


def print_differences(ours: "Run", theirs: "Run") -> None:
    """Print what differs in recipes and data, as A | B, and the measures."""
    from src.ensembles.side_by_side import data_differences, measures_table, recipe_differences

    print_settings("Two runs", {"A": ours.folder, "B": theirs.folder})
    recipes = recipe_differences(ours.record.recipe, theirs.record.recipe)
    data = data_differences(ours.record.data, theirs.record.data)
    for what, values in (("Recipe", recipes), ("Data", data)):
        if values:
            print_settings(f"{what}: A | B", {name: f"{a} | {b}" for name, (a, b) in values.items()})
        else:
            print(f"{what}: the same")
    table = measures_table(ours, theirs)
    print_table(table, key=table.columns[0])


def print_paired(ours: "Run", theirs: "Run", device: Any, on: Path | None) -> None:
    """Print the paired difference, or why there is none."""
    from src.ensembles.side_by_side import paired

    try:
        gain, measured = paired(ours, theirs, device, on)
    except InputError as reason:
        print_settings("Paired difference of the MRR", {"A − B": f"none: {reason}"})
        return
    verdict = "A is better" if gain.low > 0 else "B is better" if gain.high < 0 else "may be chance"
    part = measured.part
    settings = {
        "A − B": f"{gain} (95% interval): {verdict}",
        "measured on": f"{len(part):,} captions of {len(part.images):,} images that neither trained on",
    }
    print_settings("Paired difference of the MRR", settings)


if __name__ == "__main__":
    run_main(main)
