"""A tiny dataset and recipe that train in a blink."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.data.pairs import Pairs
from src.training.inputs import OnDevice, Part, Split
from src.training.machine import Machine
from src.training.recipe import BASELINE

CPU = torch.device("cpu")
MACHINE = Machine(CPU)
TINY = replace(BASELINE, hidden_dim=32, epochs=4, batch_size=60, lr=1e-3, tau=0.1, seed=5)


def tiny_pairs(seed: int, images: int) -> Pairs:
    """Captions are a fixed nonlinear function of their image's embedding, plus noise: something to learn."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((12, 8))
    image_embeddings = rng.standard_normal((images, 12)).astype(np.float32)
    image_of_caption = np.sort(rng.integers(0, images, 4 * images)).astype(np.int32)
    text = np.tanh(image_embeddings[image_of_caption] @ mixing) + 0.1 * rng.standard_normal((4 * images, 8))
    return Pairs(
        caption_ids=np.arange(4 * images),
        caption_texts=np.array([f"caption {i}" for i in range(4 * images)], object),
        text_embeddings=text.astype(np.float32),
        image_of_caption=image_of_caption,
        image_names=np.array([f"{i}.jpg" for i in range(images)], object),
        image_embeddings=image_embeddings,
    )


@pytest.fixture
def split() -> Split:
    return Split(train=whole(tiny_pairs(1, 60)), validation=whole(tiny_pairs(2, 20)))


def whole(pairs: Pairs, weights: np.ndarray | None = None) -> Part:
    return OnDevice(pairs, CPU, weights).part(np.ones(pairs.num_images, bool))
