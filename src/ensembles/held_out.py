"""Finished runs, and the images that they may be measured on because they did not train on them.

Shapes: N captions, M images, V image width, R runs.

A run saw every image of its training file that it did not hold out, whatever a filter left of the image's captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.common.files import InputError
from src.data.npz import open_npz
from src.data.pairs import Pairs, fingerprint
from src.data.splits import validation_images
from src.training.model import Translator, load_translator, translate
from src.training.recipe import Recipe
from src.training.runs import BEST_MRR, recorded_runs


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its folder and its record."""

    folder: Path
    record: dict[str, Any]

    def held_out(self, on: Pairs) -> np.ndarray:
        """Which images of `on` the run did not train on, (M,) bool. Raises InputError if that cannot be told."""
        try:
            recipe = Recipe(**self.record["recipe"])
        except TypeError as error:
            raise InputError(f"{self.folder}: its recipe is of another version of this project ({error})") from None
        names = self._image_names("train", on)
        validates = validation_images(names, recipe.val_fraction, recipe.effective_split_seed)
        if "val_npz" in self.record["data"] and not np.isin(self._image_names("val", on), names).any():
            validates[:] = False  # it validated on a set of its own and trained on all of these
        return ~np.isin(on.image_names, names[~validates])

    def _image_names(self, part: str, on: Pairs) -> np.ndarray:
        path, wanted = Path(self.record["data"][f"{part}_npz"]), self.record["data"][f"{part}_fingerprint"]
        if wanted == fingerprint(on.source):
            return on.image_names
        if not path.is_file() or fingerprint(path) != wanted:
            raise InputError(f"{self.folder}: its {path} is gone or has changed, so what it trained on is not known")
        return _image_names_in(path)

    def predict(self, captions: Pairs, device: torch.device) -> Tensor:
        """Predict the captions' images, (N, V) float32 on the device. Raises InputError if the widths differ."""
        translator = load_translator_for(captions, self.folder / BEST_MRR, device)
        return translate(translator, torch.from_numpy(captions.text_embeddings))


def load_translator_for(pairs: Pairs, weights: Path, device: torch.device) -> Translator:
    """Load a translator of these pairs' widths. Raises InputError as `load_translator` does, and for other widths."""
    translator = load_translator(weights, device)
    ours = translator.dims["text_dim"], translator.dims["image_dim"]
    widths = pairs.text_embeddings.shape[1], pairs.image_embeddings.shape[1]
    if ours != widths:
        raise InputError(f"{weights}: translates widths {ours}; those of {pairs.source} are {widths}")
    return translator


@cache
def _image_names_in(path: Path) -> np.ndarray:
    with open_npz(path) as archive:
        return archive.array("images/names", rank=1, kind="U").astype(object)


def finished_runs(folders: Sequence[Path]) -> list[Run]:
    """The finished runs in `folders` (of runs, or folders of those), each once.

    Raises InputError for a folder without one.
    """
    runs = {}
    for folder in folders:
        found = [Run(path, record) for path, record in recorded_runs(folder) if record["status"] == "finished"]
        if not found:
            raise InputError(f"{folder}: holds no finished run")
        runs |= {run.folder.resolve(): run for run in found}
    return list(runs.values())


def common_images(runs: Sequence[Run], on: Pairs) -> np.ndarray:
    """The images of `on` to measure all runs on: those held out by the run that held out fewest. (M,) bool.

    Raises InputError if another run trained on some of them.
    """
    held_RM = [run.held_out(on) for run in runs]
    fewest = int(np.argmin([held.sum() for held in held_RM]))
    images = held_RM[fewest]
    if images.sum() < 2:
        raise InputError(
            f"{runs[fewest].folder}: trained on {(~images).sum()} of the {len(images)} images of {on.source}; "
            "measure it on other captions with --on"
        )
    for run, held in zip(runs, held_RM, strict=True):
        if seen := (images & ~held).sum():
            raise InputError(
                f"{run.folder}: trained on {seen} of the {images.sum()} images that it would be measured on, held "
                f"out by {runs[fewest].folder}; train all with one --split-seed, or measure with --out-of-fold"
            )
    return images
