"""What is retrieved, against brute force; which captions and images are asked; which captions are shown."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.common.files import InputError
from src.data.pairs import save_pairs
from src.data.splits import validation_images
from src.retrieval import retriever as retriever_module
from src.retrieval.choice import Choice
from src.retrieval.retriever import open_retriever
from src.training.model import load_translator, save_translator, translate
from src.training.runs import BEST_MRR, REFIT
from tests.filters.conftest import CPU
from tests.retrieval.conftest import RECIPE


def cosines(weights, pairs, images) -> np.ndarray:
    """(N, M of them) float64."""
    predicted = translate(load_translator(weights), torch.from_numpy(pairs.text_embeddings)).double().numpy()
    gallery = pairs.image_embeddings[images].astype(float)
    return (predicted / np.linalg.norm(predicted, axis=1, keepdims=True)) @ (
        gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ).T


@pytest.mark.parametrize("at_once", [7, 8192])
def test_it_finds_what_brute_force_finds_among_the_images_that_validated(pairs, weights, monkeypatch, at_once):
    monkeypatch.setattr(retriever_module, "CAPTIONS_AT_ONCE", at_once)
    retriever = open_retriever(weights, pairs, CPU)
    images = np.flatnonzero(validation_images(pairs.image_names, 0.4, RECIPE.seed))
    captions = np.flatnonzero(np.isin(pairs.image_of_caption, images))
    assert retriever.names_G.tolist() == pairs.image_names[images].tolist()
    assert retriever.captions.tolist() == captions.tolist()
    assert (len(images), retriever.seen) == (5, "never seen in training")
    retrieved = retriever.retrieve(captions, 3)
    scores = cosines(weights, pairs, images)[captions]
    np.testing.assert_array_equal(retrieved.best_nk, np.argsort(-scores, axis=1)[:, :3])
    np.testing.assert_allclose(retrieved.best_score_nk, -np.sort(-scores, axis=1)[:, :3], atol=1e-6)
    own = scores[np.arange(len(captions)), np.searchsorted(images, pairs.image_of_caption[captions])]
    np.testing.assert_allclose(retrieved.score_n, own, atol=1e-6)
    np.testing.assert_array_equal(retrieved.rank_n, 1 + (scores > own[:, None]).sum(axis=1))
    assert retrieved.worst_first.tolist() == sorted(
        range(len(captions)), key=lambda query: (-retrieved.rank_n[query], retrieved.score_n[query])
    )


def test_all_images_are_asked_where_that_is_wanted_and_ties_share_their_ranks(pairs, weights):
    retriever = open_retriever(weights, pairs, CPU, all_images=True)
    captions = np.arange(60)
    retrieved = retriever.retrieve(captions, 50)
    assert (len(retriever.captions), len(retriever.names_G), retrieved.best_nk.shape) == (60, 13, (60, 13))
    halves = retrieved.rank_n % 1 == 0.5
    assert halves.tolist() == np.isin(pairs.image_of_caption, (2, 8)).tolist(), "whose embeddings are equal"


def test_what_a_translator_was_trained_on_is_known_by_its_record_or_said_to_be_unknown(pairs, weights, tmp_path):
    alone = tmp_path / "alone.safetensors"
    shutil.copy(weights, alone)
    retriever = open_retriever(alone, pairs, CPU)
    assert (len(retriever.captions), retriever.seen) == (60, "all: what it was trained on is not recorded")
    refit = weights.with_name(REFIT)
    shutil.copy(weights, refit)
    with pytest.raises(InputError, match=r"refit.*trained on all images .*; --all-images shows them"):
        open_retriever(refit, pairs, CPU)
    refit.unlink()
    save_pairs(pairs.select(np.arange(59)), tmp_path / "filtered.npz")
    filtered = replace(pairs.select(np.arange(59)), source=tmp_path / "filtered.npz")
    known = open_retriever(weights, filtered, CPU)
    assert len(known.names_G) == 5, "by the names in the file that it was trained on"
    moved = tmp_path / "moved"
    shutil.copytree(weights.parent, moved)
    record = (moved / "run.json").read_text()
    (moved / "run.json").write_text(record.replace("pairs.npz", "gone.npz"))
    with pytest.raises(InputError, match=r"gone or has changed.*; --all-images shows all"):
        open_retriever(moved / BEST_MRR, filtered, CPU)


def test_another_gallery_is_ranked_and_the_right_image_is_known_by_its_name(pairs, weights, tmp_path):
    rng = np.random.default_rng(1)
    names = np.array(["other", "003", "another"], object)
    gallery = {"images/names": names.astype(str), "images/embeddings": rng.standard_normal((3, 9)).astype(np.float32)}
    np.savez(tmp_path / "gallery.npz", **gallery)
    retriever = open_retriever(weights, pairs, CPU, all_images=True, gallery_npz=tmp_path / "gallery.npz")
    retrieved = retriever.retrieve(np.arange(60), 2)
    of_3 = pairs.image_of_caption == 3
    assert np.isfinite(retrieved.rank_n).tolist() == of_3.tolist() == np.isfinite(retrieved.score_n).tolist()
    assert set(retrieved.own_n[of_3]) == {1}
    assert set(retrieved.worst_first[: of_3.sum()]) == set(np.flatnonzero(of_3)), "those without a rank are last"
    chosen = Choice(worst=50).choose(retriever, rng)
    assert set(chosen["the worst"]) == set(np.flatnonzero(of_3))
    for key, value, fragment in (
        ("images/embeddings", np.ones((3, 8), np.float32), "8 wide; the translator's predictions 9"),
        ("images/names", names[:2].astype(str), "expected"),
    ):
        np.savez(tmp_path / "bad.npz", **gallery | {key: value})
        with pytest.raises(InputError, match=rf"bad\.npz.*{fragment}"):
            open_retriever(weights, pairs, CPU, gallery_npz=tmp_path / "bad.npz")
    np.savez(tmp_path / "strange.npz", **gallery | {"images/names": np.array(["a", "b", "c"])})
    strange = open_retriever(weights, pairs, CPU, gallery_npz=tmp_path / "strange.npz")
    assert list(Choice().choose(strange, rng)) == ["random ones"], "no rank, no worst"
    with pytest.raises(InputError, match="--worst 3: no caption has a rank"):
        Choice(worst=3).choose(strange, rng)


def test_captions_are_chosen_by_id_by_what_they_contain_at_random_and_by_rank(pairs, weights):
    retriever, rng = open_retriever(weights, pairs, CPU), np.random.default_rng(0)
    ids = pairs.caption_ids[retriever.captions]
    assert Choice(caption_ids=[ids[3], ids[0], ids[3]]).choose(retriever, rng)["by id"].tolist() == [
        retriever.captions[3],
        retriever.captions[0],
    ]
    chosen = Choice().choose(retriever, rng)
    assert [*map(len, chosen.values())] == [4, 4]
    assert len(np.unique(np.concatenate([*chosen.values()]))) == 8
    ranks = retriever.retrieve(retriever.captions, 1)
    assert chosen["the worst"].tolist() == retriever.captions[ranks.worst_first[:4]].tolist()

    holding = {row for row in retriever.captions if "quoted" in pairs.caption_texts[row]}
    assert 0 < len(holding) < 8
    chosen = Choice(containing="QUOTED").choose(retriever, rng)
    assert set(np.concatenate([*chosen.values()])) == holding, "few: all of them"
    assert [*Choice(containing="quoted", random=1).choose(retriever, rng)] == ["random ones of those with 'quoted'"]


def test_captions_that_are_not_there_or_were_trained_on_are_refused(pairs, weights):
    retriever, rng = open_retriever(weights, pairs, CPU), np.random.default_rng(0)
    trained_on = np.setdiff1d(np.arange(60), retriever.captions)[0]
    for choice, fragment in (
        (Choice(caption_ids=[pairs.caption_ids[trained_on]]), "trained on; --all-images shows it"),
        (Choice(caption_ids=[10**9]), "has no caption of this id"),
        (Choice(caption_ids=[-1]), "has no caption of this id"),
        (Choice(containing="nowhere"), "in none of the"),
    ):
        with pytest.raises(InputError, match=fragment):
            choice.choose(retriever, rng)


def test_predictions_that_are_not_finite_are_refused(pairs, weights, tmp_path):
    translator = load_translator(weights)
    translator.head.bias.data[0] = torch.nan
    save_translator(translator.state_dict(), translator.dims, tmp_path / "broken.safetensors")
    retriever = open_retriever(tmp_path / "broken.safetensors", pairs, CPU)
    with pytest.raises(InputError, match=r"broken\.safetensors: .*NaN"):
        retriever.retrieve(retriever.captions, 3)
