"""Filter caption-image pairs by a translator: keep captions whose own image is among the first k of all images.

    python -m src.topk_filter_pairs                          # k = 50, ranks by the baseline that train_mrr.py made
    python -m src.topk_filter_pairs --top-k 20               # another cut of the same ranks
    python -m src.topk_filter_pairs --folds 5                # ranks by five short models, none of which saw the image
    python -m src.topk_filter_pairs --folds 5 --epochs 30    # with another recipe for these

A model has seen the pairs that it was trained on, wrong ones too, so their ranks flatter them. --folds K trains K
models, each without one part of the images, and ranks every caption by the one that never saw its image; a run that
was stopped continues with the fold where it was. Images that a model knows draw its predictions, so out of fold the
same k drops more, right captions too: look at the report and raise it. What visualize_split_top_50.ipynb decides about
single captions overrides the cut. With train.npz and k = 50 this writes to --output-dir

    train_clean_top50.npz              the kept captions and all images, laid out as the input
    train_clean_top50.keep.npz         the keep-list: ids, ranks, what is kept and why; for --keep-list of the trainers
    train_clean_top50.png              the ranks with the cut, the worst and the best pairs
    train_suspect_top50.npz            the other captions, if there are any
    train_ranks.csv, train_ranks.json  every caption's rank, score and the five images it prefers; what ranked them

and, the next time, uses ranks that are there if they are of the same pairs by the same model.
"""

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from src.common.cli import (
    IMAGES_ROOT,
    MODELS_DIR,
    TRAIN_NPZ,
    HelpFormatter,
    add_device_arguments,
    positive_int,
    print_settings,
    record_arguments,
    resolve_device,
    resolve_precision,
    run,
)
from src.common.files import InputError, require_file
from src.data.keep_lists import KeepList, save_filtered
from src.data.pairs import Pairs, fingerprint, open_pairs, save_pairs
from src.ensembles.held_out import load_translator_for
from src.filters.caption_ranks import find_ranks, rank_captions, save_ranks
from src.filters.decisions import DROP, KEEP, ReviewDecisions
from src.filters.out_of_fold import FOLD_RECIPE, fold_dir, rank_out_of_fold
from src.filters.report import write_report
from src.training.inputs import dataset_tag
from src.training.job import run_name
from src.training.metrics import NonFiniteError
from src.training.recipe import BASELINE, Recipe, add_recipe_arguments, difference, override
from src.training.runs import BEST_MRR, provenance, read_run, sha256

