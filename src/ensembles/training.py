"""Train the members of an ensemble, as far as their folders say that it is left to do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from src.common.files import InputError
from src.training.inputs import TrainingData
from src.training.job import predict_again, train_run
from src.training.machine import Machine
from src.training.recipe import Recipe
from src.training.runs import SUBMISSION, State, intact_submission, read_run, state_of

TO_PREDICT = "to predict"  # finished, but without a submission of the test captions


@dataclass(frozen=True)
class Task:
    """A member's recipe and folder. state: a State or TO_PREDICT; reason: why it failed."""

    recipe: Recipe
    run_dir: Path
    state: str
    reason: str | None = None


def plan(recipe: Recipe, data: TrainingData, run_dir: Path) -> Task:
    """What is left to do for a member. Raises InputError if its folder holds another run."""
    state: str = state_of(run_dir, recipe, data.record)
    if state == State.FINISHED:
        record = read_run(run_dir)
        predicted = record and record.data.test_fingerprint == data.record.test_fingerprint
        if not predicted or intact_submission(run_dir) != run_dir / SUBMISSION:
            state = TO_PREDICT
    elif state != State.TO_RESUME:
        state = State.NEW
    return Task(recipe, run_dir, state)


def carry_out(task: Task, data: TrainingData, machine: Machine) -> Task:
    """Do what is left to do. Returns how it ended: finished or failed."""
    try:
        if task.state == TO_PREDICT:
            predict_again(task.run_dir, data, machine)
        elif task.state != State.FINISHED:
            resume = task.state == State.TO_RESUME
            bar = {"desc": task.run_dir.name, "position": 1, "leave": False}  # below the one of all members
            train_run(
                task.recipe, data, task.run_dir, machine=machine, resume=resume, predict=True, linear=True, bar=bar
            )
    except InputError as error:
        return replace(task, state=State.FAILED, reason=str(error))
    return replace(task, state=State.FINISHED)


def tabulate(tasks: Sequence[Task]) -> pd.DataFrame:
    """A row for each member, with the figures of those that have been trained."""
    rows = []
    for task in tasks:
        row: dict[str, Any] = {"seed": task.recipe.seed, "state": task.state, "run": task.run_dir}
        record = read_run(task.run_dir)
        if record and (results := record.results):
            row["epoch"] = f"{results.best_epoch}/{results.epochs}"
            row["minutes"] = f"{results.training_seconds / 60:.1f}"
            row["MRR"], row["R@10"] = results.mrr, results.measures["recall_at_10"]
            if results.linear_mrr is not None:
                row["linear map's MRR"] = results.linear_mrr
            row["challenge MRR"] = results.measures["challenge_mrr"]
            if record.submission and record.submission.notes:
                row["its submission"] = "; ".join(record.submission.notes)
            if results.own_measures:
                row["MRR on own captions"] = results.own_measures["mrr"]
        rows.append(row)
    return pd.DataFrame(rows)
