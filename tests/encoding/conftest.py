"""Tiny encoders with random weights, made here."""

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.encoding.stand_in.sentence_transformers import WIDTH, WORDS

STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture(scope="session")
def text_model(tmp_path_factory) -> Path:
    """The folder of a model of the stand-in for sentence-transformers."""
    folder = tmp_path_factory.mktemp("text_model")
    weights = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"words.weight": weights}, folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="session")
def image_weights(tmp_path_factory) -> Path:
    """Weights of timm's test_vit, 0.4 million of them, with its head as a checkpoint has it."""
    path = tmp_path_factory.mktemp("image_model") / "test_vit.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


@pytest.fixture
def stand_in(monkeypatch):
    """Let this process import the stand-in."""
    monkeypatch.syspath_prepend(STAND_IN)
    monkeypatch.delitem(sys.modules, "sentence_transformers", raising=False)
    yield
    sys.modules.pop("sentence_transformers", None)
