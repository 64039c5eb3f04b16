"""Ranks of captions: equal to a plain loop's, chunked or not, and kept in a table that reads back the same."""

import numpy as np
import pandas as pd
import pytest
import torch

from src.common.files import InputError
from src.data.pairs import Pairs
from src.filters import ranks
from src.filters.ranks import find_ranks, rank_captions, save_ranks
from src.training.inputs import OnDevice
from src.training.metrics import NonFiniteError
from src.training.model import Translator
from tests.filters.conftest import CPU, HOSTILE, make_pairs

IDENTITY = {"input_fingerprint": "0123", "weights_sha256": "4567"}


def rank(translator: Translator, pairs: Pairs, captions=None) -> pd.DataFrame:
    captions = np.arange(len(pairs)) if captions is None else np.array(captions)
    return rank_captions(translator, OnDevice(pairs, CPU), captions)


def plain_loop(translator: Translator, pairs: Pairs, caption: int) -> tuple[float, float, list[int]]:
    """Rank, score and the five best images of one caption, one image at a time in float64."""
    with torch.no_grad():
        prediction = translator(torch.from_numpy(pairs.text_embeddings[[caption]]))[0].double().numpy()
    cosines = [
        prediction @ image / np.linalg.norm(prediction) / np.linalg.norm(image)
        for image in pairs.image_embeddings.astype(np.float64)
    ]
    own = pairs.image_of_caption[caption]
    others = [cosine for image, cosine in enumerate(cosines) if image != own]
    rank = 1 + sum(cosine > cosines[own] for cosine in others) + sum(cosine == cosines[own] for cosine in others) / 2
    best = sorted(range(len(cosines)), key=lambda image: (-cosines[image], image))[:5]
    return rank, cosines[own], best


@pytest.mark.parametrize("at_once", [4, 8192])
def test_ranks_scores_and_preferred_images_are_those_of_a_plain_loop(translator, monkeypatch, capsys, at_once):
    monkeypatch.setattr(ranks, "CAPTIONS_AT_ONCE", at_once)
    pairs = make_pairs(captions=30)
    table = rank(translator, pairs)
    assert len(table) == 30
    assert "30/30" in capsys.readouterr().err
    tied = 0
    for caption, row in table.iterrows():
        own_rank, score, best = plain_loop(translator, pairs, caption)
        assert row["rank"] == own_rank
        assert row.score == pytest.approx(score, abs=1e-6)
        assert [row[f"preferred_{place}"] for place in range(1, 6)] == list(pairs.image_names[best])
        assert row.image == pairs.image_names[pairs.image_of_caption[caption]]
        tied += own_rank % 1 == 0.5
    assert tied == (np.isin(pairs.image_of_caption, (2, 8))).sum() > 0, "images 2 and 8 share every place"


def test_a_part_of_the_captions_is_ranked_among_all_images(translator):
    pairs = make_pairs()
    some = rank(translator, pairs, [7, 2])
    assert some.index.tolist() == [7, 2]
    pd.testing.assert_frame_equal(some, rank(translator, pairs).loc[[7, 2]])


def test_few_images_have_few_preferred_ones(translator):
    table = rank(translator, make_pairs(images=3))
    assert [column for column in table if column.startswith("preferred_score")] == [
        f"preferred_score_{place}" for place in (1, 2, 3)
    ]
    assert table["rank"].max() <= 3


def test_predictions_without_a_rank_are_an_error(translator):
    with torch.no_grad():
        translator.head.bias[0] = torch.inf
    with pytest.raises(NonFiniteError):
        rank(translator, make_pairs())


@pytest.mark.parametrize("images", [13, 3])
def test_the_table_reads_back_the_same_whatever_captions_say(translator, tmp_path, images):
    pairs = make_pairs(images=images)
    table = rank(translator, pairs)
    save_ranks(tmp_path / "ranks.csv", table, IDENTITY | {"weights": "here"})
    found, made = find_ranks(tmp_path / "ranks.csv", pairs, IDENTITY)
    pd.testing.assert_frame_equal(found, table, check_exact=True, check_dtype=False, check_index_type=False)
    assert found.caption.tolist() == HOSTILE
    assert found.score.dtype == np.float32
    assert made == IDENTITY | {"weights": "here"}


def test_ranks_of_other_pairs_or_by_another_model_are_not_found(translator, tmp_path):
    pairs, path = make_pairs(), tmp_path / "ranks.csv"
    assert find_ranks(path, pairs, IDENTITY) is None
    save_ranks(path, rank(translator, pairs), IDENTITY)
    for other in ({"input_fingerprint": "4567"}, {"weights_sha256": "0"}, {"folds": 5}):
        assert find_ranks(path, pairs, IDENTITY | other) is None
    path.with_suffix(".json").unlink()
    assert find_ranks(path, pairs, IDENTITY) is None


def test_a_table_that_was_not_finished_is_not_found(translator, tmp_path, monkeypatch):
    pairs, path = make_pairs(), tmp_path / "ranks.csv"
    table = rank(translator, pairs)
    save_ranks(path, table, {"input_fingerprint": "an older one"})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_ranks(path, table, IDENTITY)
    assert path.read_bytes() == before
    assert find_ranks(path, pairs, IDENTITY) is None
    assert find_ranks(path, pairs, {"input_fingerprint": "an older one"}) is None


def test_damaged_tables_are_named(translator, tmp_path):
    pairs, path = make_pairs(), tmp_path / "ranks.csv"
    table = rank(translator, pairs)
    save_ranks(path, table, IDENTITY)
    whole = path.read_text()
    lines = whole.split("\n")
    for damaged in (
        "",
        "a,b\n1,2\n",
        "\n".join(lines[:4]) + "\n",  # some captions are gone
        whole.replace("score", "scores", 1),
        whole.replace("preferred_3", "preferred", 1),
        whole.replace("\n27,", "\n" + "9" * 30 + ",", 1),
        whole.replace('"003"', '"103"'),  # an image that there is not
        whole.replace(f",{table['rank'].iloc[0]},", ",0.0,", 1),
        "\n".join([lines[0], lines[1].replace('"NA","', '"NA","",,"', 1), *lines[2:]]),
    ):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"ranks\.csv: not .*remove it"):
            find_ranks(path, pairs, IDENTITY)
