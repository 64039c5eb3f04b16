"""The mean of submissions, from CSV files alone. Shapes: N captions, V image width."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.common.files import InputError, require_file, sha256
from src.common.progress import Progress
from src.data.submissions import read_submission
from src.training.runs import runs_by_submission


def average(
    files: Sequence[Path], weights: Sequence[float], *, normalize: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean of submissions or, with `normalize`, of their unit vectors.

    Returns caption_ids (N,) int64 in the first file's order, and embeddings (N, V) float32. Holds a float64 sum and one
    file at a time. Raises InputError.
    """
    caption_ids, total_NV = np.empty(0, np.int64), np.empty((0, 0))
    for number, (file, weight) in enumerate(zip(Progress(files, desc="averaging", unit="file"), weights, strict=True)):
        submission = read_submission(file)
        if number == 0:
            caption_ids, total_NV = submission.caption_ids, np.zeros(submission.embeddings.shape)
        try:
            embeddings_NV = submission.aligned(caption_ids).astype(np.float64)
        except InputError as error:
            raise InputError(f"{error}; those of {files[0]} are expected") from None
        width = embeddings_NV.shape[1]
        if width != total_NV.shape[1]:
            raise InputError(f"{file}: its embeddings have {width} numbers; {files[0]} has {total_NV.shape[1]}")
        if normalize:
            norm_N = np.linalg.norm(embeddings_NV, axis=1)
            if not norm_N.all():
                zero = caption_ids[norm_N.argmin()]
                raise InputError(f"{file}: the embedding of id {zero} is all zeros, which --normalize cannot scale")
            embeddings_NV /= norm_N[:, None]
        total_NV += weight * embeddings_NV
    return caption_ids, (total_NV / sum(weights)).astype(np.float32)


def refuse_twice(files: Sequence[Path]) -> None:
    """Raises InputError if a file is given twice, or another with the same contents: its weight would be doubled."""
    seen: dict[str, Path] = {}
    for file in files:
        digest = sha256(require_file(file))
        if digest in seen:
            raise InputError(f"{file}: the same submission as {seen[digest]}; give it once")
        seen[digest] = file


def recorded_mrrs(files: Sequence[Path], models_dir: Path) -> list[float]:
    """The validation MRR of the run that wrote each file. Raises InputError for a file that no recorded run wrote."""
    runs, mrrs = runs_by_submission(models_dir), []
    for file in files:
        _, record = runs.get(sha256(file), (None, None))
        if record is None or record.results is None:
            raise InputError(f"{file}: no run recorded in {models_dir} wrote it, so --weights mrr cannot weigh it")
        mrrs.append(record.results.mrr)
    return mrrs
