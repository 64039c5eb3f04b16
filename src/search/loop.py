"""Random search for hyperparameters: the command line, the loop over trials, and what stands at its end.

Any number of processes may work on one search; `search_store.py` says how they share it. Each trains one trial after
the other until the number of trials asked for has ended. A process that finds nothing to do waits for those of the
others: if one of them dies, it takes the trial up.
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from tqdm import tqdm

from src.common.cli import HelpFormatter, positive_int, print_settings, resolve_device, resolve_precision
from src.common.files import InputError
from src.data.submissions import check_submission
from src.search.report import epochs_saved, write_report
from src.search.space import SAMPLERS, Space, add_space_arguments, read_space
from src.search.store import BEST_RECIPE, FAILED, FINISHED, MEASURES, PRUNED, SearchStore, ranked
from src.training.inputs import TrainingData, open_training_data
from src.training.job import add_job_arguments, check_run_dir, identity, predict_again, print_job, train_run
from src.training.recipe import BASELINE, Recipe
from src.training.runs import BEST_MRR, LAST, now, provenance, read_run, write_run

PRUNERS = ("median", "none")
POLL_SECONDS = 2
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def search(argv: list[str] | None, doc: str, base: Recipe, choices: Mapping[str, tuple]) -> None:
    """The whole of the search's `main`. Raises InputError, at the end, if no trial finished."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=HelpFormatter)
    _add_arguments(parser, base, choices)
    args = parser.parse_args(argv)

    space = read_space(args, base, choices)
    if args.trials > space.size:
        raise InputError(
            f"--trials {args.trials}: the space has {space.size:,} configurations, and none is tried twice"
        )
    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    submission = None if args.submission == "none" else Path(args.submission or f"submission_mrr_{base.name}.csv")
    data = open_training_data(args, with_test=submission is not None)
    data.split(space.base.val_fraction, space.base.effective_split_seed)  # an impossible one ends here, not each trial
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = SearchStore(
        folder=args.models_dir,
        results=args.results,
        space=space,
        data=identity(space.base, data)["data"],
        sampler=args.sampler,
        seed=args.search_seed,
        pruner=_pruner(args.pruner, space),
        keep=args.keep,
    )
    settings = {
        "trials": f"{args.trials} of {space.size:,} configurations; {len(store.rows())} have ended already",
        "sampler, pruner": f"{args.sampler} (seed {args.search_seed}), {args.pruner}",
        "common to all": _common(space),
        **{name: " ".join(map(str, values)) for name, values in space.choices.items()},
        "device, precision": f"{device}, {precision}",
        "search": f"{args.models_dir}, rows in {args.results}",
    }
    print_job("Searching for hyperparameters", data, args, settings)
    work(store, args.trials, data, device, precision)
    conclude(store, data, device, submission, _retrain_command(parser, args))


def _add_arguments(parser: argparse.ArgumentParser, base: Recipe, choices: Mapping[str, tuple]) -> None:
    parser.add_argument("--trials", type=positive_int, default=100, help="of the whole search, over all processes")
    parser.add_argument("--search-seed", type=int, default=0, help="of the list of configurations")
    parser.add_argument("--sampler", choices=SAMPLERS, default="random", help="tpe learns from the trials before")
    parser.add_argument(
        "--pruner",
        choices=PRUNERS,
        default="median",
        help="median: end a trial whose best MRR so far is below the median of finished trials at the same epoch, "
        "once 5 have finished, and not before a fifth of its epochs and the longest warm-up are over",
    )
    parser.add_argument("--keep", type=positive_int, default=3, help="keep the weights of so many of the best trials")
    parser.add_argument("--results", type=Path, default=Path("hpsearch_results.csv"), help="the table", metavar="CSV")
    parser.add_argument(
        "--submission", help=f"of the best trial, or none (default: submission_mrr_{base.name}.csv)", metavar="CSV"
    )
    add_job_arguments(parser)
    parser.set_defaults(models_dir=Path("models/hpsearch"))
    add_space_arguments(parser, base, choices)


