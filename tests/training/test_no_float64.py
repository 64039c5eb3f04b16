"""Training, measuring and ranking make no float64 on their device: mps has none. A kind of tensor stands for it;
whether mps has all the operations stays unseen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.ensembles.evaluation import Measured
from src.filters.ranks import rank_captions
from src.training.metrics import evaluate, ranks_of
from src.training.trainer import Trainer
from tests.training.conftest import MACHINE, TINY


class OnMps(torch.Tensor):
    """A tensor that computes as on the CPU. All that is computed from it is of its kind, and never float64, until it is
    copied to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        assert func is not torch.Tensor.numpy, "numpy reads the CPU's memory alone"
        result = super().__torch_function__(func, types, args, kwargs)
        assert not isinstance(result, cls) or result.dtype != torch.float64, f"{func} makes float64 on the device"
        return result


@pytest.fixture
def part(split):
    """A part whose embeddings and indices are on the device."""
    of = split.train.of
    of.text_NT, of.image_MV, of.image_of_caption_N = (
        each.as_subclass(OnMps) for each in (of.text_NT, of.image_MV, of.image_of_caption_N)
    )
    return replace(
        split.train, captions=split.train.captions.as_subclass(OnMps), images=split.train.images.as_subclass(OnMps)
    )


def test_the_stand_in_finds_float64():
    device = torch.ones(2).as_subclass(OnMps)
    assert type(device.cpu().double()) is torch.Tensor
    with pytest.raises(AssertionError, match="float64 on the device"):
        (device + 1).double()
    with pytest.raises(AssertionError, match="CPU's memory"):
        (device + 1).numpy()


@pytest.mark.parametrize("negatives", ["batch", "all"])
def test_an_epoch_and_its_measures(part, negatives):
    recipe = replace(TINY, negatives=negatives, regression_weight=1.0, input_noise=0.1)
    trainer = Trainer(recipe, part, MACHINE)
    assert isinstance(trainer.train.text_nT, OnMps)
    assert np.isfinite(trainer.train_epoch(1, lambda: None)["train_loss"])
    assert part.measure(trainer.translator)["mrr"] > 0


def test_ranks_are_float64_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    prediction, gallery = (torch.randn(130, 8, generator=generator) for _ in range(2))
    target = torch.arange(130)
    device = [each.as_subclass(OnMps) for each in (prediction, gallery, target)]
    assert evaluate(*device) == evaluate(prediction, gallery, target)
    ranks = ranks_of(device[0] @ device[1].T, device[2])
    assert type(ranks) is torch.Tensor
    assert ranks.dtype == torch.float64


def test_ensembles_and_the_filter_rank_there(part):
    translator = Trainer(TINY, part, MACHINE).translator
    table = rank_captions(translator, part.of, np.arange(50))
    assert table["rank"].between(1, 60).all()
    everything = torch.ones(len(part), dtype=torch.bool).as_subclass(OnMps)
    prediction = translator(part.text_nT).detach()
    measured = Measured.of(prediction, everything, part, label="run", count="1")
    assert 0 < measured.mrr < 1
    assert 0 < measured.expanded(prediction, 4).mrr < 1
