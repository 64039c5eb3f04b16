"""The loop over trials. Any number of processes may work on one search: each trains one trial after the other until
the number of trials asked for has ended, and one that finds nothing to do waits for those of the others: if one of them
dies, it takes the trial up."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from tqdm import tqdm

from src.common.files import InputError, now
from src.search.report import draw_plots, top_table
from src.search.store import TABLE_MEASURES, SearchStore, TrialRow, ranked
from src.training.fit import EpochRow
from src.training.inputs import TrainingData
from src.training.job import predict_again, train_run
from src.training.machine import Machine
from src.training.runs import State, read_run, state_of, write_run

SECONDS_BETWEEN_LOOKS = 2
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def search(
    store: SearchStore, trials: int, data: TrainingData, machine: Machine, submission: Path | None
) -> list[TrialRow]:
    """Run trials until so many have ended, here or in other processes; then print the best, draw the plots and predict
    the submission with the best one. Returns the rows of all. Raises InputError if none finished."""
    _work(store, trials, data, machine)
    with store.exclusive():  # the other processes come to this as well
        rows = store.rows()
        ranking = ranked(rows)
        if not ranking:
            raise InputError(f"none of {len(rows)} trials finished; the first: {rows[0]['reason']}")
        print(top_table(rows, store.space).to_string(index=False))
        draw_plots(rows, store.space, store.folder)
        if submission:
            predict_again(store.run_dir(ranking[0]["trial"]), data, submission, machine.device)
    return rows


def _work(store: SearchStore, trials: int, data: TrainingData, machine: Machine) -> None:
    with tqdm(total=trials, initial=_ended(store.rows(), trials), desc="trials", unit="trial", position=0) as progress:
        while True:
            trial = store.claim(trials)
            rows = store.rows()
            if ranking := ranked(rows):
                progress.set_postfix_str(f"best MRR {ranking[0]['mrr']:.4f}, trial {ranking[0]['trial']}")
            progress.update(_ended(rows, trials) - progress.n)
            if trial is not None:
                row = run_trial(store, trial, trials, data, machine)
                tqdm.write(_line(row, ranked(store.rows()), trials))
                sys.stdout.flush()
            elif progress.n < trials:
                progress.set_postfix_str(f"waiting for the {trials - progress.n} trials of other processes")
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                return


def _ended(rows: list[TrialRow], trials: int) -> int:
    """How many of the first so many trials have ended."""
    return sum(row["trial"] <= trials for row in rows)


def run_trial(store: SearchStore, trial: optuna.Trial, trials: int, data: TrainingData, machine: Machine) -> TrialRow:
    """Train one configuration, continuing what a dead process left, and record how it ended. Returns its row."""
    recipe, run_dir = store.space.recipe(trial.params), store.run_dir(trial.number + 1)
    found, here = state_of(run_dir, recipe, data.record), machine.provenance()
    row = {"device": here.device, "precision": here.precision, "training_seconds": 0.0}

    def on_epoch(measured: EpochRow) -> None:
        row["training_seconds"] += measured["seconds"]
        hopeless = store.report(trial, int(measured["epoch"]), measured["mrr"])
        if hopeless and measured["epoch"] < recipe.epochs:
            raise optuna.TrialPruned

    try:
        record = read_run(run_dir)
        if found != State.FINISHED:  # else a process died between training and recording
            # On another machine the rest would not be what it would have been there.
            same = record and all(
                getattr(record.provenance, name) == getattr(here, name)
                for name in ("device", "precision", "threads", "versions")
            )
            record = train_run(
                recipe,
                data,
                run_dir,
                machine=machine,
                resume=bool(found == State.TO_RESUME and same),
                on_epoch=on_epoch,
                bar={"desc": f"trial {trial.number + 1} of {trials}", "position": 1, "leave": False},
            )
    except optuna.TrialPruned:
        state, reason = State.PRUNED, "below the median"
    except KeyboardInterrupt:
        store.give_back(trial)
        raise
    except (InputError, MemoryError, RuntimeError) as error:
        state, reason = State.FAILED, _reason(error)
    else:
        results = record.results
        row = {name: results.measures[name] for name in TABLE_MEASURES}
        row |= {name: getattr(results, name) for name in ("best_epoch", "epochs", "training_seconds")}
        row |= {name: getattr(record.provenance, name) for name in ("device", "precision")}
        return store.end(trial, State.FINISHED, row)
    torch.cuda.empty_cache()
    if record := read_run(run_dir):
        write_run(run_dir, replace(record, status=state, reason=reason, finished=now()))
    return store.end(trial, state, row, reason)


def _reason(error: Exception) -> str:
    """Why a trial failed. Raises the error again if it is none that only its configuration would meet."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in OUT_OF_MEMORY):
        return f"out of memory: {text.splitlines()[0] if text else 'no more is known'}"
    raise error


def _line(row: TrialRow, ranking: list[TrialRow], trials: int) -> str:
    """How a trial ended, in one line."""
    if row["state"] == State.FINISHED:
        how = f"MRR {row['mrr']:.4f} in epoch {row['best_epoch']} of {row['epochs']}"
    elif row["state"] == State.PRUNED:
        how = f"pruned after epoch {row['epochs']} with MRR {row['mrr']:.4f}"
    else:
        how = f"failed: {row['reason']}"
    best = f"; best so far {ranking[0]['mrr']:.4f} (trial {ranking[0]['trial']})" if ranking else ""
    return f"trial {row['trial']} of {trials}: {how}{best}"
