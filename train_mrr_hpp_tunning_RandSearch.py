#!/usr/bin/env python
"""Search for hyperparameters at random on one fixed split; every trial is a row of hpsearch_results.csv as it ends.

    python train_mrr_hpp_tunning_RandSearch.py                     # 100 trials; again: those that are missing
    python train_mrr_hpp_tunning_RandSearch.py --trials 200        # the same search goes on
    python train_mrr_hpp_tunning_RandSearch.py --lr 3e-4 1e-3 --tau 0.02 --models-dir models/small --results small.csv
    python train_mrr_hpp_tunning_RandSearch.py --sampler tpe --pruner none
    torchrun --nproc-per-node=4 train_mrr_hpp_tunning_RandSearch.py        # on four GPUs
    python train_mrr.py --recipe models/hpsearch/best_recipe.json  # train the best configuration again

Start it again after an interruption, or several times at once, on one machine or on several with a common --models-dir:
all work on the same search, and no trial is run twice. What is searched is CHOICES in this file. A flag replaces a
field's choices: with one value the field is fixed, with several it is searched, whether CHOICES has it or not.

The first trials are the named recipes, baseline and strong, with what flags fix: what is found is measured against them
on the same split. One whose value is not among a field's several choices is left out.

models/hpsearch/ gets the trials, best_recipe.json, and at the end plots of MRR against each hyperparameter and of
their importance. Only the best --keep trials keep their weights. The best one predicts the submission.
"""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.common.cli import Parser, command, positive_int, print_next, print_settings
from src.common.endings import run_main
from src.common.files import InputError, try_outputs
from src.flags import add_job_arguments, add_recipe_arguments, check_command, data_paths, recipe_changes
from src.search.space import COMMON, SEARCHABLE, Space
from src.training.recipe import BASELINE
from src.training.runs import State

if TYPE_CHECKING:
    from src.search.store import SearchStore, TrialRow

