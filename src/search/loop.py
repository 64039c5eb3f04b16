"""The loop over trials, of any number of processes that work on one search: each trains trial after trial until as many
as are asked for have ended. One with nothing left to do waits: if another process dies, it takes the trial up."""

import sys
import time
from operator import attrgetter
from pathlib import Path
from typing import Any

import optuna
import torch

from src.common.cli import print_table
from src.common.files import InputError, copy_file
from src.common.progress import Progress
from src.search.report import draw_plots, top_table
from src.search.store import SearchStore, TrialRow, ranked
from src.training.checkpoint import EpochRow
from src.training.inputs import TrainingData
from src.training.job import predict_again, train_run
from src.training.machine import Machine
from src.training.runs import SUBMISSION, State, read_run, state_of
from src.training.world import ALONE, World

MOST_DEATHS = 3
SECONDS_BETWEEN_LOOKS = 2
# What has to be the same for a continued run to be what it would have been without the interruption.
CONDITIONS = attrgetter("device", "precision", "threads", "versions")
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def search(
    store: SearchStore,
    trials: int,
    data: TrainingData,
    machine: Machine,
    submission: Path | None,
    world: World = ALONE,
) -> list[TrialRow]:
    """Run trials until so many have ended; then print the best, draw the plots and predict the submission with the best
    one. Returns all rows. Raises InputError if none finished. Of the processes of a `world` the first alone does what
    comes after the trials."""
    _run_trials(store, trials, data, machine)
    if not world.first:
        return store.rows()
    with store.exclusive():  # the other processes come to this as well
        rows = store.rows()
        ranking = ranked(rows)
        if not ranking:
            raise InputError(f"none of {len(rows)} trials finished; the first: {rows[0]['reason']}")
        print_table(top_table(rows, store.space), key="trial")
        draw_plots(rows, store.space, store.folder)
        if submission:
            best = store.run_dir(ranking[0]["trial"])
            predict_again(best, data, machine)
            copy_file(best / SUBMISSION, submission)
    return rows


def _run_trials(store: SearchStore, trials: int, data: TrainingData, machine: Machine) -> None:
    with Progress(total=trials, initial=len(store.rows()), desc="trials", unit="trial", position=0) as progress:
        while True:
            trial, rows = store.claim(trials), store.rows()
            progress.n = sum(row["trial"] <= trials for row in rows)
            progress.set_postfix_str(_best_of(rows))
            if trial is not None:
                row = run_trial(store, trial, trials, data, machine)
                Progress.write("; ".join(filter(None, (_line(row, trials), _best_of(store.rows())))))
                sys.stdout.flush()
            elif progress.n < trials:
                progress.set_postfix_str(f"waiting for the {trials - progress.n} trials of other processes")
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                return


def _best_of(rows: list[TrialRow]) -> str:
    ranking = ranked(rows)
    return f"best so far {ranking[0]['mrr']:.4f} (trial {ranking[0]['trial']})" if ranking else ""


def _line(row: TrialRow, trials: int) -> str:
    how = f"failed: {row['reason']}"
    if row["state"] == State.FINISHED:
        how = f"MRR {row['mrr']:.4f} in epoch {row['best_epoch']} of {row['epochs']}"
    elif row["state"] == State.PRUNED:
        how = f"pruned after epoch {row['epochs']} with MRR {row['mrr']:.4f}"
    return f"trial {row['trial']} of {trials}: {how}"


def run_trial(store: SearchStore, trial: optuna.Trial, trials: int, data: TrainingData, machine: Machine) -> TrialRow:
    """Train one configuration, continuing what a dead process left, and record how it ended. Returns its row."""
    if trial.user_attrs["starts"] > MOST_DEATHS:
        reason = f"its process died {MOST_DEATHS} times before an epoch was over; out of memory?"
        return store.end(trial, State.FAILED, {}, reason)
    recipe, run_dir = store.space.recipe(trial.params), store.run_dir(trial.number + 1)
    found, here = state_of(run_dir, recipe, data.record), machine.provenance()
    results: dict[str, Any] = {"device": here.device, "precision": here.precision, "training_seconds": 0.0}

    def on_epoch(row: EpochRow) -> None:
        results["training_seconds"] += row["seconds"]
        if store.report(trial, int(row["epoch"]), row["mrr"]) and row["epoch"] < recipe.epochs:
            raise optuna.TrialPruned

    try:
        record = read_run(run_dir)
        if record is None or found != State.FINISHED:  # else a process died between training and recording
            same = record is not None and CONDITIONS(record.provenance) == CONDITIONS(here)
            resume = found == State.TO_RESUME and same
            bar = {"desc": f"trial {trial.number + 1} of {trials}", "position": 1, "leave": False}
            record = train_run(recipe, data, run_dir, machine=machine, resume=resume, on_epoch=on_epoch, bar=bar)
        assert record.results, "a finished run has them"
        results |= {**record.results.measures, "training_seconds": record.results.training_seconds}
        results |= {"device": record.provenance.device, "precision": record.provenance.precision}
        state, reason = State.FINISHED, ""
    except optuna.TrialPruned:
        state, reason = State.PRUNED, "below the median"
    except KeyboardInterrupt:
        trial.set_user_attr("starts", 0)  # was no death
        raise
    except (InputError, MemoryError, RuntimeError) as error:
        state, reason = State.FAILED, _reason(error)
        torch.cuda.empty_cache()
    return store.end(trial, state, results, reason)


def _reason(error: Exception) -> str:
    """Why a trial failed. Raises the error again if it is none that only its configuration would meet."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in OUT_OF_MEMORY):
        return f"out of memory: {text.splitlines()[0] if text else 'no more is known'}"
    raise error
