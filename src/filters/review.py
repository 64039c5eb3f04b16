"""The pictures, tables and buttons of visualize_split_top_50.ipynb. What it decides is in src/filters/decisions.py.

A `table` is that of src.filters.ranks, `rows` are some of its rows, `keep` (N captions,) bool says which are kept.
"""

import html
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.common.files import InputError
from src.filters.decisions import DROP, KEEP, ReviewDecisions
from src.filters.pictures import BARE, ImageFolder, shorten
from src.filters.ranks import DEPTH, RANK_NAME
from src.filters.report import draw_histogram

BY_RANK = "by rank"


def plot_ranks(table: pd.DataFrame, keep: np.ndarray, top_k: int) -> Figure:
    """How the ranks are spread, and the share of captions that every other cut would keep; the cut is marked."""
    ranks = table["rank"].to_numpy()
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    histogram, cumulative = figure.subplots(1, 2)
    draw_histogram(histogram, ranks, keep, RANK_NAME, top_k, log=True)
    cumulative.plot(np.sort(ranks), np.arange(1, len(ranks) + 1) / len(ranks))
    label = f"the first {top_k}: {(ranks <= top_k).mean():.1%}"
    cumulative.axvline(top_k, color="black", lw=1, ls="--", label=label)
    cumulative.set(xlabel="cut", ylabel="captions kept", xscale="log", ylim=(0, 1.02), title="every other cut")
    cumulative.grid(alpha=0.3)
    cumulative.legend(loc="lower right")
    return figure


def find_captions(table: pd.DataFrame, ids: str) -> pd.DataFrame:
    """The rows of some captions, "17 203", in that order. Raises InputError for what is no caption's id."""
    try:
        wanted = [int(word) for word in ids.split()]
    except ValueError:
        raise InputError(f"{ids!r}: expected the ids of captions, as in '17 203'") from None
    places = pd.Index(table.caption_id).get_indexer(wanted)
    if (places < 0).any():
        raise InputError(f"{wanted[places.argmin()]}: no caption has this id")
    return table.iloc[places]


def contact_sheet(rows: pd.DataFrame, images_root: Path) -> Figure:
    """A line a caption: its own image in a green frame, then the five that score highest; ranks and scores above.
    Where an image cannot be read, its name stands alone."""
    count, images = max(1, len(rows)), ImageFolder(images_root)
    figure = Figure(figsize=(1.55 * (1 + DEPTH), 2.1 * count), layout="constrained")
    lines = figure.subfigures(count, 1, squeeze=False).flat
    for line, (_, row) in zip(lines, rows.iterrows(), strict=False):
        caption = shorten(f"{row.caption_id}: {row.caption}", 110)
        line.suptitle(caption, fontsize=10, parse_math=False)  # captions are anyone's: a dollar sign is no formula
        shown = [(row.image, f"own: rank {row['rank']:g}, {row.score:.3f}")]
        for place in range(1, DEPTH + 1):
            if f"preferred_{place}" in row:  # not if there are fewer images than places
                shown.append((row[f"preferred_{place}"], f"{place}: {row[f'preferred_score_{place}']:.3f}"))
        for axes, (name, title) in zip(line.subplots(1, 1 + DEPTH, subplot_kw=BARE), shown, strict=False):
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(shorten(name, 24), fontsize=7, parse_math=False)
            images.draw(axes, name, pixels=160)
            if name == row.image:
                frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, ec="tab:green", lw=4)
                axes.add_patch(frame).set_clip_on(False)
    return figure


def captions_of_image(
    table: pd.DataFrame, image: str, keep: np.ndarray, decisions: ReviewDecisions | None = None
) -> pd.DataFrame:
    """All captions of an image, strongest first: best rank, and of equal ranks the highest score."""
    decided = decisions.read() if decisions else {}
    found = table.assign(kept=np.where(keep, "yes", "no"))[table["image"] == image].round({"score": 3})
    found["decided"] = [decided.get(caption_id, "") for caption_id in found.caption_id]
    found = found.sort_values(["rank", "score"], ascending=[True, False], kind="stable").set_index("caption_id")
    return found[["rank", "score", "kept", "decided", "caption"]]


def choices(rows: pd.DataFrame, decisions: ReviewDecisions) -> widgets.VBox:
    """A line a caption with three buttons, by rank, keep and drop, that show what is decided and write it at once."""
    decided = decisions.read()
    lines = []
    for _, row in rows.iterrows():
        caption_id = int(row.caption_id)
        buttons = widgets.ToggleButtons(
            options=[BY_RANK, KEEP, DROP],
            value=decided.get(caption_id, BY_RANK),
            style={"button_width": "5em"},
            layout={"flex": "0 0 auto"},
        )
        buttons.observe(partial(_write, decisions, caption_id), names="value")
        about = f"{caption_id}, rank {row['rank']:g}: {row.caption}"
        lines.append(widgets.HBox([buttons, widgets.HTML(html.escape(about))]))
    return widgets.VBox(lines)


def _write(decisions: ReviewDecisions, caption_id: int, change: dict[str, Any]) -> None:
    decisions.decide(caption_id, None if change["new"] == BY_RANK else change["new"])


def compare(table: pd.DataFrame, keep: np.ndarray) -> pd.DataFrame:
    """Before and after the cut: captions, images that have any, how well they rank. A column each for all, clean and
    suspect captions."""
    parts = {"all (before)": table, "clean (after)": table[keep], "suspect": table[~keep]}
    return pd.DataFrame({name: _describe(rows) for name, rows in parts.items()})


def _describe(rows: pd.DataFrame) -> dict[str, str]:
    images, ranks = rows.image.nunique(), rows["rank"]
    return {
        "captions": f"{len(rows):,}",
        "images with captions": f"{images:,}",
        "captions an image": f"{len(rows) / max(images, 1):.2f}",
        "median rank": f"{ranks.median():g}",
        "own image first": f"{(ranks == 1).mean():.1%}",
        "MRR": f"{(1 / ranks).mean():.3f}",
        "mean score": f"{rows.score.mean():.3f}",
    }
