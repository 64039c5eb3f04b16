"""What the tests of the filters share: a few awkward pairs, a translator and a CLIP that have learnt nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.pairs import Pairs
from src.training.machine import Machine
from src.training.model import ResidualMLP, Translator
from tests.tiny_clip import make_tiny_clip

CPU = torch.device("cpu")
MACHINE = Machine(CPU)
TEXT, IMAGE = 6, 9
HOSTILE = ["NA", "12", 'a "quoted", one', "two\r\nlines", "a lone\rreturn", "", " spaced ", "é 犬", "$x$", "nan"]


def make_pairs(captions: int = 10, images: int = 13) -> Pairs:
    """Captions with awkward texts and the ids …, 6, 3, 0; images 2 and 8 have equal embeddings."""
    rng = np.random.default_rng(0)
    image_embeddings = rng.standard_normal((images, IMAGE)).astype(np.float32)
    image_embeddings[8 % images] = image_embeddings[2]
    return Pairs(
        caption_ids=np.arange(captions)[::-1] * 3,
        caption_texts=np.array((HOSTILE * captions)[:captions], object),
        text_embeddings=rng.standard_normal((captions, TEXT)).astype(np.float32),
        image_of_caption=rng.permutation(np.arange(captions, dtype=np.int32) % images),
        image_names=np.array([f"{i:03}" for i in range(images)], object),
        image_embeddings=image_embeddings,
        source=Path("pairs.npz"),
    )


@pytest.fixture
def translator() -> Translator:
    torch.manual_seed(0)
    return ResidualMLP(TEXT, IMAGE, 5).eval()


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a CLIP with random weights."""
    return make_tiny_clip(tmp_path_factory.mktemp("untrained"), steps=0)
