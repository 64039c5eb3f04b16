"""An epoch holds every caption once, in batches of whole image groups, in an order that seed and epoch decide."""

import numpy as np
import pytest

from src.training.batching import ImageGroups


def even(rng):
    return np.repeat(np.arange(60), 5)


def uneven(rng):
    """Between 1 and 30 captions an image, in any order, and every third image without captions."""
    return rng.permutation(np.repeat(np.arange(90), rng.integers(1, 31, 90) * (np.arange(90) % 3 > 0)))


def one_image(rng):
    return np.full(7, 3)


def one_each(rng):
    return rng.permutation(100)


DATASETS = [even, uneven, one_image, one_each]
BATCH_SIZES = [1, 4, 5, 64, 300, 100_000]


@pytest.fixture(params=DATASETS, ids=lambda dataset: dataset.__name__)
def image_of_caption(request):
    return request.param(np.random.default_rng(0)).astype(np.int32)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_every_caption_comes_once_with_all_others_of_its_image(image_of_caption, batch_size):
    groups = ImageGroups(image_of_caption, batch_size)
    batches = list(groups.epoch(seed=1, epoch=1))
    assert len(batches) == groups.num_batches
    assert sorted(np.concatenate([batch.captions for batch in batches])) == list(range(len(image_of_caption)))
    assert sorted(np.concatenate([batch.images for batch in batches])) == np.unique(image_of_caption).tolist()
    sizes = np.bincount(image_of_caption)
    for batch in batches:
        assert (batch.images[batch.target] == image_of_caption[batch.captions]).all()
        assert (batch.counts == sizes[batch.images]).all()
        assert (np.bincount(batch.target) == batch.counts).all()
        assert {array.dtype for array in vars(batch).values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_batches_are_about_as_large_as_asked_and_even(image_of_caption, batch_size):
    images = [len(batch.images) for batch in ImageGroups(image_of_caption, batch_size).epoch(1, 1)]
    assert max(images) - min(images) <= 1
    mean_captions = len(image_of_caption) / len(np.unique(image_of_caption))
    assert max(images) <= max(1, batch_size / mean_captions)  # the smallest batch is one whole group
    wanted = min(batch_size, len(image_of_caption))
    assert max(images) * mean_captions > wanted / 2 - mean_captions  # evening out halves a batch at the most


def test_the_number_of_batches_by_hand():
    assert ImageGroups(np.repeat(np.arange(828), 5), 4096).num_batches == 2  # 819 images fit
    assert ImageGroups(np.repeat(np.arange(819), 5), 4096).num_batches == 1
    assert ImageGroups(np.repeat(np.arange(20), 5), 15).num_batches == 7


def as_lists(batches):
    return [[array.tolist() for array in vars(batch).values()] for batch in batches]


def test_seed_and_epoch_decide_the_order_whatever_ran_before(image_of_caption):
    first = ImageGroups(image_of_caption, 32)
    later = as_lists(first.epoch(5, 2))
    np.random.default_rng().random(3)
    second = ImageGroups(image_of_caption, 32)
    earlier = as_lists(second.epoch(5, 1))
    assert as_lists(first.epoch(5, 1)) == earlier
    assert as_lists(second.epoch(5, 2)) == later


@pytest.mark.parametrize("other", [(5, 2), (6, 1)])
def test_another_epoch_or_seed_deals_other_batches(other):
    groups = ImageGroups(uneven(np.random.default_rng(0)), 64)
    assert as_lists(groups.epoch(5, 1)) != as_lists(groups.epoch(*other))
