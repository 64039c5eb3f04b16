"""Two runs side by side: what differs in recipe and data, their measures and curves, and whether one is better.

It is better where the interval of the paired difference excludes 0: both predict the same captions, that neither of
them trained on, among the same images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.ticker import LogFormatter, MaxNLocator

from src.common.figures import BLUE, ORANGE, new_figure, save_figure
from src.common.files import InputError, require_file
from src.data.pairs import Pairs, fingerprint, open_pairs
from src.ensembles.evaluation import Difference, Measured
from src.ensembles.held_out import Run, held_out_part
from src.training.recipe import Recipe
from src.training.runs import BEST_MRR, HISTORY, DataRecord, State

OF_TRAINING = ("train_loss", "train_mrr", "lr", "strength")  # recorded beside the measures of the best epoch
WHOLE = ("median_rank", "best epoch", "epochs")
PLOTTED = ("epoch", "mrr", "train_loss")


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of what is not the same."""
    names = dict.fromkeys((*ours, *theirs))
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def recipe_differences(ours: Recipe, theirs: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields of two recipes that differ, seeds included, with both values."""
    return differing(asdict(ours), asdict(theirs))


def data_differences(ours: DataRecord, theirs: DataRecord) -> dict[str, tuple[Any, Any]]:
    """What differs in what two runs were trained and validated on, wherever the files lie, with both values."""
    return differing(_data(ours), _data(theirs))


def _data(data: DataRecord) -> dict[str, Any]:
    """Files by their names and fingerprints, not by their folders."""
    validated = (data.val_npz or data.train_npz, data.val_fingerprint or data.train_fingerprint)
    files = {
        "training pairs": (data.train_npz, data.train_fingerprint),
        "keep-list": (data.keep_list, data.keep_list_fingerprint),
        "validated on": validated,
    }
    return {
        **{what: f"{Path(path).name} ({known_by})" for what, (path, known_by) in files.items() if path},
        "captions weigh": data.caption_weights,
        "captions, images": f"{data.train_captions:,}, {data.train_images:,}",
        "of them validate": f"{data.val_captions:,}, {data.val_images:,}",
    }


def measures_of(run: Run) -> dict[str, float]:
    """All that a run recorded of how good it is; nothing for one that is not finished."""
    record, results = run.record, run.record.results
    if results is None:
        return {}
    values: dict[str, float | None] = {
        **{name: value for name, value in results.measures.items() if name not in OF_TRAINING},
        "mrr on own captions": results.own_measures["mrr"] if results.own_measures else None,
        "linear map's mrr": results.linear_mrr,
        "best epoch": results.best_epoch,
        "epochs": results.epochs,
        "minutes": (results.training_seconds + (results.refit_seconds or 0.0)) / 60,
        "million parameters": record.parameters / 1e6 if record.parameters else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def measures_table(ours: Run, theirs: Run) -> pd.DataFrame:
    """A row for each measure that either run recorded: both values, and the first minus the second, as text."""
    a, b = measures_of(ours), measures_of(theirs)

    rows = []
    for name in dict.fromkeys((*a, *b)):
        form = "g" if name in WHOLE else ".4f"
        ours_theirs = [values.get(name, math.nan) for values in (a, b)]
        shown = [f"{value:{form}}" for value in ours_theirs] + [f"{ours_theirs[0] - ours_theirs[1]:+{form}}"]
        rows.append([name.replace("_", " "), *("-" if "nan" in text else text for text in shown)])
    return pd.DataFrame(rows, columns=["measure", "A", "B", "A − B"])


def paired(ours: Run, theirs: Run, device: torch.device, on: Path | None = None) -> tuple[Difference, Measured]:
    """MRR of the first run minus that of the second on captions that both held out: those that validated both or, `on`
    other pairs, those of images that neither trained on. And the first as it was measured there. Raises InputError that
    says why there are none."""
    for run in (ours, theirs):
        if run.record.status != State.FINISHED:
            raise InputError(f"{run.folder}: is not finished ({run.record.status})")
    for run in (ours, theirs):
        require_file(run.folder / BEST_MRR)
    pairs = open_pairs(on) if on else _validation_pairs(ours, theirs)
    part = held_out_part(pairs, [ours, theirs], device)
    everything = torch.ones(len(part), dtype=torch.bool, device=device)
    a, b = (
        Measured.of(run.predict(part), everything, part, label=str(run.folder), count="1") for run in (ours, theirs)
    )
    return a.over(b), a


def _validation_pairs(ours: Run, theirs: Run) -> Pairs:
    """The file that both runs validated on."""
    (path, known_by), (other, other_known_by) = (
        (data.val_npz or data.train_npz, data.val_fingerprint or data.train_fingerprint)
        for data in (ours.record.data, theirs.record.data)
    )
    if known_by != other_known_by:
        raise InputError(
            f"they validated on captions of different files, {path} ({known_by}) and {other} ({other_known_by}); name "
            "one to measure both on with --on"
        )
    place = next((place for place in (path, other) if Path(place).is_file() and fingerprint(place) == known_by), None)
    if place is None:
        raise InputError(f"{path}: on which they validated, is gone or has changed")
    return open_pairs(place)


def read_history(run: Run) -> pd.DataFrame | None:
    """The history of a run, None if it has none yet. Raises InputError for a file that is no history."""
    path = run.folder / HISTORY
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path)
        return table.astype(dict.fromkeys(PLOTTED, float))
    except (ValueError, KeyError) as error:  # pandas' own errors, too
        raise InputError(f"{path}: not a run's history ({str(error).strip()})") from None


def plot_overlaid(histories: Mapping[str, pd.DataFrame], output: Path) -> None:
    """Write the picture of two runs' histories, by what they are called: MRR and training loss by epoch, as PNG.

    A closed form has no epochs: its MRR is a line across, and it has no training loss.
    """
    figure = new_figure(11, 4.5)
    measures, losses = figure.subplots(1, 2)
    for color, (label, table) in zip((BLUE, ORANGE), histories.items(), strict=False):
        style: dict[str, Any] = {"color": color, "label": label}
        best = table.loc[table.mrr.idxmax()]
        if "strength" in table:
            measures.axhline(best.mrr, ls="--", **style)
            continue
        measures.plot(table.epoch, table.mrr, marker=".", **style)
        measures.plot(best.epoch, best.mrr, marker="o", ms=9, mfc="none", color=color)
        losses.plot(table.epoch, table.train_loss, marker=".", **style)
    measures.set(title="validation MRR, the best epoch circled")
    losses.set(title="training loss", yscale="log")
    losses.yaxis.set_major_formatter(LogFormatter())
    losses.yaxis.set_minor_formatter(LogFormatter())
    for axes in (measures, losses):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.legend(*measures.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    save_figure(figure, output)


def labels_of(runs: Sequence[Run], longest: int = 100) -> list[str]:
    """What a picture calls two runs: A and B, as the tables do, and their folders' names."""
    names = [f"{letter}: {run.folder.name}" for letter, run in zip("AB", runs, strict=True)]
    return [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names]
