"""The picture of a filter's work: how the scores are spread, where the cut is, the worst and the best pairs."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from src.common.files import atomic_path
from src.data.keep_lists import KeepList
from src.data.pairs import Pairs
from src.filters.cut import cut_value
from src.filters.pictures import draw_picture

SHEET_COLUMNS, SHEET_ROWS = 8, 2  # of the worst pairs, and again of the best
_KEPT, _DROPPED = "tab:blue", "tab:red"


def write_report(
    path: Path,
    pairs: Pairs,
    keep_list: KeepList,
    *,
    score_name: str,
    images_root: Path | None = None,
    log_scale: bool = False,
    cut: float | None = None,
) -> None:
    """Write a PNG: a histogram of the scores, kept and dropped, above a contact sheet of the worst and best pairs.

    `log_scale` suits ranks. The `cut` is drawn where kept and dropped scores meet, unless it is given. Without
    `images_root`, or where an image cannot be read, a caption stands without its picture.
    """
    scores, keep = keep_list.scores, keep_list.keep
    order = np.argsort(scores, kind="stable")[: np.isfinite(scores).sum()]
    worst_first = order if keep_list.provenance["higher_is_better"] else order[::-1]
    shown = SHEET_COLUMNS * SHEET_ROWS

    heights = 4, 3.3 * SHEET_ROWS, 3.3 * SHEET_ROWS  # inches
    figure = Figure(figsize=(2.1 * SHEET_COLUMNS, sum(heights)), layout="constrained")
    top, worst, best = figure.subfigures(3, 1, squeeze=False, height_ratios=heights).flat
    draw_histogram(top.subplots(), scores[order], keep[order], score_name, log_scale, cut)
    _draw_sheet(worst, f"worst {score_name}", pairs, keep_list, worst_first[:shown], images_root)
    _draw_sheet(best, f"best {score_name}", pairs, keep_list, worst_first[::-1][:shown], images_root)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80)


def draw_histogram(
    axes: Axes, scores: np.ndarray, keep: np.ndarray, name: str, log_scale: bool = False, cut: float | None = None
) -> None:
    """Draw how many captions have which scores, and which of them are kept; arguments as of `write_report`."""
    if log_scale:
        edges = np.geomspace(max(scores.min(initial=1), 0.5), scores.max(initial=2) + 1, 60)
        axes.set_xscale("log")
    else:
        edges = np.histogram_bin_edges(scores, 80)
    parts, labels = (scores[keep], scores[~keep]), (f"kept: {keep.sum():,}", f"dropped: {(~keep).sum():,}")
    axes.hist(parts, edges.tolist(), stacked=True, color=(_KEPT, _DROPPED), label=labels)
    cut = cut_value(scores, keep) if cut is None else cut
    if cut is not None:
        axes.axvline(cut, color="black", lw=1, ls="--", label=f"cut: {cut:.4g}")
    axes.set(xlabel=name, ylabel="captions", title=f"{len(scores):,} scored captions")
    axes.legend()


def _draw_sheet(
    figure: SubFigure, title: str, pairs: Pairs, keep_list: KeepList, captions: np.ndarray, root: Path | None
) -> None:
    figure.suptitle(title, fontsize=13)
    for axes, caption in zip(figure.subplots(SHEET_ROWS, SHEET_COLUMNS).flat, captions, strict=False):
        name = pairs.image_names[pairs.image_of_caption[caption]]
        score, kept = keep_list.scores[caption], keep_list.keep[caption]
        axes.set_title(f"{score:.4g}, {'kept' if kept else 'dropped'}", fontsize=9, color=_KEPT if kept else _DROPPED)
        if root:
            draw_picture(axes, root / name, pixels=240)
        # Captions are anyone's: a dollar sign is no formula.
        text = textwrap.fill(textwrap.shorten(str(pairs.caption_texts[caption]), 130, placeholder=" …"), 28)
        axes.set_xlabel(text, fontsize=8, parse_math=False)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[], frame_on=False)
