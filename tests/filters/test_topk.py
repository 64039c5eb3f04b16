"""The top-k filter as a library, with values alone: what it ranks by, what it keeps, what it writes."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.common.files import InputError
from src.data.keep_lists import apply_keep_list, open_keep_list
from src.data.pairs import fingerprint, open_pairs, save_pairs
from src.filters.decisions import ReviewDecisions
from src.filters.topk import TopK, TopKFilter, as_ranked
from src.training.model import load_translator, save_translator
from src.training.recipe import AUTO, BASELINE, one_mlp, sized
from src.training.runs import BEST_MRR, DataRecord, Results, RunRecord, State, best_weights, write_run
from tests.filters.conftest import MACHINE, make_pairs

FIELDS = ("caption_ids", "caption_texts", "text_embeddings", "image_of_caption", "image_names", "image_embeddings")


@pytest.fixture
def settings(translator, tmp_path) -> TopKFilter:
    """Sixty pairs of thirteen images, ranked by a translator that has learnt nothing; no images to draw."""
    pairs = make_pairs(captions=60)
    save_pairs(replace(pairs, caption_texts=pairs.caption_ids.astype(str)), tmp_path / "pairs.npz")
    save_translator(translator.state_dict(), translator.dims, tmp_path / "run/translator.safetensors")
    return TopKFilter(
        input_npz=tmp_path / "pairs.npz",
        images_root=tmp_path / "Images",
        output_dir=tmp_path / "out",
        models_dir=tmp_path / "models",
        top_k=8,
        weights=tmp_path / "run/translator.safetensors",
    )


def ranked(settings: TopKFilter) -> TopK:
    topk = TopK(settings, MACHINE)
    topk.rank()
    return topk


def says_there_already(topk: TopK) -> bool:
    return "of these pairs by the same model: there already" in topk.describe()["ranks"]


def test_it_splits_the_captions_by_the_rank_of_their_image(settings):
    topk = ranked(settings)
    title, summary = topk.export({"by": "a test"})
    raw, out = open_pairs(settings.input_npz), settings.output_dir
    ranks = topk.table["rank"].to_numpy()
    keep = ranks <= 8
    assert {8.0, 8.5} <= set(ranks), "the worst rank that is kept, the best that is not"
    for part, chosen in (("clean", keep), ("suspect", ~keep)):
        written, expected = open_pairs(out / f"pairs_{part}_top8.npz"), raw.select(chosen)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(written, name), getattr(expected, name))
    emptied = set(raw.image_of_caption) - set(raw.image_of_caption[keep])
    assert title == f"kept {keep.sum()} captions"
    assert summary["dropped"] == f"{(~keep).sum()} of 60 captions; {len(emptied)} images lose all of theirs"
    assert summary["ranks"].endswith(f"median {np.median(ranks):g} of 13")
    assert str(summary["report"]).endswith("is no folder)"), "without images the captions stand alone"
    with Image.open(out / "pairs_clean_top8.png") as report:
        assert report.width > 1000


def test_the_keep_list_says_what_was_done(settings):
    topk = ranked(settings)
    topk.export({"by": "a test"})
    raw, path = open_pairs(settings.input_npz), settings.output_dir / "pairs_clean_top8.keep.npz"
    keep_list = open_keep_list(path)
    np.testing.assert_array_equal(keep_list.scores, topk.table["rank"])
    applied = apply_keep_list(raw, path)
    np.testing.assert_array_equal(applied.caption_ids, raw.caption_ids[keep_list.keep])
    origin = keep_list.provenance
    assert (origin["filter"], origin["higher_is_better"], origin["arguments"]) == ("topk", False, {"by": "a test"})
    assert (origin["cut"]["top_k"], origin["cut"]["dropped"]) == (8, (~keep_list.keep).sum())
    assert origin["ranks"] == json.loads((settings.output_dir / "pairs_ranks.json").read_text())
    assert origin["ranks"]["input_fingerprint"] == fingerprint(settings.input_npz)
    assert origin["ranks"]["weights"] == str(settings.weights)
    assert {"weights_sha256", "command", "versions"} <= origin["ranks"].keys()


def test_ranks_that_are_there_are_used_again_but_only_of_the_same_pairs_and_model(settings, tmp_path):
    topk = TopK(settings, MACHINE)
    assert not says_there_already(topk)
    table = topk.rank()
    topk.export({})
    paths = [settings.output_dir / f"pairs_{part}_top8.npz" for part in ("clean", "suspect")]
    written = [path.read_bytes() for path in paths]
    stamp = topk.ranks_csv.stat().st_mtime_ns

    again = TopK(settings, MACHINE)
    assert says_there_already(again)
    pd.testing.assert_frame_equal(again.rank(), table, check_exact=True, check_dtype=False, check_index_type=False)
    again.export({})
    assert topk.ranks_csv.stat().st_mtime_ns == stamp
    assert [path.read_bytes() for path in paths] == written
    assert ranked(replace(settings, top_k=3)).keep().sum() < topk.keep().sum(), "another cut of the same ranks"
    assert topk.ranks_csv.stat().st_mtime_ns == stamp

    translator = load_translator(settings.weights)
    translator.head.bias.data += 1
    save_translator(translator.state_dict(), translator.dims, tmp_path / "other.safetensors")
    assert not says_there_already(TopK(replace(settings, weights=tmp_path / "other.safetensors"), MACHINE))
    save_pairs(make_pairs(captions=59), settings.input_npz)
    assert not says_there_already(TopK(settings, MACHINE))


@pytest.mark.parametrize(
    ("trained_on", "said"), [(None, "pairs that are not recorded"), ("0123", "other pairs"), ("", "flatter them")]
)
def test_it_is_said_whether_the_translator_has_seen_the_pairs(settings, trained_on, said):
    if trained_on is not None:
        data = DataRecord(train_fingerprint=trained_on or fingerprint(settings.input_npz))
        record = RunRecord(run_name="run", status=State.FINISHED, recipe=BASELINE, data=data)
        write_run(settings.weights.parent, record)
    assert said in TopK(settings, MACHINE).describe()["it was trained on"]


def test_without_weights_it_is_the_best_finished_run_on_these_pairs(settings):
    pairs, models = fingerprint(settings.input_npz), settings.models_dir
    with pytest.raises(InputError, match="holds no finished run on the pairs of "):
        best_weights(models, settings.input_npz)
    for name, mrr, state, data in (
        ("fair", 0.5, State.FINISHED, DataRecord(train_fingerprint=pairs)),
        ("search/trial_3", 0.6, State.FINISHED, DataRecord(train_fingerprint=pairs)),
        ("others", 0.9, State.FINISHED, DataRecord(train_fingerprint="0123")),
        ("part", 0.9, State.FINISHED, DataRecord(train_fingerprint=pairs, keep_list_fingerprint="0123")),
        ("stopped", 0.9, State.FAILED, DataRecord(train_fingerprint=pairs)),
        ("weightless", 0.9, State.FINISHED, DataRecord(train_fingerprint=pairs)),
    ):
        results = Results(measures={"mrr": mrr})
        write_run(models / name, RunRecord(run_name=name, status=state, recipe=BASELINE, data=data, results=results))
        if name != "weightless":
            shutil.copy(settings.weights, models / name / BEST_MRR)
    topk = TopK(replace(settings, weights=None), MACHINE)
    assert topk.describe()["ranked by"] == models / "search/trial_3" / BEST_MRR
    assert "flatter them" in topk.describe()["it was trained on"]


def test_the_command_that_trains_a_translator_can_be_copied(settings, tmp_path):
    place = tmp_path / "my pairs.npz"
    settings.input_npz.rename(place)
    with pytest.raises(InputError) as refused:
        TopK(replace(settings, input_npz=place, models_dir=tmp_path / "my models", weights=None), MACHINE)
    command = f"python train_mrr.py --train-npz '{place}' --models-dir '{tmp_path / 'my models'}'"
    assert f"train one with `{command}`, name weights with --weights" in str(refused.value)


def test_where_nothing_is_dropped_there_is_no_suspect_file(settings):
    suspect = settings.output_dir / "pairs_suspect_top13.npz"
    suspect.parent.mkdir()
    suspect.write_text("of an earlier run")
    title, summary = ranked(replace(settings, top_k=13)).export({})
    assert (title, summary["suspect pairs"]) == ("kept 60 captions", "none")
    assert not suspect.exists()


# ------------------------------------------------------------------------------------------- review decisions


def test_review_decisions_override_the_cut(settings):
    topk = ranked(settings)
    before = topk.keep()
    dropped, kept = topk.pairs.caption_ids[~before][:2], topk.pairs.caption_ids[before][:2]
    for caption_id, decision in ((dropped[0], "keep"), (dropped[1], "drop"), (kept[0], "drop")):
        topk.decisions.decide(int(caption_id), decision)

    keep = topk.keep()
    assert set(topk.pairs.caption_ids[keep != before]) == {dropped[0], kept[0]}
    np.testing.assert_array_equal(topk.keep(decided=False), before)
    assert topk.describe()["review decisions"] == f"3 in {settings.output_dir / 'review_decisions.csv'}"
    _, summary = topk.export({})
    assert summary["review decisions"] == "3 honoured (1 keep, 2 drop), 2 of them against the cut"
    keep_list = open_keep_list(settings.output_dir / "pairs_clean_top8.keep.npz")
    np.testing.assert_array_equal(keep_list.keep, keep)
    assert keep_list.provenance["cut"]["review_decisions"] == {"kept": 1, "dropped": 2, "against_the_cut": 2}
    assert dropped[0] in open_pairs(settings.output_dir / "pairs_clean_top8.npz").caption_ids
    assert kept[0] in open_pairs(settings.output_dir / "pairs_suspect_top8.npz").caption_ids

    ignored = ranked(replace(settings, honour_decisions=False))
    np.testing.assert_array_equal(ignored.keep(), before)
    assert ignored.describe()["review decisions"] == "none"
    mine = topk.decisions.path.rename(settings.output_dir / "mine.csv")
    np.testing.assert_array_equal(ranked(settings).keep(), before)
    np.testing.assert_array_equal(ranked(replace(settings, decisions_csv=mine)).keep(), keep)


def test_decisions_about_other_pairs_end_it_before_any_work(settings):
    path = settings.output_dir / "review_decisions.csv"
    ReviewDecisions(path, open_pairs(settings.input_npz), "0123456789abcdef").decide(0, "drop")
    with pytest.raises(InputError, match=r"review_decisions\.csv: decisions about other pairs"):
        TopK(settings, MACHINE)


# ------------------------------------------------------------------------------------------------ out of fold


SHORT = {"hidden_dim": 8, "epochs": 1, "batch_size": 30}


def test_models_out_of_fold_are_one_mlp_each_by_the_recipe_for_so_many_captions(settings, monkeypatch):
    topk = TopK(replace(settings, weights=None, folds=2), MACHINE)
    assert topk.recipe == replace(one_mlp(sized(AUTO, 60)), name="topk_fold")
    recipe = topk.recipe
    assert (recipe.epochs, recipe.copies, recipe.kernel_share, recipe.predict_with) == (15, 1, 0.5, "best")
    assert topk.describe()["their recipe"] == "topk_fold"
    monkeypatch.setattr("src.training.recipe.SIZES", {59: {"epochs": 30}, 60: {"epochs": 12}})
    topk = TopK(replace(settings, weights=None, folds=2, fold_changes={"tau": 0.1}), MACHINE)
    assert (topk.recipe.epochs, topk.recipe.tau) == (12, 0.1)
    assert topk.describe()["their recipe"] == "topk_fold with tau=0.1"


def test_out_of_fold_models_are_trained_once_and_those_of_another_seed_are_others(settings):
    settings = replace(settings, weights=None, folds=2, fold_changes=SHORT)
    topk = TopK(settings, MACHINE)
    assert topk.describe()["ranked by"] == "2 models that did not see the image, seed 43, float32"
    assert topk.describe()["their recipe"] == "topk_fold with hidden_dim=8,epochs=1,batch_size=30"
    first = topk.rank()
    made = json.loads(topk.ranks_csv.with_suffix(".json").read_text())
    assert (made["folds"], made["recipe"], len(made["models_mrr"])) == (2, asdict(topk.recipe), 2)
    name = f"{topk.fingerprint}_folds2_hidden_dim=8,epochs=1,batch_size=30_seed43"
    assert Path(made["models"]) == settings.models_dir / "topk_folds" / name
    trained = {path: path.stat().st_mtime_ns for path in settings.models_dir.rglob("*.safetensors")}

    assert not says_there_already(TopK(replace(settings, folds=3), MACHINE))
    other = replace(settings, fold_changes=SHORT | {"seed": 6})
    assert not says_there_already(TopK(other, MACHINE))
    ranked(other)
    assert len(list((settings.models_dir / "topk_folds").iterdir())) == 2
    again = TopK(settings, MACHINE)  # its ranks are overwritten by now, its models are there
    assert not says_there_already(again)
    pd.testing.assert_frame_equal(again.rank(), first, check_exact=True)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_both_ways_of_ranking_stand_side_by_side_and_the_only_one_that_is_there_is_opened(settings):
    folds = replace(settings, weights=None, folds=2, fold_changes=SHORT)
    assert as_ranked(settings) == settings, "nothing is there"
    topk = ranked(folds)
    topk.export({})
    written = {path.name: path.read_bytes() for path in settings.output_dir.iterdir()}
    names = ("clean_top8.npz", "clean_top8.keep.npz", "clean_top8.png", "suspect_top8.npz", "ranks.csv", "ranks.json")
    assert written.keys() == {f"pairs_folds2_{name}" for name in names}
    assert as_ranked(settings) == replace(settings, folds=2, fold_changes=asdict(topk.recipe))
    assert says_there_already(TopK(as_ranked(settings), MACHINE))

    ranked(settings).export({})
    assert as_ranked(settings) == settings, "both are there"
    assert len(list(settings.output_dir.iterdir())) == 12
    assert {name: (settings.output_dir / name).read_bytes() for name in written} == written
    (settings.output_dir / "pairs_ranks.json").unlink()
    save_pairs(make_pairs(captions=59), settings.input_npz)
    assert as_ranked(settings) == settings, "what is there is of other pairs"


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("output", ["clean_top8.npz", "clean_top8.keep.npz", "suspect_top8.npz"])
def test_the_input_is_never_written_over(settings, output):
    path = settings.output_dir / f"pairs_{output}"
    path.parent.mkdir()
    settings.input_npz.rename(path)
    settings.input_npz.symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"pairs_{output}: is read, so it cannot be written"):
        TopK(settings, MACHINE)
    assert path.read_bytes() == before


def test_a_translator_of_other_embeddings_is_refused(settings):
    pairs = open_pairs(settings.input_npz)
    save_pairs(replace(pairs, text_embeddings=pairs.text_embeddings[:, :4]), settings.input_npz)
    with pytest.raises(InputError, match=r"run.translator\.safetensors: translates widths .*pairs\.npz are \(4, "):
        ranked(settings)


def test_a_translator_gone_wrong_is_named(settings, translator):
    translator.head.bias.data[0] = float("inf")
    save_translator(translator.state_dict(), translator.dims, settings.weights)
    with pytest.raises(InputError, match=r"run.translator\.safetensors: 60 of 60 predictions are NaN"):
        ranked(settings)
    assert not settings.output_dir.exists()


def test_a_cut_that_leaves_nothing_is_refused(settings, translator):
    topk = ranked(settings)
    for caption_id in topk.pairs.caption_ids:
        topk.decisions.decide(int(caption_id), "drop")
    with pytest.raises(InputError, match="the cut leaves none of the 60 captions"):
        topk.export({})
