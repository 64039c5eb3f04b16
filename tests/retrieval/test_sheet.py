"""Sheets and lines: what stands where, whatever captions and names are."""

import numpy as np
import pytest
from PIL import Image

from src.common.cli import SCREEN
from src.common.files import InputError
from src.retrieval.retriever import open_retriever
from src.retrieval.sheet import (
    GAP,
    HEADING,
    PICTURE,
    SHEET_DPI,
    TEXT,
    TITLE,
    SheetRow,
    Thumbnail,
    caption_rows,
    check_room,
    table_lines,
    write_sheet,
)
from tests.filters.conftest import CPU

GREEN, RED = (0, 158, 115), (255, 0, 0)  # of the frame: #009E73


def test_the_right_image_is_marked_where_it_stands_or_follows_with_its_rank(pairs, weights):
    retriever = open_retriever(weights, pairs, CPU)
    captions = retriever.captions
    retrieved = retriever.retrieve(captions, 2)
    for query, row in enumerate(caption_rows(retriever, captions, retrieved, range(len(captions)))):
        own = pairs.image_names[pairs.image_of_caption[captions[query]]]
        assert [each.image for each in row.thumbnails if each.right] == [own]
        assert row.texts[0].startswith(f"{pairs.caption_ids[captions[query]]}: ")
        rank = retrieved.rank_n[query]
        assert len(row.thumbnails) == (2 if rank <= 2 else 3)
        place = f"{rank:g}" if rank <= 2 else f"rank {rank:g}"
        assert next(each.title for each in row.thumbnails if each.right).startswith(f"{place}: ")


def test_lines_fit_a_terminal_and_do_not_steer_it():
    names = ["n" * 200, "犬.jpg", "\x1b[2Jname\n.jpg"]
    row = SheetRow(["7: " + "word \x1b[31m" * 90], [Thumbnail(name, "1: -0.123", name[0] == "n") for name in names])
    lines = [*table_lines(row)]
    assert len(lines) == 5
    assert max(map(len, lines)) <= SCREEN
    assert all(line.isprintable() for line in lines)
    assert [line.endswith("  <- the right image") for line in lines] == [False, False, True, False, False]


def test_a_sheet_has_a_row_a_caption_and_a_green_frame_around_the_right_image(tmp_path, capfd):
    Image.new("RGB", (300, 300), RED).save(tmp_path / "red.png")
    rows = [
        SheetRow(
            ["1: $x$ \0 犬 half \ud83d of an emoji"], [Thumbnail("red.png", "1: 0.5"), Thumbnail("gone", "2: 0.4")]
        ),
        SheetRow(["2: " + "W" * 900], [Thumbnail("../outside", "1: 0.5"), Thumbnail("red.png", "rank 9: 0.1", True)]),
    ]
    write_sheet(tmp_path / "sheet.png", {"two": rows}, tmp_path)
    pixels = np.array(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    inner = (slice(None), slice(round((GAP + TEXT) * SHEET_DPI)))
    is_color = lambda color: (abs(pixels - color) < 12).all(axis=2)  # noqa: E731
    row_height = (pixels.shape[0] / SHEET_DPI - HEADING - GAP) / 2

    def square(row: int, place: int) -> tuple[slice, slice]:
        top, left = HEADING + row * row_height + TITLE, GAP + TEXT + place * (PICTURE + GAP)
        return tuple(slice(round(start * SHEET_DPI), round((start + PICTURE) * SHEET_DPI)) for start in (top, left))

    assert is_color(RED)[square(0, 0)].mean() > 0.97
    assert is_color(RED)[square(1, 1)].mean() > 0.9
    assert not is_color(RED)[square(0, 1)].any()
    top_left, bottom = square(1, 1), square(1, 1)[0].stop - 1
    assert is_color(GREEN)[top_left][0].all(), "the frame's upper edge"
    assert is_color(GREEN)[bottom, top_left[1]].all()
    assert not is_color(GREEN)[square(0, 0)].any()
    dark = (pixels < 128).all(axis=2)
    text_ends = np.flatnonzero(dark[inner].any(axis=0)).max()
    assert text_ends < (GAP + TEXT) * SHEET_DPI - 4, "texts keep clear of the pictures"
    assert capfd.readouterr() == ("", "")


def test_what_is_too_much_for_a_sheet_is_refused():
    check_room(8, 100)
    check_room(166, 5)
    for rows, top_k in ((1, 101), (167, 5), (10**6, 1)):
        with pytest.raises(InputError, match="a sheet has room for"):
            check_room(rows, top_k)
