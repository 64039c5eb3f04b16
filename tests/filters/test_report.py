"""The picture of a filter's work, whatever is written in captions and names."""

import numpy as np
import pytest
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from src.data.keep_lists import KeepList
from src.filters.pictures import ImageFolder
from src.filters.report import draw_histogram, write_report
from tests.filters.conftest import make_pairs


def test_a_report_shows_images_by_any_spelling_and_draws_any_caption(tmp_path, monkeypatch, capfd):
    pairs = make_pairs(captions=12, images=12)
    pairs.caption_texts[:3] = "half \ud83d of an emoji", "\0\a\x1b", "犬 😀 שלום"
    pairs.image_names[:4] = "É.JPG", "folder\\b.jpg", "../outside.jpg", "n" * 300
    (tmp_path / "Images/folder").mkdir(parents=True)
    for name in ("outside.jpg", "Images/é.jpg", "Images/folder/b.jpg"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    drawn, read = [], ImageFolder.read
    monkeypatch.setattr(ImageFolder, "read", lambda *a: (read(*a), drawn.append(a[1]))[0])
    provenance = {"higher_is_better": True}
    keep_list = KeepList(
        caption_ids=pairs.caption_ids, scores=np.arange(12.0), keep=np.arange(12) > 2, provenance=provenance
    )
    write_report(tmp_path / "report.png", pairs, keep_list, tmp_path / "Images", name="score", cut=2.5)
    assert sorted(set(drawn)) == ["folder\\b.jpg", "É.JPG"]
    with Image.open(tmp_path / "report.png") as report:
        assert report.width > 1000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_report_shows_the_worst_and_both_sides_of_the_cut(tmp_path, monkeypatch, higher_is_better):
    pairs = make_pairs(captions=100, images=100)
    order = np.random.default_rng(0).permutation(100)  # the worst first
    scores = np.empty(100)
    scores[order] = np.arange(100) if higher_is_better else -np.arange(100)
    keep = np.ones(100, bool)
    keep[order[:30]] = keep[order[5]] = False
    keep[order[20]] = True  # as a review may decide
    drawn, titles, suptitle = [], [], SubFigure.suptitle
    monkeypatch.setattr(ImageFolder, "draw", lambda self, axes, name, pixels: drawn.append(name))
    monkeypatch.setattr(SubFigure, "suptitle", lambda *args, **how: (titles.append(args[1]), suptitle(*args, **how)))
    provenance = {"higher_is_better": higher_is_better}
    keep_list = KeepList(caption_ids=pairs.caption_ids, scores=scores, keep=keep, provenance=provenance)
    write_report(tmp_path / "report.png", pairs, keep_list, tmp_path, name="score", cut=None)
    assert titles == ["the worst by score", "dropped, nearest to the cut by score", "kept, nearest to the cut by score"]
    expected = [*range(16), *(29 - i for i in range(8)), 20, *range(30, 37)]
    assert drawn == pairs.image_names[pairs.image_of_caption[order[expected]]].tolist()


@pytest.mark.parametrize("text", ["word " * 60, "w" * 200])
def test_no_caption_however_long_reaches_into_another_picture(tmp_path, monkeypatch, text):
    pairs = make_pairs(captions=40, images=40)
    pairs.caption_texts[:] = text
    boxes, savefig = [], Figure.savefig

    def measure(figure, *args, **how):
        savefig(figure, *args, **how)
        figure.set_dpi(how["dpi"])
        figure.draw_without_rendering()
        for axes in (axes for part in figure.subfigs[1:] for axes in part.axes):
            boxes.append((axes.title.get_window_extent(), axes.xaxis.label.get_window_extent()))

    monkeypatch.setattr(Figure, "savefig", measure)
    keep, provenance = np.arange(40) > 19, {"higher_is_better": True}
    keep_list = KeepList(caption_ids=pairs.caption_ids, scores=np.arange(40.0), keep=keep, provenance=provenance)
    write_report(tmp_path / "report.png", pairs, keep_list, tmp_path, name="score", cut=19.5)
    titles, captions = zip(*boxes, strict=True)
    assert len(captions) == 32
    assert min(box.height for box in captions) > 6 * min(box.height for box in titles)
    assert min(box.y0 for box in captions) >= 0
    assert not any(caption.overlaps(title) for caption in captions for title in titles)


def test_counts_are_logarithmic_and_the_title_tells_the_share():
    axes = Figure().subplots()
    scores = np.r_[np.zeros(997), np.ones(3)]
    draw_histogram(axes, scores, scores < 1, "score", 0.5, log=False)
    assert axes.get_yscale() == "log"
    assert axes.get_title() == "1,000 scored captions, of which 0.3% are dropped"
    low, _ = axes.get_ylim()
    assert [patch.get_height() > low for patch in axes.patches].count(True) == 2
    draw_histogram(Figure().subplots(), scores[:0], scores[:0] < 1, "score", None, log=False)