OUTPUT_DIR = Path("data/filtered")
DECISIONS_CSV = "review_decisions.csv"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, paths that depend on others filled in. Raises InputError for flags that do not go together."""
    parser = argparse.ArgumentParser(
        prog="python -m src.topk_filter_pairs", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument("--input-npz", type=Path, default=TRAIN_NPZ, help="caption-image pairs to filter")
    parser.add_argument(
        "--images-root", type=Path, default=IMAGES_ROOT, help="folder of the image files, for the report"
    )
    parser.add_argument("--output-dir", type=Path, default=OUTPUT_DIR, help="where everything is written")
    parser.add_argument("--top-k", type=positive_int, default=50, help="the worst rank that is kept")
    parser.add_argument(
        "--weights",
        type=Path,
        default=argparse.SUPPRESS,
        help="of the translator that ranks (default: models/baseline_train_seed43/best_mrr.safetensors, or as "
        "train_mrr.py names the run on --input-npz)",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=argparse.SUPPRESS,
        help="rank out of fold, by so many models of the recipe below",
    )
    parser.add_argument(
        "--models-dir", type=Path, default=MODELS_DIR, help="where trained models are; folds get topk_folds/"
    )
    parser.add_argument(
        "--decisions",
        default=argparse.SUPPRESS,
        metavar="CSV",
        help=f"of the review, which override the cut, or none (default: {DECISIONS_CSV} in --output-dir, if it exists)",
    )
    add_device_arguments(parser)
    add_recipe_arguments(parser, FOLD_RECIPE)
    args = parser.parse_args(argv, argparse.Namespace(weights=None, folds=None, decisions=None))

    if args.folds is None:
        given = [option.name for option in fields(Recipe) if option.name in args]
        given += ["precision"] if args.precision != "auto" else []
        if given:
            raise InputError(f"--{given[0].replace('_', '-')}: is of the models that --folds K trains; there are none")
        baseline = run_name(BASELINE, BASELINE, dataset_tag(args.input_npz))
        args.weights = args.weights or args.models_dir / baseline / BEST_MRR
    elif args.weights:
        raise InputError("--weights and --folds: ranks come from the one or from the others")
    if args.decisions == "none":
        args.decisions = None
    else:
        args.decisions = Path(args.decisions or args.output_dir / DECISIONS_CSV)
    return args


def output_path(args: argparse.Namespace, part: str) -> Path:
    """Where the "clean" or the "suspect" captions go."""
    return args.output_dir / f"{args.input_npz.stem}_{part}_top{args.top_k}.npz"


def open_decisions(args: argparse.Namespace, pairs: Pairs) -> ReviewDecisions | None:
    """What was decided about these pairs in the review; None with --decisions none."""
    return ReviewDecisions(args.decisions, pairs, fingerprint(args.input_npz)) if args.decisions else None


def rank_pairs(args: argparse.Namespace) -> tuple[Pairs, pd.DataFrame, dict[str, Any]]:
    """Rank all captions as the command line asks, or open the ranks if they are there.

    Returns the pairs, the table of their ranks (see src.filters.caption_ranks) and the record of what ranked them. Raises
    InputError.
    """
    device = resolve_device(args.device)
    ranks_csv = args.output_dir / f"{args.input_npz.stem}_ranks.csv"
    input_fingerprint = fingerprint(args.input_npz)
    settings = {"pairs": f"{args.input_npz} ({input_fingerprint})"}
    if args.folds:
        recipe = override(FOLD_RECIPE, args)
        precision = resolve_precision(args.precision, device)
        changes = difference(recipe, FOLD_RECIPE)
        settings["ranked by"] = f"{args.folds} models that did not see the image, seed {recipe.seed}, {precision}"
        settings["their recipe"] = f"{recipe.name}{f' with {changes}' if changes else ''}"
        ranked_by = {"folds": args.folds, "recipe": asdict(recipe)}
    else:
        precision = "float32"
        settings["ranked by"] = require_file(args.weights, _how_to_train(args))
        settings["it was trained on"] = _describe_training(args.weights, input_fingerprint)
        ranked_by = {"weights_sha256": sha256(args.weights)}
    pairs = open_pairs(args.input_npz)
    decisions = open_decisions(args, pairs)
    settings |= {
        "captions, images": f"{len(pairs):,}, {pairs.num_images:,}",
        "kept": f"ranks up to {args.top_k}",
        "review decisions": f"{len(decisions.read()):,} in {args.decisions}" if decisions else "none",
        "device": device,
        "ranks": ranks_csv,
    }
    print_settings("filtering caption-image pairs by the rank of their image", settings)

    identity = {"input_fingerprint": input_fingerprint} | ranked_by
    found = find_ranks(ranks_csv, pairs, identity)
    if found:
        print(f"{ranks_csv}: ranks of these pairs by the same model are there already", flush=True)
        return pairs, *found
    made = {"input_npz": str(args.input_npz)} | identity | provenance(device, precision)
    if args.folds:
        folder = fold_dir(args.models_dir / "topk_folds", recipe, args.folds, input_fingerprint)
        table, records = rank_out_of_fold(
            pairs, args.folds, recipe, folder, input_fingerprint, device=device, precision=precision
        )
        made |= {"models": str(folder), "models_mrr": [record["results"]["mrr"] for record in records]}
    else:
        table = _rank_by_weights(args.weights, pairs, device)
        made |= {"weights": str(args.weights)}
    save_ranks(ranks_csv, table, made)
    return pairs, table, made


def keep_top_k(table: pd.DataFrame, k: int, decisions: ReviewDecisions | None = None) -> np.ndarray:
    """Which captions to keep, (N,) bool: ranks up to `k`, but decided captions as they were decided."""
    keep = table["rank"].to_numpy() <= k
    return decisions.apply(keep) if decisions else keep


def export(args: argparse.Namespace, pairs: Pairs, table: pd.DataFrame, made: dict[str, Any]) -> None:
    """Cut, write everything but the ranks, print a summary. `pairs`, `table` and `made` come from `rank_pairs`.

    Raises InputError.
    """
    decisions = open_decisions(args, pairs)
    decided = list(decisions.read().values()) if decisions else []
    keep = keep_top_k(table, args.top_k, decisions)
    changed = int((keep != keep_top_k(table, args.top_k)).sum())
    review = {"kept": decided.count(KEEP), "dropped": decided.count(DROP), "against_the_cut": changed}
    cut = {"top_k": args.top_k, "dropped": int((~keep).sum()), "cut": args.top_k, "review_decisions": review}
    origin = {name: made[name] for name in ("input_npz", "input_fingerprint")}
    origin |= {
        "filter": "topk",
        "higher_is_better": False,
        "ranks": made,
        "arguments": record_arguments(args),
        "cut": cut,
    }
    ranks = table["rank"].to_numpy()
    keep_list = KeepList(caption_ids=pairs.caption_ids, scores=ranks, keep=keep, provenance=origin)

    clean, suspect = output_path(args, "clean"), output_path(args, "suspect")
    list_path, report = save_filtered(pairs, keep_list, clean), clean.with_suffix(".png")
    suspect.unlink(missing_ok=True)
    if not keep.all():
        save_pairs(pairs.select(~keep), suspect)
    images_root = args.images_root if args.images_root.is_dir() else None
    name = "rank of the own image"
    write_report(report, pairs, keep_list, score_name=name, images_root=images_root, log_scale=True, cut=args.top_k)

    emptied = len(np.setdiff1d(pairs.image_of_caption, pairs.image_of_caption[keep]))
    shares = ", ".join(f"{(ranks <= k).mean():.1%} in the first {k}" for k in (1, 5, 10, 50))
    summary = {
        "ranks": f"{shares}; median {np.median(ranks):g} of {pairs.num_images:,}",
        "dropped": f"{(~keep).sum():,} of {len(pairs):,} captions; {emptied:,} images lose all of theirs",
        "review decisions": f"{len(decided):,} honoured ({review['kept']:,} keep, {review['dropped']:,} drop), "
        f"{changed:,} of them against the cut",
        "clean pairs": clean,
        "suspect pairs": "none" if keep.all() else suspect,
        "keep-list": list_path,
        "report": report if images_root else f"{report} (without pictures: {args.images_root} is no folder)",
    }
    print_settings(f"kept {keep.sum():,} captions", summary)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    export(args, *rank_pairs(args))


def _how_to_train(args: argparse.Namespace) -> str:
    train_npz = "" if args.input_npz == TRAIN_NPZ else f" --train-npz {args.input_npz}"
    return f"train it with `python train_mrr.py{train_npz}`, name another with --weights, or rank with --folds 5"


def _describe_training(weights: Path, input_fingerprint: str) -> str:
    record = read_run(weights.parent)
    if record is None:
        return "pairs that are not recorded"
    if record["data"].get("train_fingerprint") != input_fingerprint:
        return "other pairs"
    return "these pairs, so its ranks flatter them; --folds 5 ranks out of fold"


def _rank_by_weights(weights: Path, pairs: Pairs, device: torch.device) -> pd.DataFrame:
    translator = load_translator_for(pairs, weights, device)
    try:
        with tqdm(total=len(pairs), desc="ranking", unit="caption") as progress:
            return rank_captions(translator, pairs, np.arange(len(pairs)), device, progress.update)
    except NonFiniteError as error:
        raise InputError(f"{weights}: {error}") from None


if __name__ == "__main__":
    run(main)
