"""Which images validate, and in which order their captions do. Split by image: no image is on both sides.

An image's side depends on its name and the seed alone, never on its position or on the captions that a filter
left: every filtered version of a dataset gets the same validation images from the same seed.
"""

import hashlib

import numpy as np

from src.common.files import InputError


def validation_images(image_names: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose round(M x fraction) of the images, at least one and not all of them.

    image_names (M,) of str. Returns a boolean mask (M,), True for validation: the images whose keyed hash is
    lowest. Raises InputError when there are fewer than two images.
    """
    if len(image_names) < 2:
        raise InputError(f"{len(image_names)} image: a split into training and validation needs at least two")
    count = min(max(1, round(len(image_names) * fraction)), len(image_names) - 1)
    validates = np.zeros(len(image_names), bool)
    validates[_hash_order(image_names, seed)[:count]] = True
    return validates


def image_folds(image_names: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deal the images into `folds` parts whose sizes differ by at most one. Returns (M,) int, the fold of each."""
    if not 2 <= folds <= len(image_names):
        raise InputError(f"{folds} folds: expected between 2 and the number of images, {len(image_names)}")
    fold_of_image = np.empty(len(image_names), np.int64)
    fold_of_image[_hash_order(image_names, seed)] = np.arange(len(image_names)) % folds
    return fold_of_image


def in_turns(image_of_caption: np.ndarray) -> np.ndarray:
    """An order of N captions, (N,) int64: the first of every image, then the second of every image, and so on.

    As a test file mixes them, so that a group of the challenge's protocol shows as many images as it can.
    """
    by_image = np.argsort(image_of_caption, kind="stable")
    _, first, counts = np.unique(image_of_caption[by_image], return_index=True, return_counts=True)
    turn = np.empty(len(image_of_caption), np.int64)
    turn[by_image] = np.arange(len(image_of_caption)) - np.repeat(first, counts)
    return np.lexsort((image_of_caption, turn))


def _hash_order(image_names: np.ndarray, seed: int) -> np.ndarray:
    """The images (indices) in the order of a hash of seed and name: shuffled, whatever their order in the file."""
    keys = [hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest() for name in image_names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))
