"""The mean of submissions: the ensemble as the mission asks for it, from CSV files alone.

Shapes: N captions, V image width.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.common.cli import MODELS_DIR, HelpFormatter, print_settings
from src.common.files import InputError
from src.data.submissions import read_submission, write_submission
from src.inventory import Member, training_commands
from src.submission import runs_by_submission
from src.training.runs import sha256


def average(
    files: Sequence[Path], weights: Sequence[float], *, normalize: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean of submissions or, with `normalize`, of their unit vectors.

    Returns caption_ids (N,) int64 in the first file's order, and embeddings (N, V) float32. Holds one running float64
    mean and one file at a time. Raises InputError if the files' ids or widths differ, or if a vector to be normalised
    is all zeros.
    """
    caption_ids, total_NV = None, 0.0
    for file, weight in zip(tqdm(files, desc="averaging", unit="file"), weights, strict=True):
        submission = read_submission(file)
        if caption_ids is None:
            caption_ids, shape = submission.caption_ids, submission.embeddings.shape
        try:
            embeddings_NV = submission.aligned(caption_ids).astype(np.float64)
        except InputError as error:
            raise InputError(f"{error}; those of {files[0]} are expected") from None
        if embeddings_NV.shape != shape:
            raise InputError(f"{file}: its embeddings have {embeddings_NV.shape[1]} numbers; {files[0]} has {shape[1]}")
        if normalize:
            norm_N = np.linalg.norm(embeddings_NV, axis=1)
            if not norm_N.all():
                zero = caption_ids[norm_N.argmin()]
                raise InputError(f"{file}: the embedding of id {zero} is all zeros, which --normalize cannot scale")
            embeddings_NV /= norm_N[:, None]
        total_NV += weight * embeddings_NV
    return caption_ids, (total_NV / sum(weights)).astype(np.float32)


def recorded_mrrs(files: Sequence[Path], models_dir: Path) -> list[float]:
    """The validation MRR of the run that wrote each file. Raises InputError for a file that no recorded run wrote."""
    runs = runs_by_submission(models_dir)
    mrrs = []
    for file in files:
        if (digest := sha256(file)) not in runs:
            raise InputError(f"{file}: no run recorded in {models_dir} wrote it, so --weights mrr cannot weigh it")
        mrrs.append(runs[digest][1]["results"]["mrr"])
    return mrrs


def member_files(members: Sequence[Member], models_dir: Path) -> list[Path]:
    """The members' submissions. Raises InputError that names those missing and the commands that make them."""
    files = {member: models_dir / member.run_name / "submission.csv" for member in members}
    missing = [member for member, file in files.items() if not file.is_file()]
    if missing:
        others = f", nor those of {len(missing) - 1} other members" if len(missing) > 1 else ""
        commands = training_commands(missing, models_dir)
        raise InputError(f"{files[missing[0]]}: no such file{others}; run {commands}")
    return list(files.values())


def add_combine_arguments(parser: argparse.ArgumentParser, output: Path | None = None) -> None:
    parser.add_argument("--output", type=Path, default=output, required=output is None, help="the CSV to write")
    parser.add_argument(
        "--normalize", "--normalise", action="store_true", help="average unit vectors instead of predictions"
    )
    parser.add_argument(
        "--weights",
        choices=("uniform", "mrr"),
        default="uniform",
        help="all the same, or by the validation MRR that the run of each file recorded",
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where the runs are")


def combine(files: Sequence[Path], args: argparse.Namespace) -> None:
    """Average `files` into `args.output`. Raises InputError as `average`, `recorded_mrrs` and `read_submission` do."""
    if args.output.resolve() in [file.resolve() for file in files]:
        raise InputError(f"{args.output}: is one of the files to average; choose another --output")
    weights, weighting = [1.0] * len(files), "uniform"
    if args.weights == "mrr":
        weights = recorded_mrrs(files, args.models_dir)
        weighting = f"by validation MRR, {min(weights):.4f} to {max(weights):.4f}"
    settings = {"average of": "unit vectors" if args.normalize else "predictions", "weights": weighting}
    print_settings(f"Averaging {len(files)} submissions", settings | {"output": args.output})
    caption_ids, embeddings = average(files, weights, normalize=args.normalize)
    write_submission(args.output, caption_ids, embeddings)
    count, width = embeddings.shape
    print(f"{args.output}: {count} captions × {width} numbers, {args.output.stat().st_size / 1e6:.1f} MB")


def combine_members(argv: list[str] | None, doc: str, members: Sequence[Member], output: Path) -> None:
    """The whole of a combining script's `main`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=HelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="CSV", help="average these instead of the members")
    add_combine_arguments(parser, output)
    args = parser.parse_args(argv)
    combine(args.files or member_files(members, args.models_dir), args)
