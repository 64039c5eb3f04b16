"""One training job: from opened data and a recipe to a finished run folder and its submission.

What train_mrr.py, the ensemble trainers, the hyperparameter search and the out-of-fold filter share.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from src.common.files import InputError, now, sha256
from src.common.locks import at_work
from src.data.submissions import check_submission, write_submission
from src.training.checkpoint import EpochRow
from src.training.closed_form import fit_ridge
from src.training.fit import fit, refit
from src.training.inputs import DataPaths, Part, Split, TrainingData
from src.training.machine import Machine
from src.training.model import load_translator, translate
from src.training.recipe import Recipe
from src.training.runs import (
    BEST_LOSS,
    BEST_MRR,
    LAST,
    REFIT,
    REFIT_LAST,
    RUNNING,
    SUBMISSION,
    FileRecord,
    Results,
    RunRecord,
    State,
    read_run,
    state_of,
    write_run,
)
from src.training.scalars import logged
from src.training.world import ALONE, World

TIMING = ("seconds", "captions_per_second")  # of the history: other numbers each time, and no measures


def train_run(
    recipe: Recipe,
    data: TrainingData,
    run_dir: Path,
    *,
    machine: Machine,
    world: World = ALONE,
    resume: bool = False,
    predict: bool = False,
    linear: bool = False,
    log: str = "none",
    on_epoch: Callable[[EpochRow], None] | None = None,
    bar: dict[str, Any] | None = None,
) -> RunRecord:
    """Train, measure, beside a `linear` map if that is asked for, `predict` the test captions into the run's
    submission, and record it all; the history is written to a `log` too, as the epochs end. Returns the record.

    A folder that holds the same run is trained anew, or continued with `resume`. Raises InputError as `fit` and
    `logged` do, for a folder that holds another run, and for one that was begun on another kind of device or in another
    precision.
    """
    state_of(run_dir, recipe, data.record)
    provenance = machine.provenance(world.size)
    if resume and (begun := read_run(run_dir)):
        if begun.provenance.machine != provenance.machine:
            device, precision = begun.provenance.machine.split(", ")
            raise InputError(
                f"{run_dir}: was begun on {device} in {precision}; continue it with --device {device} --precision "
                f"{precision}, or remove it to start anew on {provenance.machine.replace(', ', ' in ')}"
            )
        provenance = replace(provenance, started=begun.provenance.started)
    split = data.split(recipe.val_fraction, recipe.effective_split_seed)
    record = RunRecord(
        run_name=run_dir.name,
        status=RUNNING,
        recipe=recipe,
        data=replace(data.record, val_captions=len(split.validation), val_images=len(split.validation.images)),
        provenance=provenance,
    )
    write_run(run_dir, record)
    with at_work(run_dir), logged(log, run_dir, record, on_epoch) as on_epoch:
        try:
            result = fit(
                recipe,
                split,
                run_dir,
                machine=machine,
                world=world,
                data_identity=data.record.identity,
                resume=resume,
                on_epoch=on_epoch,
                bar=bar,
            )
        except InputError as error:
            write_run(run_dir, replace(record, status=State.FAILED, reason=str(error), finished=now()))
            raise
        measures = {name: value for name, value in result.best.items() if name not in ("epoch", *TIMING)}
        compared = (result.best["mrr"] if recipe.model == "linear" else linear_mrr(split)) if linear else None
        results = Results(
            measures=measures,
            own_measures=split.own_validation.measure(result.translator) if split.own_validation else None,
            linear_mrr=compared,
            best_epoch=int(result.best["epoch"]),
            best_loss_epoch=result.best_loss_epoch,
            epochs=len(result.history),
            stopped=result.stopped,
            training_seconds=sum(row["seconds"] for row in result.history),
        )
        record = replace(
            record,
            status=State.FINISHED,
            results=results,
            parameters=result.translator.num_parameters,
            weights={name: sha256(run_dir / name) for name in (BEST_MRR, BEST_LOSS)},
            finished=now(),
        )
        if predict and data.test:
            record = _predict(record, data, run_dir, machine=machine, world=world, resume=resume, bar=bar)
        write_run(run_dir, record)
        # Last, and the second after the first: as long as anything is missing, the run can be resumed.
        for name in (REFIT_LAST, LAST):
            (run_dir / name).unlink(missing_ok=True)
        return record


def help_to_train(
    recipe: Recipe, data: TrainingData, run_dir: Path, *, machine: Machine, world: World, resume: bool, predict: bool
) -> None:
    """What the other processes do while the first is in `train_run`: train what it trains, and keep nothing."""
    if recipe.model != "mlp":
        return
    options: dict[str, Any] = {"machine": machine, "world": world, "data_identity": data.record.identity}
    split = data.split(recipe.val_fraction, recipe.effective_split_seed)
    result = fit(recipe, split, run_dir, resume=resume, **options)
    if predict and _is_refitted(recipe, split.train, data):
        epochs = recipe.refit_epochs(int(result.best["epoch"]))
        refit(recipe, split.train.of.part(data.images), epochs, run_dir, resume=resume, **options)


def train_unless_finished(
    recipe: Recipe, data: TrainingData, run_dir: Path, *, machine: Machine, bar: dict[str, Any] | None = None
) -> Results:
    """The results of a run, which is trained, or continued, unless it is finished. Raises InputError as `train_run`."""
    state = state_of(run_dir, recipe, data.record)
    if state != State.FINISHED:
        train_run(recipe, data, run_dir, machine=machine, resume=state == State.TO_RESUME, bar=bar)
    record = read_run(run_dir)
    if record is None or record.results is None:
        raise InputError(f"{run_dir}: was changed while it was in use")
    return record.results


def linear_mrr(split: Split) -> float:
    """What the linear map in closed form reaches on a split."""
    return split.validation.measure(fit_ridge(split.train)[0])["mrr"]


def predict_again(run_dir: Path, data: TrainingData, machine: Machine) -> None:
    """Write the submission of a finished run from its weights, and record it. Raises InputError as `train_run`."""
    record = read_run(run_dir)
    assert record is not None, "its run is finished"
    write_run(run_dir, _predict(record, data, run_dir, machine=machine))


def _is_refitted(recipe: Recipe, train: Part, data: TrainingData) -> bool:
    """Whether another model predicts than the validated one: there are images that this has not been trained on."""
    return recipe.predict_with == "refit" and len(train.images) < data.images.sum()


def _predict(record: RunRecord, data: TrainingData, run_dir: Path, *, machine: Machine, **options: Any) -> RunRecord:
    """Write the submission of a trained run, by the model of its best epoch or, if its recipe says so, by one that has
    seen all images, which is trained now if it is not there. `options` are `refit`'s. Returns the record with it."""
    recipe, results, test = record.recipe, record.results, data.test
    assert results is not None, "it is trained"
    assert test is not None, "there is something to predict"
    train, weights = data.split(recipe.val_fraction, recipe.effective_split_seed).train, BEST_MRR
    if _is_refitted(recipe, train, data):
        weights = REFIT
        if weights not in record.weights:
            started, everything = time.perf_counter(), data.train.part(data.images)
            options |= {"machine": machine, "data_identity": data.record.identity}
            refit(recipe, everything, recipe.refit_epochs(results.best_epoch), run_dir, **options)
            results = replace(results, refit_seconds=time.perf_counter() - started)
            weights_now = record.weights | {weights: sha256(run_dir / weights)}
            record = replace(record, results=results, weights=weights_now)
    translator, path = load_translator(run_dir / weights, machine.device), run_dir / SUBMISSION
    prediction_NV = translate(translator, torch.from_numpy(test.text_embeddings)).cpu().numpy()
    write_submission(path, test.caption_ids, prediction_NV)
    notes = check_submission(path, test, prediction_NV.shape[1])
    of_test, submission = data.record, FileRecord(str(path), sha256(path), notes)
    predicted = replace(record.data, test_npz=of_test.test_npz, test_fingerprint=of_test.test_fingerprint)
    return replace(record, data=predicted, submission=submission)


def describe_data(paths: DataPaths, data: TrainingData) -> dict[str, Any]:
    """The files of a job and their sizes, for the opening lines of a script."""
    pairs, validation = data.train.pairs, data.validation
    settings: dict[str, Any] = {"training pairs": f"{paths.train_npz} ({data.record.train_fingerprint})"}
    if paths.keep_list:
        settings["keep-list"] = paths.keep_list
    if data.record.caption_weights:
        settings["captions weigh"] = data.record.caption_weights
    settings["captions, images"] = f"{len(pairs):,}, {pairs.num_images:,}"
    settings["embeddings"] = str(data.train)
    if validation is not None:
        known = "" if paths.val_npz else ", recorded as the source"
        settings["validation from"] = f"{data.record.val_npz} ({len(validation.pairs):,} captions{known})"
    if data.lost_source is not None:
        gone = f"its source {data.lost_source.paths[0]} is gone or has changed"
        settings["validation from"] = f"{gone}: validates on filtered captions, which flatters the MRR"
    if data.test is not None:
        settings["test captions"] = f"{paths.test_npz} ({len(data.test):,})"
    return settings
