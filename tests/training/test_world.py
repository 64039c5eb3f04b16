"""Several processes do together what one does alone."""

from itertools import chain

import pytest
import torch

from src.common.files import InputError
from src.training.trainer import Trainer
from src.training.world import World
from tests.training import several_processes
from tests.training.conftest import MACHINE, TINY, tiny_pairs, whole

TIMES = ("seconds", "captions_per_second")


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_torchrun):
    """By the number of processes. What three of them began, two resume."""
    several, together = tmp_path_factory.mktemp("several"), {}
    for size in (3, 2):
        started = run_torchrun(size, "tests/training/several_processes.py", several)
        assert started.returncode == 0, started.stderr
        together[size] = torch.load(several / "results.pt", weights_only=True)
    return together


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return several_processes.begin_or_resume(tmp_path_factory.mktemp("alone"), World())


@pytest.mark.slow
@pytest.mark.parametrize("name", several_processes.TRAININGS)
@pytest.mark.parametrize("size", [2, 3])
def test_losses_gradients_and_weights_are_those_of_one_process(name, size, results):
    ours, alone = results[size]["trainings"][name], several_processes.train(name, World())
    torch.testing.assert_close(ours["losses"], alone["losses"], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours["gradients"], alone["gradients"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours["weights"], alone["weights"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_by_another_number_of_processes(results, history):
    resumed = results[2]["history"]
    assert len(resumed) == len(history) == 4
    for ours, alone in zip(resumed, history, strict=True):
        assert {k: v for k, v in ours.items() if k not in TIMES} == pytest.approx(
            {k: v for k, v in alone.items() if k not in TIMES}, rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_what_processes_tell_each_other(size, results):
    ours = results[size]
    torch.testing.assert_close(ours["logsumexp"], several_processes.logsumexp(World()))
    assert ours["of first"] == "of 0"
    assert ours["gathered"] == [list(range(size)), [2 * rank for rank in range(size)]]
    assert sorted(chain(*ours["dealt"])) == list(range(7))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_each_draws_its_own_noise_but_all_the_same_negatives(size, results):
    own, common = zip(*results[size]["draws"], strict=True)
    assert len(set(map(tuple, own))) == size
    assert len(set(map(tuple, common))) == 1


def test_alone_nothing_is_asked_of_others():
    world = World()
    assert world.of_first(lambda: 7) == 7
    assert world.gathered("a") == ["a"]
    assert list(world.dealt(3)) == [0, 1, 2]
    with world.one_after_the_first():
        assert world.total(torch.tensor(2.0)) == 2
    assert str(world) == ""


def test_a_batch_has_an_image_for_every_process():
    part = whole(tiny_pairs(1, 60))
    with pytest.raises(InputError, match="--batch-size 60: makes batches of 11 images for 16 processes"):
        Trainer(TINY, part, MACHINE, World(rank=0, size=16))
