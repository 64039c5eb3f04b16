"""What one training job reads: the pairs, the captions that validate, the captions to predict.

A filtered file has lost the hard captions of its validation images too and so flatters its own MRR. With
`validation` (the unfiltered file) the same images validate with all of their captions.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.cli import TEST_NPZ, TRAIN_NPZ
from src.common.files import InputError
from src.data.keep_lists import apply_keep_list
from src.data.pairs import Pairs, TestCaptions, fingerprint, open_pairs, open_test_captions
from src.data.splits import validation_images


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """train and validation share no image. `own_validation` is set when `validation` is of another file: the
    training file's own captions of the same images. Captions that validate stand in turns of one an image, as a
    test file mixes them, so that a group of the challenge's protocol shows as many images as it can."""

    train: Pairs
    validation: Pairs
    own_validation: Pairs | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """The opened files of a job. `record` is what a run stores about them: paths, fingerprints, sizes."""

    pairs: Pairs
    validation: Pairs | None
    test: TestCaptions | None
    tag: str
    record: dict[str, Any]

    def split(self, fraction: float, seed: int) -> Split:
        """Split by image name. Raises InputError if either side has no captions."""
        names = self.pairs.image_names
        validates = validation_images(names, fraction, seed)
        if self.validation is None:
            own = in_turns(self.pairs.select_images(validates))
            return _checked(Split(train=self.pairs.select_images(~validates), validation=own))
        known = np.isin(self.validation.image_names, names)
        if not known.any():  # a validation set of its own: nothing need be held out
            return _checked(Split(train=self.pairs, validation=in_turns(self.validation)))
        chosen = np.isin(self.validation.image_names, names[validates])
        return _checked(
            Split(
                train=self.pairs.select_images(~validates),
                validation=in_turns(self.validation.select_images(chosen)),
                own_validation=in_turns(self.pairs.select_images(validates)),
            )
        )


def in_turns(pairs: Pairs) -> Pairs:
    """Reorder the captions: the first of every image, then the second of every image, and so on."""
    by_image = np.argsort(pairs.image_of_caption, kind="stable")
    _, first, counts = np.unique(pairs.image_of_caption[by_image], return_index=True, return_counts=True)
    turn = np.empty(len(pairs), np.int64)
    turn[by_image] = np.arange(len(pairs)) - np.repeat(first, counts)
    return pairs.select(np.lexsort((pairs.image_of_caption, turn)))


def _checked(split: Split) -> Split:
    if not len(split.train) or not len(split.validation):
        raise InputError(
            "the split leaves no captions to train or to validate with; try another --val-fraction or seed"
        )
    return split


def add_data_arguments(parser: argparse.ArgumentParser, train_npz: Path = TRAIN_NPZ) -> None:
    """Add --train-npz, --keep-list, --val-npz and --test-npz; `open_training_data` reads them."""
    parser.add_argument("--train-npz", type=Path, default=train_npz, help="caption-image pairs to train on")
    parser.add_argument(
        "--keep-list",
        type=Path,
        help="train on the captions that a filter's keep-list of --train-npz keeps (default: all)",
    )
    parser.add_argument(
        "--val-npz",
        type=Path,
        help="take the captions that validate from here: of the same images as ever, by their names "
        "(default: --train-npz, filtered as it is)",
    )
    parser.add_argument("--test-npz", type=Path, default=TEST_NPZ, help="captions to predict for the submission")


def open_training_data(args: argparse.Namespace, *, with_test: bool = True) -> TrainingData:
    """Open and check all files of a job before anything is trained. Raises InputError."""
    pairs = open_pairs(args.train_npz)
    record = {"train_npz": str(args.train_npz), "train_fingerprint": fingerprint(args.train_npz)}
    if args.keep_list:
        pairs = apply_keep_list(pairs, args.keep_list)
        record |= {"keep_list": str(args.keep_list), "keep_list_fingerprint": fingerprint(args.keep_list)}
    record |= {"train_captions": len(pairs), "train_images": pairs.num_images}
    validation = test = None
    if args.val_npz:
        validation = open_pairs(args.val_npz)
        record |= {"val_npz": str(args.val_npz), "val_fingerprint": fingerprint(args.val_npz)}
        _check_width(pairs.text_embeddings, validation.text_embeddings, args.val_npz, "caption")
        _check_width(pairs.image_embeddings, validation.image_embeddings, args.val_npz, "image")
    if with_test:
        test = open_test_captions(args.test_npz)
        record |= {"test_npz": str(args.test_npz), "test_fingerprint": fingerprint(args.test_npz)}
        _check_width(pairs.text_embeddings, test.text_embeddings, args.test_npz, "caption")
    tag = args.keep_list.stem if args.keep_list else dataset_tag(args.train_npz)
    return TrainingData(pairs=pairs, validation=validation, test=test, tag=tag, record=record)


def _check_width(ours: np.ndarray, theirs: np.ndarray, path: Path, what: str) -> None:
    if ours.shape[1] != theirs.shape[1]:
        raise InputError(
            f"{path}: its {what} embeddings are {theirs.shape[1]} wide; the training pairs' {ours.shape[1]}"
        )


def dataset_tag(path: Path) -> str:
    """A short name: data/train/train.npz → train, elsewhere/visual/train.npz → visual-train."""
    folder = path.resolve().parent.name
    return path.stem if folder in ("", path.stem) else f"{folder}-{path.stem}"
