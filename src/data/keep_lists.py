"""Keep-lists: which captions a filter keeps, by what scores, and where those come from.

A few MB beside the filtered pairs, and enough to train on the unfiltered file (`--keep-list`). An NPZ with

    captions/ids (N,) int64    captions/scores (N,) float32    captions/keep (N,) bool
    provenance (1,)            JSON: input and its fingerprint, filter, model, arguments, cut

for the N captions of the unfiltered file, in its order.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import InputError, parse_json
from src.data.npz import create_npz, open_npz
from src.data.pairs import Pairs, Source, fingerprint, read_source, save_pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class KeepList:
    """caption_ids (N,) int64; scores (N,) float32, NaN where there is none; keep (N,) bool; provenance is what JSON can
    hold, at least {"input_fingerprint": str, "higher_is_better": bool}."""

    caption_ids: np.ndarray
    scores: np.ndarray
    keep: np.ndarray
    provenance: dict[str, Any]


def save_keep_list(keep_list: KeepList, path: str | Path) -> None:
    """Write a keep-list (`path` ends with .npz), whole or not at all."""
    with create_npz(path) as archive:
        archive.array("captions/ids", keep_list.caption_ids.astype(np.int64))
        archive.array("captions/scores", keep_list.scores.astype(np.float32))
        archive.array("captions/keep", keep_list.keep.astype(np.bool_))
        archive.array("provenance", np.array([json.dumps(keep_list.provenance)]))


def open_keep_list(path: str | Path) -> KeepList:
    """Open a keep-list. Raises InputError that names the file and what is wrong in it."""
    with open_npz(path) as archive:
        keep = archive.array("captions/keep", rank=1, kind="b")
        ids = archive.array("captions/ids", rank=1, kind="i")
        scores = archive.array("captions/scores", rank=1, kind="f")
        (text,) = archive.texts("provenance", rank=0)
    if not len(ids) == len(scores) == len(keep):
        raise InputError(f"{path}: has {len(ids)} ids, {len(scores)} scores and {len(keep)} choices; expected as many")
    if np.isinf(scores).any():
        raise InputError(f"{path}: captions/scores has infinite numbers")
    provenance = parse_json(text, f"{path}: its provenance is not JSON")
    required = {"input_fingerprint": str, "higher_is_better": bool}
    if not isinstance(provenance, dict) or any(type(provenance.get(key)) is not kind for key, kind in required.items()):
        raise InputError(f"{path}: its provenance does not say for which pairs it was made")
    return KeepList(caption_ids=ids, scores=scores, keep=keep, provenance=provenance)


def apply_keep_list(pairs: Pairs, path: str | Path) -> Pairs:
    """The captions of a whole file that a keep-list keeps. Raises InputError if it was made for other data."""
    return pairs.select(_keep_list_of(pairs, path).keep)


def soft_weights(pairs: Pairs, path: str | Path) -> tuple[np.ndarray, str]:
    """How much each caption of a whole file is to be trusted by a keep-list of ranks: (N,) float32 in 0 … 1, and the
    formula. A caption at the worst rank k that is kept weighs a half, and what a review decided against the cut 1 or 0:
    1 / (1 + (rank / k)²), the redescending weight of Cauchy's robust regression (Holland & Welsch 1977).

    Raises InputError if the list was made for other data or has no ranks.
    """
    keep_list = _keep_list_of(pairs, path)
    ranks, provenance = keep_list.scores, keep_list.provenance
    cut = provenance.get("cut")
    k = cut.get("cut") if isinstance(cut, dict) else None
    if provenance["higher_is_better"] or not isinstance(k, int | float) or not k > 0 or not (ranks >= 1).all():
        raise InputError(f"{path}: has no ranks to weigh captions by; `python -m src.topk_filter_pairs` finds them")
    weights = 1 / (1 + (ranks / k) ** 2)
    overruled = keep_list.keep != (ranks <= k)
    weights[overruled] = keep_list.keep[overruled]
    return weights.astype(np.float32), f"1 / (1 + (rank / {k:g})^2)"


def _keep_list_of(pairs: Pairs, path: str | Path) -> KeepList:
    """Raises InputError if it was made for other data."""
    assert pairs.source is not None, "a whole file as it was opened"
    keep_list = open_keep_list(path)
    wanted, actual = keep_list.provenance["input_fingerprint"], fingerprint(pairs.source)
    if wanted != actual or not np.array_equal(keep_list.caption_ids, pairs.caption_ids):
        made_for = keep_list.provenance.get("input_npz", "other pairs")
        raise InputError(f"{path}: was made for {made_for} ({wanted}); {pairs.source} holds other data ({actual})")
    return keep_list


def source_of(pairs: Pairs) -> Source | None:
    """The unfiltered file of a file as it was opened, None if it is not known to be filtered. A filtered file of old
    records none, but the keep-list beside it does."""
    assert pairs.source is not None, "a whole file as it was opened"
    recorded, beside = read_source(pairs.source), keep_list_path(pairs.source)
    if recorded or not beside.is_file():
        return recorded
    keep_list = open_keep_list(beside)
    if not np.array_equal(keep_list.caption_ids[keep_list.keep], pairs.caption_ids):
        return None
    origin = keep_list.provenance
    return Source.at(str(origin.get("input_npz", "its input")), origin["input_fingerprint"])


def keep_list_path(filtered_npz: Path) -> Path:
    """Where the keep-list of a filtered file lies: beside it."""
    return filtered_npz.with_suffix(".keep.npz")


def check_output(input_npz: Path, output_npz: Path) -> None:
    """Raises InputError unless filtered pairs can go to `output_npz`; to be called before long work."""
    if output_npz.suffix != ".npz" or output_npz.resolve() == input_npz.resolve():
        raise InputError(f"--output-npz {output_npz}: expected another name than the input's that ends with .npz")


def save_selected(pairs: Pairs, captions: np.ndarray, output_npz: Path) -> None:
    """Write some captions, (N,) bool, of a file as it was opened, with the unfiltered file as their source."""
    assert pairs.source is not None, "a whole file as it was opened"
    source = source_of(pairs) or Source.at(pairs.source, fingerprint(pairs.source))
    save_pairs(pairs.select(captions), output_npz, source=source)


def save_filtered(pairs: Pairs, keep_list: KeepList, output_npz: Path) -> Path:
    """Write the kept captions and the keep-list beside them; return its path. Raises InputError if none is kept."""
    if not keep_list.keep.any():
        raise InputError(f"{output_npz}: not written, the cut leaves none of the {len(pairs):,} captions")
    save_selected(pairs, keep_list.keep, output_npz)
    path = keep_list_path(output_npz)
    save_keep_list(keep_list, path)
    return path