def _pruner(name: str, space: Space) -> BasePruner:
    if name == "none":
        return NopPruner()
    longest = max(space.highest(field) for field in ("lr_warmup_epochs", "infonce_warmup_epochs"))
    return MedianPruner(n_startup_trials=5, n_warmup_steps=max(space.base.epochs // 5, math.ceil(longest) + 1))


def _common(space: Space) -> str:
    """What all trials have in common and the baseline has not."""
    left_out = {"name", "seed", *space.choices}
    common = {name: value for name, value in asdict(space.base).items() if name not in left_out}
    changed = [f"{name}={value}" for name, value in common.items() if value != getattr(BASELINE, name)]
    return ", ".join([*changed, f"seed {space.base.seed}"])


def work(store: SearchStore, trials: int, data: TrainingData, device: torch.device, precision: str) -> None:
    """Run trials until so many have ended, here or in other processes."""
    ended = sum(row["trial"] <= trials for row in store.rows())
    with tqdm(total=trials, initial=ended, desc="trials", unit="trial", position=0) as progress:
        while True:
            trial = store.claim(trials)
            rows = store.rows()
            ended = sum(row["trial"] <= trials for row in rows)
            if ranking := ranked(rows):
                progress.set_postfix_str(f"best MRR {ranking[0]['mrr']:.4f}, trial {ranking[0]['trial']}")
            progress.update(ended - progress.n)
            if trial is not None:
                row = run_trial(store, trial, trials, data, device, precision)
                tqdm.write(_line(row, ranked(store.rows()), trials))
                sys.stdout.flush()
            elif ended < trials:
                progress.set_postfix_str(f"waiting for the {trials - ended} trials of other processes")
                time.sleep(POLL_SECONDS)
            else:
                return


def run_trial(
    store: SearchStore, trial: optuna.Trial, trials: int, data: TrainingData, device: torch.device, precision: str
) -> dict[str, Any]:
    """Train one configuration, continuing what a dead process left, and record how it ended. Returns its row."""
    recipe, run_dir = store.space.recipe(trial.params), store.run_dir(trial.number)
    status = check_run_dir(run_dir, recipe, data)
    here = provenance(device, precision)
    where = {name: here[name] for name in ("device", "precision")}
    seconds = 0.0

    def on_epoch(row: dict[str, float]) -> None:
        nonlocal seconds
        seconds += row["seconds"]
        if store.report(trial, row["epoch"], row["mrr"]) and row["epoch"] < recipe.epochs:
            raise optuna.TrialPruned

    try:
        if status == "finished" and (run_dir / BEST_MRR).exists():  # a process died between training and recording
            record = read_run(run_dir)
        else:
            bar = {"desc": f"trial {trial.number + 1} of {trials}", "position": 1, "leave": False}
            resume = (run_dir / LAST).exists() and _same_machine(read_run(run_dir), here)
            record = train_run(
                recipe, data, run_dir, device=device, precision=precision, resume=resume, on_epoch=on_epoch, bar=bar
            )
    except optuna.TrialPruned:
        state, reason = PRUNED, "below the median"
    except KeyboardInterrupt:
        store.give_back(trial)
        raise
    except (InputError, MemoryError, RuntimeError) as error:
        state, reason = FAILED, _reason(error)
    else:
        results = {name: record["results"][name] for name in (*MEASURES, "training_seconds")}
        return store.end(trial, FINISHED, results | {name: record[name] for name in where})
    torch.cuda.empty_cache()
    if record := read_run(run_dir):
        write_run(run_dir, record | {"status": state, "reason": reason, "finished": now()})
    return store.end(trial, state, where | {"training_seconds": seconds}, reason)


def _same_machine(record: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether continuing the run here gives what it would have given there."""
    return all(record[name] == here[name] for name in ("device", "precision", "threads", "versions"))


def _reason(error: Exception) -> str:
    """Why a trial failed. Raises the error again if it is none that only its configuration would meet."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in OUT_OF_MEMORY):
        return f"out of memory: {text.splitlines()[0] if text else 'no more is known'}"
    raise error


def _line(row: dict[str, Any], ranking: list[dict[str, Any]], trials: int) -> str:
    """How a trial ended, in one line."""
    if row["state"] == FINISHED:
        how = f"MRR {row['mrr']:.4f} in epoch {row['best_epoch']} of {row['epochs']}"
    elif row["state"] == PRUNED:
        how = f"pruned after epoch {row['epochs']} with MRR {row['mrr']:.4f}"
    else:
        how = f"failed: {row['reason']}"
    best = f"; best so far {ranking[0]['mrr']:.4f} (trial {ranking[0]['trial']})" if ranking else ""
    return f"trial {row['trial']} of {trials}: {how}{best}"


def conclude(
    store: SearchStore, data: TrainingData, device: torch.device, submission: Path | None, retrain: str
) -> None:
    """Print the best trials, draw the plots, write the best model's submission. Raises InputError if none finished."""
    rows = store.rows()
    ranking = ranked(rows)
    if not ranking:
        raise InputError(f"none of {len(rows)} trials finished; the first: {rows[0]['reason']}")
    with store.exclusive():  # the other processes conclude as well
        plots = write_report(rows, store.space.choices, store.folder)
        best_dir = store.run_dir(ranking[0]["trial"] - 1)
        if submission is not None:
            predict_again(best_dir, data, submission, device)
            check_submission(submission, data.test, data.pairs.image_embeddings.shape[1])
    counts = {state: sum(row["state"] == state for row in rows) for state in (FINISHED, PRUNED, FAILED)}
    epochs = store.space.base.epochs
    summary = {
        "trials": ", ".join(f"{count} {state}" for state, count in counts.items()),
        "pruning": f"saved {epochs_saved(rows, epochs):,} of {len(rows) * epochs:,} epochs",
        "best trial": f"{ranking[0]['trial']}, {best_dir}",
        "its recipe": store.folder / BEST_RECIPE,
        "train it again": retrain,
        "all trials": store.results,
        "plots": ", ".join(map(str, plots)),
    }
    if submission is not None:
        summary["submission"] = submission
    print_settings(f"Best of {len(rows)} trials: validation MRR {ranking[0]['mrr']:.4f}", summary)


def _retrain_command(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    words = ["python", "train_mrr.py", "--recipe", str(args.models_dir / BEST_RECIPE)]
    for name in ("train_npz", "keep_list", "val_npz", "test_npz", "device", "precision"):
        value = getattr(args, name)
        if value != parser.get_default(name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)
