"""Which of the data files are the embedded sample's: its encoders are its own, so what is trained on its pairs predicts
nothing for other captions, and the other way round.

The sample's marker, SAMPLE.json beside train/ and test/, records the fingerprints of its two files as "pair".
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import InputError, read_json
from src.data.pairs import Source, fingerprint, open_text_embeddings, read_source

MARKER = "SAMPLE.json"
PAIR = ("train/train.npz", "test/test.clean.npz")
LEAST_COSINE = 0.15


def are_of_sample(train_npz: Path, test_npz: Path, source: Source | None = None) -> tuple[bool, bool]:
    """Whether pairs and test captions are the sample's, by the markers where they lie. Filtered pairs are if the file
    is that they come from: `source`, None if it is what they record. Raises InputError as `fingerprint` does."""
    source = source or read_source(train_npz)
    places = (train_npz, test_npz, *(map(Path, source.paths) if source else ()))
    if not (marked := [pair for pair in map(_marked, places) if pair]):
        return False, False
    pairs, captions = [fingerprint(train_npz), *([source.fingerprint] if source else [])], fingerprint(test_npz)
    return any(pair[0] in pairs for pair in marked), any(pair[1] == captions for pair in marked)


def require_one_origin(train_npz: Path, test_npz: Path, source: Source | None = None) -> None:
    """Raises InputError if one of the files is the sample's and the other is of another encoder."""
    pairs, captions = are_of_sample(train_npz, test_npz, source)
    if pairs != captions and not embedded_alike(train_npz, test_npz):
        raise InputError(mixed(train_npz, test_npz, "train") if pairs else mixed(test_npz, train_npz, "test"))


def embedded_alike(one: Path, other: Path) -> bool:
    """Whether a file of the sample and another one have captions of one encoder, as a part of the sample has that was
    saved anew. The encoder's mean shows in each caption: cosines of means are 0.3 with a single one and 0.03 with those
    of anything else, in 1024 dimensions. Raises InputError."""
    means = [open_text_embeddings(path).mean(axis=0, dtype=np.float64) for path in (one, other)]
    if len(means[0]) != len(means[1]):
        return False
    length = np.linalg.norm(means[0]) * np.linalg.norm(means[1])
    return bool(means[0] @ means[1] > LEAST_COSINE * length)


def mixed(ours: Path, theirs: Path, part: str) -> str:
    """What to say of a file of the sample, train or test, with one of other data."""
    return (
        f"{ours}: is the embedded sample's, but {theirs} is not, and what is trained on one predicts nothing for the "
        f"other; `bash setup.sh --zip {part}.zip` puts the right one there, --{part}-npz names one elsewhere"
    )


def _marked(path: Path) -> list[Any]:
    """What the marker in a file's data folder says of PAIR; nothing if there is none."""
    with suppress(InputError, OSError, LookupError, TypeError, ValueError):  # ValueError: no path has such a name
        pair = read_json(path.resolve().parents[1] / MARKER)["pair"]
        return [pair[name] for name in PAIR]
    return []
