"""Finished runs, and the images that they may be measured on because they did not train on them.

Shapes: M images of the pairs to measure on; n captions of a part; V image width, R runs.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.common.files import InputError
from src.data.pairs import Pairs, fingerprint, open_image_names
from src.data.splits import validation_images
from src.training.inputs import OnDevice, Part
from src.training.model import load_translator
from src.training.runs import BEST_MRR, RunRecord, State, recorded_runs

SEARCH_JOURNAL = "journal.log"  # a search's folder holds it beside the trials
ON_A_PART = " without "  # in the fingerprint of data that are a part of a file


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    folder: Path
    record: RunRecord

    @property
    def mrr(self) -> float:
        assert self.record.results, "a finished run has results"
        return self.record.results.mrr

    def held_out(self, on: Pairs) -> np.ndarray:
        """Which images of `on` the run did not train on, (M,) bool. Raises InputError if that cannot be told.

        It saw the images of its training file that did not validate, whatever a filter left of their captions.
        """
        recipe, data = self.record.recipe, self.record.data
        names = self._image_names(data.train_npz, data.train_fingerprint, on)
        validates = validation_images(names, recipe.val_fraction, recipe.effective_split_seed)
        if data.val_npz and not np.isin(self._image_names(data.val_npz, data.val_fingerprint, on), names).any():
            validates[:] = False  # it validated on a set of its own and trained on all of these
        return ~np.isin(on.image_names, names[~validates])

    def _image_names(self, path: str, recorded: str | None, on: Pairs) -> np.ndarray:
        """The names in a file that the run read, known by its recorded fingerprint."""
        if on.source and recorded == fingerprint(on.source):
            return on.image_names
        if recorded and ON_A_PART in recorded:
            raise InputError(f"{self.folder}: trained on a part of {path} ({recorded}), so it cannot be measured")
        if not Path(path).is_file() or recorded != fingerprint(path):
            raise InputError(f"{self.folder}: its {path} is gone or has changed, so what it trained on is not known")
        return open_image_names(path)

    def predict(self, part: Part) -> Tensor:
        """Predict the captions' images, (n, V) float32 on the part's device. Raises InputError as `load_translator`."""
        return part.translate(load_translator(self.folder / BEST_MRR, part.of.device, of=part.of.pairs))


def finished_runs(folders: Sequence[Path], on: Pairs) -> tuple[list[Run], dict[Path, str]]:
    """The finished runs in and below `folders`, each once, to be measured on some pairs; and what was left out below
    them, with the reason: what is unfinished, no translator of these data, or a trial of a search.

    A folder that is itself a run is taken at its word. Raises InputError for one without a run, or if all are left out.
    """
    given = {folder.resolve() for folder in folders}
    runs: dict[Path, Run] = {}
    left_out: dict[Path, str] = {}
    for folder in folders:
        if folder.is_file():
            left_out[folder] = "a file, not a folder of runs"
            continue
        found = [Run(path, record) for path, record in recorded_runs(folder)]
        if not found:
            raise InputError(f"{folder}: holds no finished run")
        for run in found:
            named = run.folder.resolve() in given
            if reason := _reason_to_leave_out(run, named, given, on):
                left_out[run.folder] = reason
            else:
                runs[run.folder.resolve()] = run
    of_these = {path for path, run in runs.items() if path in given or not run.held_out(on).all()}
    if of_these:  # else these captions are new to all
        strangers = runs.keys() - of_these
        left_out |= {runs.pop(path).folder: f"trained on none of the images of {on.source}" for path in strangers}
    if folders and not runs:
        raise InputError("; ".join([f"{folders[0]}: holds no finished run", *describe_left_out(left_out)]))
    return list(runs.values()), {path: reason for path, reason in left_out.items() if path.resolve() not in runs}


def _reason_to_leave_out(run: Run, named: bool, given: Collection[Path], on: Pairs) -> str | None:
    """Why a run is not taken; one that was itself `named` need only be finished."""
    search = run.folder.resolve().parent
    if not named and search not in given and (search / SEARCH_JOURNAL).is_file():
        return "trial of a search"
    if run.record.status != State.FINISHED:
        return run.record.status
    if named:
        return None
    if ON_A_PART in run.record.data.train_fingerprint:
        return "trained on a part of the data"
    try:
        run.held_out(on)
        load_translator(run.folder / BEST_MRR, of=on)
    except InputError as error:
        return str(error).partition(": ")[2]
    return None


def describe_left_out(left_out: Mapping[Path, str]) -> list[str]:
    """A line for each reason and folder that holds what was left out for it."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path, reason in left_out.items():
        groups[path.parent, reason].append(path)
    return [
        f"left out: {paths[0] if len(paths) == 1 else f'{len(paths)} runs in {parent}'} ({reason})"
        for (parent, reason), paths in groups.items()
    ]


def held_out_part(on: Pairs, runs: Sequence[Run], device: torch.device, *, out_of_fold: bool = False) -> Part:
    """The images that all runs held out or, with `out_of_fold`, that any run did. Raises InputError."""
    images = np.any([run.held_out(on) for run in runs], axis=0) if out_of_fold else common_images(runs, on)
    return OnDevice(on, device).part(images, turns=True)


def common_images(runs: Sequence[Run], on: Pairs) -> np.ndarray:
    """The images of `on` held out by the run with the fewest, (M,) bool. Raises InputError if another run saw some."""
    held_RM = [run.held_out(on) for run in runs]
    images, fewest = min(zip(held_RM, runs, strict=True), key=lambda pair: pair[0].sum())
    if images.sum() < 2:
        seen = f"{(~images).sum()} of the {len(images)} images of {on.source}"
        raise InputError(f"{fewest.folder}: trained on {seen}; measure it on other captions with --on")
    for run, held in zip(runs, held_RM, strict=True):
        if seen := (images & ~held).sum():
            raise InputError(
                f"{run.folder}: trained on {seen} of the {images.sum()} images that it would be measured on, held "
                f"out by {fewest.folder}; train all with one --split-seed, or use `python -m src.ensemble evaluate "
                "--out-of-fold`"
            )
    return images


def unseen_captions(runs: Sequence[Run], part: Part) -> Tensor:
    """Which captions of a part each run did not train on, (R, n) bool. Raises InputError for a run that saw all."""
    held_RM = torch.from_numpy(np.array([run.held_out(part.of.pairs) for run in runs])).to(part.of.device)
    held_Rn = held_RM[:, part.of.image_of_caption_N[part.captions]]
    for run, held_n in zip(runs, held_Rn, strict=True):
        if not held_n.any():
            raise InputError(f"{run.folder}: trained on all images of {part.of.pairs.source}; leave it out")
    return held_Rn
