"""The picture of a filter's work: how the scores are spread, where the cut is, the worst pairs and those beside the
cut, which tell whether it is in the right place."""

import textwrap
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from src.common.figures import BLUE, RED, finish, new_figure, save_figure
from src.data.keep_lists import KeepList
from src.data.pairs import Pairs
from src.filters.pictures import BARE, ImageFolder, shorten

SHEET_COLUMNS = 8
LONGEST, LINE = 240, 30  # characters of a caption, and of a line of it
_KEPT, _DROPPED = BLUE, RED


def write_report(
    path: Path, pairs: Pairs, keep_list: KeepList, images_root: Path, *, name: str, cut: float | None, log: bool = False
) -> None:
    """Write a PNG: a histogram of kept and dropped scores above contact sheets: of the worst pairs, of the last that
    were dropped and of the first that were kept. `name` is what the scores are. Where an image cannot be read, a
    caption stands without its picture."""
    scores, keep, images = keep_list.scores, keep_list.keep, ImageFolder(images_root)
    order = np.argsort(scores, kind="stable")[: np.isfinite(scores).sum()]
    worst_first = order if keep_list.provenance["higher_is_better"] else order[::-1]
    dropped, kept = worst_first[~keep[worst_first]], worst_first[keep[worst_first]]
    sheets = {
        "the worst": worst_first[: 2 * SHEET_COLUMNS],
        "dropped, nearest to the cut": dropped[::-1][:SHEET_COLUMNS],
        "kept, nearest to the cut": kept[:SHEET_COLUMNS],
    }
    texts = {i: textwrap.wrap(shorten(pairs.caption_texts[i], LONGEST), LINE) for each in sheets.values() for i in each}
    rows = {title: max(1, -(-len(captions) // SHEET_COLUMNS)) for title, captions in sheets.items()}
    heights = [4.0]  # inches
    for title, captions in sheets.items():
        heights.append(0.4 + rows[title] * (2.6 + 0.16 * max((len(texts[i]) for i in captions), default=0)))
    figure = new_figure(2.1 * SHEET_COLUMNS, sum(heights))
    top, *parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat
    draw_histogram(top.subplots(), scores[order], keep[order], name, cut, log=log)
    for part, (title, captions) in zip(parts, sheets.items(), strict=True):
        part.suptitle(f"{title} by {name}", fontsize=13)
        cells = part.subplots(rows[title], SHEET_COLUMNS, squeeze=False, subplot_kw=BARE).flat
        for axes, i in zip(cells, captions, strict=False):
            fate, color = ("kept", _KEPT) if keep[i] else ("dropped", _DROPPED)
            axes.set_title(f"{scores[i]:.4g}, {fate}", fontsize=9, color=color)
            text = "\n".join(texts[i])
            axes.set_xlabel(text, fontsize=8, parse_math=False)  # captions are anyone's: a dollar sign is no formula
            images.draw(axes, pairs.image_names[pairs.image_of_caption[i]], pixels=240)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of letters that the font lacks
        save_figure(figure, path, dpi=80)


def draw_histogram(axes: Axes, scores: np.ndarray, keep: np.ndarray, name: str, cut: float | None, log: bool) -> None:
    """Draw how many captions have which scores, and which of them are kept, side by side where both are; `log` suits
    ranks. Counts are logarithmic, so that few dropped ones are seen beside many that are kept."""
    edges = np.histogram_bin_edges(scores, 80)
    if log:
        edges = np.geomspace(max(scores.min(initial=1), 0.5), scores.max(initial=2) + 1, 60)
        axes.set_xscale("log")
    labels = f"kept: {keep.sum():,}", f"dropped: {(~keep).sum():,}"
    for part, color, label in zip((scores[keep], scores[~keep]), (_KEPT, _DROPPED), labels, strict=True):
        axes.hist(part, edges.tolist(), color=color, alpha=0.7, label=label)
    if cut is not None:
        axes.axvline(cut, color="black", lw=1, ls="--", label=f"cut: {cut:.4g}")
    share = f", of which {(~keep).mean():.1%} are dropped" if len(keep) else ""
    title, scale = f"{len(scores):,} scored captions{share}", "log" if len(scores) else "linear"
    finish(axes, title=title, xlabel=name, ylabel="captions", yscale=scale, ylim=(0.7, None))
