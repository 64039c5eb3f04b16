"""Contact sheets: a row is a text and pictures of images; the right ones are framed. And the same rows as lines."""

import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.common.cli import SCREEN
from src.common.figures import GREEN, save_figure
from src.common.files import InputError
from src.filters.pictures import BARE, ImageFolder
from src.retrieval.retriever import Retrieved, Retriever

TEXT, PICTURE, TITLE, NAME, GAP = 2.7, 1.5, 0.25, 0.15, 0.12  # widths and heights, inches
HEADING, TEXT_LINES = 0.5, 11  # inches; lines of text that fit beside a picture
SHEET_DPI = 100
PICTURES, ACROSS = 1000, 100  # at most, in all and in a row: larger files are slow to draw and to open


@dataclass(frozen=True)
class Thumbnail:
    """An image by its name, and what stands above it; the `right` one is framed."""

    image: str
    title: str
    right: bool = False


@dataclass(frozen=True)
class SheetRow:
    """Texts, a paragraph each, and pictures."""

    texts: Sequence[str]
    thumbnails: Sequence[Thumbnail]


def sheet_row(retriever: Retriever, retrieved: Retrieved, query: int, text: str) -> SheetRow:
    """What a query finds: the first k images and, if it is none of them, the right one at the end."""
    names, own = retriever.names_G, retrieved.own_n[query]
    best, scores = retrieved.best_nk[query], retrieved.best_score_nk[query]
    thumbnails = [
        Thumbnail(names[image], f"{place}: {score:.3f}", bool(image == own))
        for place, (image, score) in enumerate(zip(best, scores, strict=True), 1)
    ]
    if own >= 0 and own not in best:
        title = f"rank {retrieved.rank_n[query]:g}: {retrieved.score_n[query]:.3f}"
        thumbnails.append(Thumbnail(names[own], title, True))
    return SheetRow([text], thumbnails)


def caption_rows(
    retriever: Retriever, captions: np.ndarray, retrieved: Retrieved, queries: Iterable[int]
) -> list[SheetRow]:
    """What some of the captions (n,) find, their ids before their texts."""
    pairs = retriever.pairs
    texts = {
        query: f"{pairs.caption_ids[captions[query]]}: {pairs.caption_texts[captions[query]]}" for query in queries
    }
    return [sheet_row(retriever, retrieved, query, text) for query, text in texts.items()]


def table_lines(row: SheetRow) -> Iterator[str]:
    """The row as lines that fit a terminal: its text, then place, score, name and whether it is the right image."""
    for text in row.texts:
        yield from textwrap.wrap(printable(text), SCREEN, max_lines=2, placeholder=" …", subsequent_indent="  ")
    for each in row.thumbnails:
        place, _, score = each.title.rpartition(": ")
        mark = "  <- the right image" if each.right else ""
        yield f"{place.removeprefix('rank '):>8}  {score:>6}  {abbreviated(each.image, 60)}{mark}"


def check_room(rows: int, top_k: int) -> None:
    """Raises InputError if so many rows of pictures are too many for a sheet."""
    if top_k > ACROSS or rows * (top_k + 1) > PICTURES:
        room = f"a sheet has room for {ACROSS} pictures in a row and {PICTURES:,} in all"
        raise InputError(f"{rows} rows with --top-k {top_k}: {room}")


def write_sheet(path: Path, sections: Mapping[str, Sequence[SheetRow]], images_root: Path) -> None:
    """Write a PNG of rows under headings; an image that cannot be read leaves its place empty, its name stands."""
    images, rows = ImageFolder(images_root), [row for section in sections.values() for row in section]
    across = max((len(row.thumbnails) for row in rows), default=1)
    row_height = TITLE + PICTURE + NAME + 2 * GAP
    width = GAP + TEXT + across * (PICTURE + GAP)
    height = len(sections) * HEADING + len(rows) * row_height + GAP
    figure, top = Figure(figsize=(width, height)), 0.0

    def write(text: str, left: float, down: float, size: float, **looks: Any) -> None:
        # Letters of one width, so that what was wrapped fits. A caption is anyone's: a dollar sign is no formula.
        looks = {"family": "monospace", "va": "center", "parse_math": False, "fontsize": size, **looks}
        figure.text(left / width, 1 - down / height, text, **looks)

    for heading, section in sections.items():
        write(heading, GAP, top + HEADING / 2, 12, family="sans-serif", weight="bold")
        top += HEADING
        for row in section:
            lines = TEXT_LINES // len(row.texts)
            paragraphs = (textwrap.fill(printable(text), 36, max_lines=lines, placeholder=" …") for text in row.texts)
            write("\n".join(paragraphs), GAP, top + TITLE + PICTURE / 2, 8)
            for place, each in enumerate(row.thumbnails):
                left = GAP + TEXT + place * (PICTURE + GAP)
                middle, below = left + PICTURE / 2, top + TITLE + PICTURE
                color = {"color": GREEN, "weight": "bold"} if each.right else {}
                write(each.title, middle, top + TITLE / 2, 9, family="sans-serif", ha="center", **color)
                write(abbreviated(each.image, 28), middle, below + NAME / 2 + 0.02, 6, ha="center")
                where = left / width, 1 - below / height, PICTURE / width, PICTURE / height
                axes = figure.add_axes(where, **BARE)
                images.draw(axes, each.image, pixels=round(PICTURE * SHEET_DPI))
                if each.right or not axes.images:
                    looks: dict[str, Any] = {"ec": GREEN, "lw": 4} if each.right else {"ec": "lightgray", "lw": 1}
                    frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, **looks)
                    axes.add_patch(frame).set_clip_on(False)
            top += row_height
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of letters that the font lacks
        save_figure(figure, path, dpi=SHEET_DPI)


def printable(text: str) -> str:
    """Without what would steer a terminal or what no font has: a caption is anyone's."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def abbreviated(name: str, width: int) -> str:
    """A file's name with both of its ends, in so many characters at most."""
    name = printable(name)
    return name if len(name) <= width else f"{name[: width - 11]}…{name[-10:]}"
