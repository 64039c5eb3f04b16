"""The picture of a filter's work: how the scores are spread, where the cut is, the worst and the best pairs."""

import textwrap
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.common.files import atomic_path
from src.data.keep_lists import KeepList
from src.data.pairs import Pairs
from src.filters.pictures import BARE, ImageFolder, shorten

SHEET_COLUMNS, SHEET_ROWS = 8, 2  # of the worst pairs, and again of the best
_KEPT, _DROPPED = "tab:blue", "tab:red"


def write_report(
    path: Path, pairs: Pairs, keep_list: KeepList, images_root: Path, *, name: str, cut: float | None, log: bool = False
) -> None:
    """Write a PNG: a histogram of kept and dropped scores above contact sheets of the worst and best pairs. `name`
    is what the scores are. Where an image cannot be read, a caption stands without its picture."""
    scores, keep, images = keep_list.scores, keep_list.keep, ImageFolder(images_root)
    order = np.argsort(scores, kind="stable")[: np.isfinite(scores).sum()]
    worst_first = order if keep_list.provenance["higher_is_better"] else order[::-1]

    heights = 4, 3.3 * SHEET_ROWS, 3.3 * SHEET_ROWS  # inches
    figure = Figure(figsize=(2.1 * SHEET_COLUMNS, sum(heights)), layout="constrained")
    top, *sheets = figure.subfigures(3, 1, squeeze=False, height_ratios=heights).flat
    draw_histogram(top.subplots(), scores[order], keep[order], name, cut, log=log)
    for sheet, which, captions in zip(sheets, ("worst", "best"), (worst_first, worst_first[::-1]), strict=True):
        sheet.suptitle(f"{which} {name}", fontsize=13)
        for axes, i in zip(sheet.subplots(SHEET_ROWS, SHEET_COLUMNS, subplot_kw=BARE).flat, captions, strict=False):
            kept, color = ("kept", _KEPT) if keep[i] else ("dropped", _DROPPED)
            axes.set_title(f"{scores[i]:.4g}, {kept}", fontsize=9, color=color)
            text = textwrap.fill(shorten(pairs.caption_texts[i], 130), 28)
            axes.set_xlabel(text, fontsize=8, parse_math=False)  # captions are anyone's: a dollar sign is no formula
            images.draw(axes, pairs.image_names[pairs.image_of_caption[i]], pixels=240)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of letters that the font lacks
        figure.savefig(temporary, dpi=80)


def draw_histogram(axes: Axes, scores: np.ndarray, keep: np.ndarray, name: str, cut: float | None, log: bool) -> None:
    """Draw how many captions have which scores, and which of them are kept; `log` suits ranks."""
    edges = np.histogram_bin_edges(scores, 80)
    if log:
        edges = np.geomspace(max(scores.min(initial=1), 0.5), scores.max(initial=2) + 1, 60)
        axes.set_xscale("log")
    labels = f"kept: {keep.sum():,}", f"dropped: {(~keep).sum():,}"
    axes.hist((scores[keep], scores[~keep]), edges.tolist(), stacked=True, color=(_KEPT, _DROPPED), label=labels)
    if cut is not None:
        axes.axvline(cut, color="black", lw=1, ls="--", label=f"cut: {cut:.4g}")
    axes.set(xlabel=name, ylabel="captions", title=f"{len(scores):,} scored captions")
    axes.legend()
