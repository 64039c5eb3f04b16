"""An image's side of the split depends on its name and the seed alone."""

import numpy as np
import pytest

from src.common.files import InputError
from src.data.pairs import open_pairs
from src.data.splits import image_folds, validation_images

NAMES = np.array([f"{i:04d}.jpg" for i in range(500)], object)


def test_the_share_is_exact_and_the_choice_looks_random():
    chosen = validation_images(NAMES, 0.1, 43)
    assert chosen.dtype == bool
    assert chosen.sum() == 50
    assert 150 < np.flatnonzero(chosen).mean() < 350  # neither the first names nor the last


def test_the_same_names_validate_whatever_their_order():
    chosen = set(NAMES[validation_images(NAMES, 0.1, 43)])
    shuffled = np.random.default_rng(0).permutation(NAMES)
    assert set(shuffled[validation_images(shuffled, 0.1, 43)]) == chosen
    assert set(NAMES[validation_images(NAMES.astype(str), 0.1, 43)]) == chosen  # NumPy's text or Python's


def test_a_filtered_file_validates_on_the_same_images(sample):
    pairs = open_pairs(sample / "train/train.npz")
    filtered = pairs.select(np.random.default_rng(0).random(len(pairs)) < 0.5)
    assert (
        validation_images(pairs.image_names, 0.1, 1).tolist()
        == validation_images(filtered.image_names, 0.1, 1).tolist()
    )


def test_another_seed_chooses_others_and_a_larger_share_adds_to_the_smaller():
    first, second = validation_images(NAMES, 0.1, 1), validation_images(NAMES, 0.1, 2)
    assert 0 < (first & second).sum() < 20  # 5 are expected
    assert not (first & ~validation_images(NAMES, 0.3, 1)).any()


@pytest.mark.parametrize("images", [2, 3, 11])
@pytest.mark.parametrize("fraction", [0.0, 1e-9, 0.5, 0.999, 1.0])
def test_no_side_is_ever_empty(images, fraction):
    chosen = validation_images(NAMES[:images], fraction, 0)
    assert 0 < chosen.sum() < images


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_are_refused(images):
    with pytest.raises(InputError, match="at least two"):
        validation_images(NAMES[:images], 0.1, 0)


@pytest.mark.parametrize("folds", [2, 3, 7, 500])
def test_every_image_is_in_one_fold_and_folds_are_even(folds):
    sizes = np.bincount(image_folds(NAMES, folds, 0))
    assert len(sizes) == folds
    assert sizes.sum() == 500
    assert sizes.max() - sizes.min() <= 1


def test_folds_depend_on_names_and_seed_alone():
    order = np.random.default_rng(0).permutation(len(NAMES))
    assert (image_folds(NAMES[order], 5, 3) == image_folds(NAMES, 5, 3)[order]).all()
    assert (image_folds(NAMES, 5, 3) != image_folds(NAMES, 5, 4)).any()


@pytest.mark.parametrize("folds", [1, 501])
def test_impossible_folds_are_refused(folds):
    with pytest.raises(InputError, match="between 2 and the number of images, 500"):
        image_folds(NAMES, folds, 0)
