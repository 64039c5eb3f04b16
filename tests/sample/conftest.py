"""What the tests of the sample share: the smallest one, stand-ins for what takes long, the contents of a folder."""

from pathlib import Path

import numpy as np
import pytest

from src.sample import dataset
from src.sample.dataset import make_sample

SCALE = 0.03  # the smallest: 28 training images, 140 captions, 9 test captions


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The smallest sample. Leave it as it is."""
    data_dir = tmp_path_factory.mktemp("made") / "data"
    make_sample(data_dir, SCALE)
    return data_dir


@pytest.fixture
def quick(monkeypatch) -> None:
    """Grey pictures and empty embeddings, where what counts is where files go."""
    make_quick(monkeypatch)


def make_quick(monkeypatch) -> None:
    monkeypatch.setattr(dataset, "paint", lambda scene, rng: np.full((8, 8, 3), rng.integers(256), np.uint8))
    for encode in ("encode_captions", "encode_images"):
        monkeypatch.setattr(dataset, encode, lambda items: np.zeros((len(items), 1), np.float32))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
