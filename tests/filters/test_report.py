"""The picture of a filter's work, whatever is written in captions and names."""

import numpy as np
from PIL import Image

from src.data.keep_lists import KeepList
from src.filters.pictures import ImageFolder
from src.filters.report import write_report
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
