"""The measurement of large data multiplies pairs as it says, and sets mapped pairs against pairs in memory."""

import numpy as np
import pytest

from src.data.pairs import open_pairs, save_pairs
from tests.benchmarks import large
from tests.benchmarks.measuring import in_own_process
from tests.training.conftest import tiny_pairs


def test_copies_are_the_pairs_with_noise(tmp_path):
    pairs = tiny_pairs(1, 60)
    large.write_copies(pairs, 3, tmp_path / "3x.npz")
    copies = open_pairs(tmp_path / "3x.npz", cache=True)
    assert copies.image_of_caption.tolist() == [
        60 * copy + image for copy in range(3) for image in pairs.image_of_caption
    ]
    assert copies.caption_texts.tolist() == 3 * pairs.caption_texts.tolist()
    assert copies.image_names[[0, 60, 179]].tolist() == ["0_0.jpg", "1_0.jpg", "2_59.jpg"]
    for ours, theirs in (
        (copies.text_embeddings, pairs.text_embeddings),
        (copies.image_embeddings, pairs.image_embeddings),
    ):
        noise = (ours - np.tile(theirs, (3, 1))).reshape(3, -1)
        assert noise.std(axis=1) == pytest.approx(3 * [large.NOISE * theirs.std()], rel=0.1)
        assert np.abs(np.corrcoef(noise)[np.triu_indices(3, 1)]).max() < 0.2


def test_own_memory_is_what_no_file_backs(tmp_path):
    zeros = np.zeros(20_000_000)
    np.save(tmp_path / "zeros.npy", zeros)
    load = "numpy:load", str(tmp_path / "zeros.npy")
    held, mapped = (in_own_process(*load, mmap_mode=mode) for mode in (None, "r"))
    assert held.own_peak - mapped.own_peak == pytest.approx(zeros.nbytes, rel=0.1)
    assert held.own_peak < held.peak


@pytest.mark.slow
def test_the_command_compares(tmp_path, capsys):
    save_pairs(tiny_pairs(1, 60), tmp_path / "train.npz")
    words = ["--train-npz", tmp_path / "train.npz", "--times", 3, "--folder", tmp_path / "large", "--steps", 2]
    large.main([str(word) for word in [*words, "--repeats", 1, "--device", "cpu"]])
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == large.HEADER
    assert [row[0] for row in rows[2:]] == ["open it", "open it again", "train, mapped", "train, in memory"]
    assert all(0.01 < float(row[1].split()[0]) < 5 for row in rows[2:])
    assert "720 captions, 180 images" in printed
    ratio = float(printed.split("mapped ÷ in memory: ")[1].split()[0])
    speeds = [float(row[4].replace(",", "")) for row in rows[4:]]
    assert ratio == pytest.approx(speeds[0] / speeds[1], rel=0.05)
