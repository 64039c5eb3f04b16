"""The submission CSV: write, read and check it.

Header `id,embedding`; for each of N test captions its id and a quoted JSON list of the V numbers of its predicted image
embedding, each in the shortest form that reads back to the same float32.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from src.common.files import InputError, atomic_path, require_file
from src.data.pairs import TestCaptions

HEADER = "id,embedding"
EXPECTED = 'id,"[numbers]", the list in double quotes'
NUMBERS = b"0123456789+-.eE, \t\r\n"  # what a JSON list of numbers holds beside the brackets
ID = re.compile(r"[+-]?\d{1,18} *", re.ASCII)  # 18 digits fit into int64


@dataclass(frozen=True, eq=False)
class Submission:
    """caption_ids (N,) int64, each once, in the file's order; embeddings (N, V) float32, finite."""

    caption_ids: np.ndarray
    embeddings: np.ndarray
    source: Path

    def aligned(self, caption_ids: np.ndarray) -> np.ndarray:
        """The embeddings in the order of `caption_ids` (N,). (N, V) float32. Raises InputError if the ids differ."""
        missing = np.setdiff1d(caption_ids, self.caption_ids)
        unknown = np.setdiff1d(self.caption_ids, caption_ids)
        if len(missing) or len(unknown):
            raise InputError(
                f"{self.source}: lacks {len(missing)} of the {len(caption_ids)} expected ids {missing[:3].tolist()} "
                f"and has {len(unknown)} unknown ones {unknown[:3].tolist()}"
            )
        order = np.argsort(self.caption_ids)
        return self.embeddings[order[np.searchsorted(self.caption_ids, caption_ids, sorter=order)]]


def write_submission(path: str | Path, caption_ids: np.ndarray, embeddings: np.ndarray) -> None:
    """Write caption_ids (N,) int and embeddings (N, V) float32, whole or not at all. Raises InputError for NaN, inf."""
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    if not np.isfinite(embeddings).all():
        raise InputError(f"{path}: not written, the predictions hold NaN or infinite numbers")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        for caption_id, row in zip(caption_ids, embeddings, strict=True):
            numbers = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
            # The one float32 whose shortest form gives its neighbour to a reader that rounds to float64 first.
            numbers = numbers.replace(b"7.038531e-26", b"7.0385307e-26")
            file.write(b'%d,"%b"\n' % (caption_id, numbers))


def read_submission(path: str | Path) -> Submission:
    """Read a submission: any CSV of these two columns, the rows in any order. Raises InputError that names the file,
    the line and what is wrong in it."""
    import pandas as pd  # takes long, and the command lines that import this module are to answer at once

    require_file(path)
    try:
        table = pd.read_csv(path, dtype=object, keep_default_na=False, skip_blank_lines=False, skipinitialspace=True)
    except ValueError as error:  # pandas' own errors, and what is not UTF-8
        raise InputError(f"{path}: not a CSV of {EXPECTED} ({str(error).strip()})") from None
    if set(table.columns) != set(HEADER.split(",")):
        raise InputError(f"{path}: its columns are {', '.join(map(str, table.columns))[:60]!r}; expected {HEADER!r}")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes more fields than columns for a name of the row
        raise InputError(f"{path}: line 2: expected {EXPECTED}; found more fields")
    line_of: dict[int, int] = {}
    rows: list[np.ndarray] = []
    for number, (id_text, numbers) in enumerate(zip(table["id"], table["embedding"], strict=True), start=2):
        if not id_text and not numbers:
            continue  # a blank line
        try:
            caption_id, embedding = _parse_row(id_text, numbers)
            if caption_id in line_of:
                raise InputError(f"id {caption_id} stands in line {line_of[caption_id]} already")
            if rows and len(embedding) != len(rows[0]):
                raise InputError(f"{len(embedding)} numbers; the lines before have {len(rows[0])}")
        except InputError as error:
            raise InputError(f"{path}: line {number}: {error}") from None
        line_of[caption_id] = number
        rows.append(embedding)
    if not rows:
        raise InputError(f"{path}: has a header but no rows")
    return Submission(np.array(list(line_of), np.int64), np.stack(rows), Path(path))


def _parse_row(id_text: str, numbers: str) -> tuple[int, np.ndarray]:
    """A row's id, and its embedding (V,) float32."""
    if not ID.fullmatch(id_text):
        raise InputError(f"expected {EXPECTED}; found {_excerpt(id_text)}")
    try:
        values = orjson.loads(numbers)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not a JSON list of finite numbers from {_excerpt(numbers[error.pos :])} on") from None
    if not values or numbers.encode().translate(None, delete=NUMBERS) != b"[]":  # texts, truths, lists in lists
        raise InputError(f"not a JSON list of finite numbers: {_excerpt(numbers)}")
    with np.errstate(over="ignore"):
        embedding = np.array(values, np.float64).astype(np.float32)
    if not np.isfinite(embedding).all():
        raise InputError(f"{values[np.isfinite(embedding).argmin()]} is too large for float32")
    return int(id_text), embedding


def _excerpt(text: str) -> str:
    return repr(text[:24] + "…" * (len(text) > 24))


def check_submission(path: str | Path, test: TestCaptions, image_dim: int | None) -> list[str]:
    """Check a CSV against the captions to predict and, if known, the width of the images. Returns notes on what is
    allowed but odd. Raises InputError for what Kaggle would refuse."""
    submission = read_submission(path)
    embeddings = submission.aligned(test.caption_ids)
    width = embeddings.shape[1]
    if image_dim is not None and width != image_dim:
        raise InputError(f"{path}: its embeddings have {width} numbers; those of the images have {image_dim}")
    zeros = int((embeddings == 0).all(axis=1).sum())
    notes = {
        f"the embeddings have {width} numbers; the width of the images is not known": image_dim is None,
        "the rows are in another order than the test captions": (submission.caption_ids != test.caption_ids).any(),
        "all embeddings are the same": len(embeddings) > 1 and (embeddings == embeddings[0]).all(),
        f"{zeros} embeddings are all zeros": zeros,
    }
    return [note for note, holds in notes.items() if holds]