# AdamW without weight decay is Adam. No patience: a cosine schedule is to be gone through, and there is the pruner.
BASE = replace(BASELINE, name="hpsearch", epochs=50, patience=0, optimizer="adamw")
# Every value of a named recipe is among these, and around them what fewer captions may need. Left out is what changed a
# recipe for few captions on the sample by less than another seed did (a regression loss, less weight or a warm-up of
# InfoNCE, weight decay 0.1), and tau 0.005, which took a quarter of its MRR.
CHOICES = {
    "lr": (2e-4, 3e-4, 5e-4, 1e-3),
    "batch_size": (128, 256, 1024, 4096),
    "hidden_dim": (1024, 2048, 3072),
    "depth": (1, 3),
    "norm": ("layer", "none"),
    "copies": (1, 3),
    "kernel_share": (0.0, 0.1, 0.3, 0.5),
    "tau": (0.01, 0.02, 0.03, 0.05, 0.07),
    "dropout": (0.1, 0.2, 0.4, 0.5),
    "input_noise": (0.0, 0.2, 0.5),
    "weight_decay": (0.0, 0.01, 0.05),
    "lr_schedule": ("constant", "cosine"),
    "lr_warmup_epochs": (0.0, 0.5),
    "negatives": ("batch", "all"),
    "max_negatives": (0, 4096),
}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=100, help="of the whole search, over all processes")
    parser.add_argument("--search-seed", type=int, default=0, help="of the list of configurations")
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random", help="tpe learns from earlier trials")
    pruning = (
        "median: end a trial whose best MRR so far is below the median of finished trials at the same epoch, once 5 "
    )
    pruning += "have finished, and not before a fifth of its epochs and the longest warm-up are over; no named recipe"
    parser.add_argument("--pruner", choices=("median", "none"), default="median", help=pruning)
    parser.add_argument("--keep", type=positive_int, default=3, help="keep the weights of so many of the best trials")
    parser.add_argument("--results", type=Path, default=Path("hpsearch_results.csv"), help="the table", metavar="CSV")
    predicted = f"submission_mrr_{BASE.name}.csv"
    parser.add_argument("--submission", default=predicted, help="of the best trial, or none", metavar="CSV")
    add_job_arguments(parser, models_dir=Path("models/hpsearch"))
    several = {name: CHOICES.get(name, (getattr(BASE, name),)) for name in SEARCHABLE}
    add_recipe_arguments(parser, BASE, choices=several)
    args = parser.parse_args(argv)
    changes = recipe_changes(args)
    common = {name: value for name, value in changes.items() if name in COMMON}
    space = Space.of(replace(BASE, **common), CHOICES | changes)
    if args.trials > space.size:
        raise InputError(f"--trials {args.trials}: the space has {space.size:,} configurations; none is tried twice")

    from src.search.line import line_to_beat  # after the command line: torch takes seconds to import
    from src.search.loop import search
    from src.search.store import BEST_RECIPE, JOURNAL, SearchStore
    from src.search.strategy import make_pruner
    from src.training.inputs import open_training_data
    from src.training.job import describe_data, linear_mrr
    from src.training.machine import choose_machine
    from src.training.world import join_world

    machine = choose_machine(args.device, args.precision)
    submission = None if args.submission == "none" else Path(args.submission)
    paths = data_paths(args, with_test=submission is not None)
    world = join_world(machine.device)
    with world.one_after_the_first():
        data = open_training_data(paths, machine.device)
    split = data.split(space.base.val_fraction, space.base.effective_split_seed)  # an impossible one ends here
    inputs = (paths.train_npz, paths.keep_list, paths.val_npz, paths.test_npz)
    try_outputs((args.models_dir / JOURNAL, args.results, *([submission] if submission else [])), inputs)
    store = SearchStore(
        folder=args.models_dir,
        results=args.results,
        space=space,
        data=data.record.identity,
        sampler=args.sampler,
        seed=args.search_seed,
        pruner=make_pruner(args.pruner, space),
        keep=args.keep,
    )
    linear = world.of_first(lambda: linear_mrr(split))
    fixed = {name: value for name, value in asdict(space.base).items() if name not in (*space.choices, "name", "seed")}
    changed = [f"{name}={value}" for name, value in fixed.items() if value != getattr(BASELINE, name)]
    settings = {
        "trials": f"{args.trials} of {space.size:,} configurations; {len(store.rows())} have ended already",
        "sampler, pruner": f"{args.sampler} (seed {args.search_seed}), {args.pruner}",
        "common to all": ", ".join([*changed, f"seed {space.base.seed}"]),
        **{name: " ".join(map(str, values)) for name, values in space.choices.items()},
        "starts from": ", ".join(f"{recipe.name}{space.changes(recipe)}" for recipe in space.named) or "none",
        **{f"not from {recipe.name}": f"{lacks}: not among the choices" for recipe, lacks in space.left_out.items()},
        "line to beat": line_to_beat(store.rows(), space, linear),
        "device, precision": f"{machine}{world}",
        "search": f"{args.models_dir}, rows in {args.results}",
    }
    print_settings("Searching for hyperparameters", describe_data(paths, data) | settings)
    rows = search(store, args.trials, data, machine, submission, world)
    if not world.first:
        return
    print_result(rows, store, linear, submission)
    same = ("train_npz", "keep_list", "val_npz", "test_npz", "cache_dir", "device", "precision")  # of data and machine
    flags = {name: (getattr(args, name), parser.get_default(name)) for name in same}
    print_next(
        command("python train_mrr.py", *["--soft"] * args.soft, recipe=(args.models_dir / BEST_RECIPE, None), **flags),
        *([check_command(submission, args)] if submission else []),
    )


def print_result(rows: list["TrialRow"], store: "SearchStore", linear: float, submission: Path | None) -> None:
    """Print how a search ended; `linear` is the linear map's MRR."""
    from src.search.line import line_to_beat, verdict
    from src.search.report import describe_plots
    from src.search.store import BEST_RECIPE, OUTCOMES, ranked

    epochs, best = store.space.base.epochs, ranked(rows)[0]
    counts = Counter(row["state"] for row in rows)
    saved = sum(epochs - row["epochs"] for row in rows if row["state"] == State.PRUNED)
    summary = {
        "trials": ", ".join(f"{counts[state]} {state}" for state in OUTCOMES),
        "pruning": f"saved {saved:,} of {len(rows) * epochs:,} epochs",
        "line to beat": line_to_beat(rows, store.space, linear),
        "best trial": f"{best['trial']}, {store.run_dir(best['trial'])}",
        "its recipe": store.folder / BEST_RECIPE,
        "all trials": store.results,
        "plots": describe_plots(rows, store.folder),
    }
    if submission:
        summary["submission"] = submission
    print_settings(f"Best of {len(rows)} trials: validation MRR {best['mrr']:.4f}", summary)
    if remark := verdict(rows, store.space, linear):
        print(remark)


if __name__ == "__main__":
    run_main(main, several=True)
