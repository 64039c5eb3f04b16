"""The measurement of wrong pairs makes as many as it says, and trains on what it names."""

import numpy as np
import pytest

from src.common.files import InputError
from src.data.pairs import save_pairs
from tests.benchmarks import noise
from tests.training.conftest import tiny_pairs


def test_swapped_captions_have_the_image_of_another():
    pairs = tiny_pairs(1, 60)
    noisy, wrong = noise.swap_captions(pairs, 0.25)
    assert 50 < wrong.sum() <= 60  # of 240; few draw their own image
    np.testing.assert_array_equal(wrong, noisy.image_of_caption != pairs.image_of_caption)
    assert sorted(noisy.image_of_caption) == sorted(pairs.image_of_caption)
    with pytest.raises(InputError, match="--swap 2"):
        noise.swap_captions(pairs, 2)


@pytest.mark.slow
def test_every_row_is_measured_once_on_right_captions(tmp_path, monkeypatch, capsys):
    save_pairs(tiny_pairs(1, 60), tmp_path / "pairs.npz")
    small = ["--images", "40", "--swap", "0.2", "--top-k", "5", "--seeds", "0", "--device", "cpu"]
    command = ["--train-npz", tmp_path / "pairs.npz", "--dir", tmp_path / "noise", *small]
    printed = []
    for _ in range(2):
        noise.main([str(word) for word in command])
        printed.append(capsys.readouterr())
    assert "epoch 1 of" in printed[0].err
    assert "epoch 1 of" not in printed[1].err
    assert printed[0].out == printed[1].out
    lines = [line for line in printed[0].out.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [line.split("|")[1].split("(")[0].strip() for line in lines]
    kinds = ["as they are", "ranks up to 5", "soft weights, k = 5", "the right ones alone"]
    assert rows == ["training pairs", *kinds]
