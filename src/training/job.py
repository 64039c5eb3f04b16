"""One training job: from opened data and a recipe to a finished run folder and its submission.

What train_mrr.py, the ensemble trainers and the hyperparameter search share.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from src.common.cli import MODELS_DIR, add_device_arguments, print_settings
from src.common.files import InputError
from src.data.pairs import TestCaptions
from src.data.submissions import write_submission
from src.training.fit import OnDevice, fit
from src.training.inputs import TrainingData, add_data_arguments
from src.training.model import Translator, load_translator, translate
from src.training.recipe import Recipe, difference
from src.training.runs import BEST_MRR, now, plot_curves, provenance, read_run, sha256, write_run


def add_job_arguments(parser: argparse.ArgumentParser, **data_defaults: Path) -> None:
    """Add the flags for data, device and the folder of the runs."""
    add_data_arguments(parser, **data_defaults)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="each run gets a folder here")
    add_device_arguments(parser)


def run_name(recipe: Recipe, base: Recipe, tag: str) -> str:
    """The folder of a run that was given no name: the recipe, what it changes in `base`, the data's tag, the seed."""
    return "_".join(filter(None, (recipe.name, difference(recipe, base), tag, f"seed{recipe.seed}")))


def identity(recipe: Recipe, data: TrainingData) -> dict[str, Any]:
    """What makes a run the same run: recipe and contents of the training files, wherever they lie."""
    fingerprints = {key: value for key, value in data.record.items() if key.endswith("_fingerprint")}
    fingerprints.pop("test_fingerprint", None)
    return {"recipe": asdict(recipe), "data": fingerprints}


def check_run_dir(run_dir: Path, recipe: Recipe, data: TrainingData) -> str | None:
    """The status of the run that `run_dir` holds already, if any. Raises InputError if it is of something else."""
    record = read_run(run_dir)
    if record is None:
        return None
    wanted = identity(recipe, data)
    differing = [name for name, value in wanted["recipe"].items() if record["recipe"].get(name) != value]
    differing += [name for name, value in wanted["data"].items() if record["data"].get(name) != value]
    if differing:
        raise InputError(
            f"{run_dir}: holds a run with another {', '.join(differing)}; choose another --models-dir or --run-name, "
            "or remove it"
        )
    return record["status"]


def train_run(
    recipe: Recipe,
    data: TrainingData,
    run_dir: Path,
    *,
    device: torch.device,
    precision: str,
    resume: bool = False,
    submission: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    bar: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, measure, predict the test captions into `submission`, and record it all. Returns the record.

    A folder that holds the same run is trained anew, or continued with `resume`. Raises InputError as `fit` does,
    and for a folder that holds another run.
    """
    check_run_dir(run_dir, recipe, data)
    split = data.split(recipe.val_fraction, recipe.effective_split_seed)
    sizes = {"val_captions": len(split.validation), "val_images": split.validation.num_images}
    record = {
        "run_name": run_dir.name,
        "status": "running",
        "recipe": asdict(recipe),
        "data": data.record | sizes,
        **provenance(device, precision),
    }
    write_run(run_dir, record)
    try:
        result = fit(
            recipe,
            split,
            run_dir,
            device=device,
            precision=precision,
            identity=identity(recipe, data),
            resume=resume,
            on_epoch=on_epoch,
            bar=bar,
        )
    except InputError as error:
        write_run(run_dir, record | {"status": "failed", "reason": str(error), "finished": now()})
        raise
    results = {name: value for name, value in result.best.items() if name not in ("seconds", "captions_per_second")}
    results |= {
        "best_epoch": results.pop("epoch"),
        "best_loss_epoch": result.best_loss_epoch,
        "epochs": len(result.history),
        "stopped": result.stopped,
        "training_seconds": sum(row["seconds"] for row in result.history),
    }
    if split.own_validation is not None:
        results["own_validation"] = OnDevice(split.own_validation, device).measure(result.translator)
    plot_curves(result.history, f"{run_dir.name} ({len(split.train):,} captions)", run_dir / "curves.png")
    record |= {"results": results, "parameters": result.translator.num_parameters}
    if submission is not None:
        predict_test(result.translator, data.test, submission)
        record["submission"] = {"path": str(submission), "sha256": sha256(submission)}
    record |= {"status": "finished", "finished": now()}
    write_run(run_dir, record)
    return record


def predict_test(translator: Translator, test: TestCaptions, path: Path) -> None:
    """Translate the test captions and write the submission."""
    prediction_NV = translate(translator, torch.from_numpy(test.text_embeddings)).cpu().numpy()
    write_submission(path, test.caption_ids, prediction_NV)


def predict_again(run_dir: Path, data: TrainingData, submission: Path, device: torch.device) -> None:
    """Write the submission of a finished run from its weights, and record it."""
    predict_test(load_translator(run_dir / BEST_MRR, device), data.test, submission)
    record = read_run(run_dir)
    record["data"] |= {name: data.record[name] for name in ("test_npz", "test_fingerprint")}
    record["submission"] = {"path": str(submission), "sha256": sha256(submission)}
    write_run(run_dir, record)


def print_job(title: str, data: TrainingData, args: argparse.Namespace, more: dict[str, Any]) -> None:
    """Print what a job is about to do with what."""
    record = data.record
    settings = {"training pairs": f"{args.train_npz} ({record['train_fingerprint']})"}
    if args.keep_list:
        settings["keep-list"] = args.keep_list
    settings["captions, images"] = f"{len(data.pairs):,}, {data.pairs.num_images:,}"
    if data.validation is not None:
        settings["validation from"] = f"{args.val_npz} ({len(data.validation):,} captions)"
    if data.test is not None:
        settings["test captions"] = f"{args.test_npz} ({len(data.test):,})"
    print_settings(title, settings | more)


def print_result(record: dict[str, Any], run_dir: Path) -> None:
    """Print how a run ended: the summary of a trainer."""
    results = record["results"]
    recalls = ", ".join(f"R@{k} {results[f'recall_at_{k}']:.4f}" for k in (1, 5, 10))
    challenge = f"MRR {results['challenge_mrr']:.4f}, NDCG {results['challenge_ndcg']:.4f}"
    summary = {
        "best epoch": f"{results['best_epoch']} of {results['epochs']}; {results['stopped']}",
        "training": f"{results['training_seconds']:.0f} s, {record['parameters'] / 1e6:.1f} M parameters",
        "validation": f"MRR {results['mrr']:.4f}, {recalls}, median rank {results['median_rank']:g} "
        f"({record['data']['val_captions']:,} captions, {record['data']['val_images']:,} images)",
        "challenge protocol": challenge,
    }
    if "own_validation" in results:
        summary["on own captions"] = f"MRR {results['own_validation']['mrr']:.4f} (as filtered)"
    summary |= {"weights": run_dir / BEST_MRR, "curves": run_dir / "curves.png"}
    if "submission" in record:
        summary["submission"] = record["submission"]["path"]
    print_settings(f"{record['run_name']}: validation MRR {results['mrr']:.4f}", summary)
