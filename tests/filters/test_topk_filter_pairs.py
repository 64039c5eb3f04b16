"""The top-k filter as a user starts it: ranks, cut, decisions, files; in sample and out of fold."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src import topk_filter_pairs
from src.common.files import InputError
from src.data.keep_lists import apply_keep_list, open_keep_list
from src.data.pairs import fingerprint, open_pairs, save_pairs
from src.filters.decisions import ReviewDecisions
from src.topk_filter_pairs import keep_top_k
from src.training.model import load_translator, save_translator
from src.training.runs import BEST_MRR
from tests.conftest import assert_input_error
from tests.known_noise import swaps_found

FILTER = ("-m", "src.topk_filter_pairs")


@pytest.fixture(scope="session")
def weights(run_script, sample, tmp_path_factory):
    """A small translator trained on the sample."""
    models = tmp_path_factory.mktemp("models")
    recipe = ("--hidden-dim", 64, "--epochs", 20, "--lr", "3e-3", "--tau", "0.05", "--device", "cpu")
    places = ("--train-npz", sample / "train/train.npz", "--models-dir", models, "--run-name", "small")
    result = run_script("train_mrr.py", *recipe, *places, "--submission", "none")
    assert result.returncode == 0, result.stderr
    return models / "small" / BEST_MRR


@pytest.fixture
def arguments(sample, weights, tmp_path):
    """A function that makes the command line: the sample, everything written to tmp_path, and more flags."""

    def make(*more, ranked_by=("--weights", weights)) -> list[str]:
        train = sample / "train"
        places = ("--input-npz", train / "train.npz", "--images-root", train / "Images", "--output-dir", tmp_path)
        return [str(part) for part in (*places, "--models-dir", tmp_path / "models", *ranked_by, *more)]

    return make


def test_the_rank_of_the_cut_is_kept_and_a_worse_one_is_not():
    table = pd.DataFrame({"rank": [1.0, 49.5, 50.0, 50.5, 51.0, 900.0]})
    assert keep_top_k(table, 50).tolist() == [True, True, True, False, False, False]


def test_it_splits_the_captions_by_the_rank_of_their_image(arguments, sample, tmp_path, run_script):
    result = run_script(*FILTER, *arguments("--top-k", 10))
    assert result.returncode == 0, result.stderr
    assert "these pairs, so its ranks flatter them" in result.stdout
    assert "caption/s" in result.stderr
    raw = open_pairs(sample / "train/train.npz")
    clean, suspect = (open_pairs(tmp_path / f"train_{part}_top10.npz") for part in ("clean", "suspect"))
    table = pd.read_csv(tmp_path / "train_ranks.csv", keep_default_na=False)
    keep = (table["rank"] <= 10).to_numpy()
    assert 0 < keep.sum() < len(raw)
    for part, chosen in ((clean, keep), (suspect, ~keep)):
        expected = raw.select(chosen)
        for name in ("caption_ids", "caption_texts", "text_embeddings", "image_of_caption", "image_names"):
            np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))
        np.testing.assert_array_equal(part.image_embeddings, raw.image_embeddings)
    assert f"kept {keep.sum():,} captions" in result.stdout

    keep_list = open_keep_list(tmp_path / "train_clean_top10.keep.npz")
    np.testing.assert_array_equal(keep_list.scores, table["rank"])
    applied = apply_keep_list(raw, tmp_path / "train_clean_top10.keep.npz")
    np.testing.assert_array_equal(applied.caption_ids, clean.caption_ids)
    origin = keep_list.provenance
    assert (origin["filter"], origin["cut"]["top_k"], origin["cut"]["dropped"]) == ("topk", 10, (~keep).sum())
    assert origin["ranks"] == json.loads((tmp_path / "train_ranks.json").read_text())
    assert origin["ranks"]["input_fingerprint"] == fingerprint(raw.source)
    assert {"weights_sha256", "command", "versions"} <= origin["ranks"].keys()
    with Image.open(tmp_path / "train_clean_top10.png") as report:
        assert report.width > 1000
    assert swaps_found(keep_list, sample / "train/sample_noise.csv")["roc_auc"] > 0.55, "in sample they are flattered"


def test_ranks_that_are_there_are_used_again_but_only_of_the_same_model(arguments, weights, tmp_path, capsys):
    topk_filter_pairs.main(arguments("--top-k", 10))
    assert "are there already" not in capsys.readouterr().out
    ranks = (tmp_path / "train_ranks.csv").stat().st_mtime_ns
    topk_filter_pairs.main(arguments("--top-k", 20))
    assert "are there already" in capsys.readouterr().out
    assert (tmp_path / "train_ranks.csv").stat().st_mtime_ns == ranks
    assert len(open_pairs(tmp_path / "train_clean_top20.npz")) > len(open_pairs(tmp_path / "train_clean_top10.npz"))
    for path in (tmp_path / name for name in ("train_clean_top20.npz", "train_suspect_top20.npz")):
        path.rename(path.with_suffix(".old"))
    topk_filter_pairs.main(arguments("--top-k", 20))  # from the file as from memory
    for name in ("train_clean_top20", "train_suspect_top20"):
        assert (tmp_path / f"{name}.npz").read_bytes() == (tmp_path / f"{name}.old").read_bytes()
    capsys.readouterr()

    translator = load_translator(weights)
    translator.head.bias.data += 1
    save_translator(translator.state_dict(), translator.dims, tmp_path / "other.safetensors")
    topk_filter_pairs.main(arguments(ranked_by=("--weights", tmp_path / "other.safetensors")))
    out = capsys.readouterr().out
    assert "are there already" not in out
    assert "pairs that are not recorded" in out


def test_where_nothing_is_dropped_there_is_no_suspect_file(arguments, tmp_path, capsys):
    (tmp_path / "train_suspect_top92.npz").write_text("of an earlier run")
    topk_filter_pairs.main(arguments("--top-k", 92))
    assert "kept 460 captions" in capsys.readouterr().out
    assert not (tmp_path / "train_suspect_top92.npz").exists()
    assert len(open_pairs(tmp_path / "train_clean_top92.npz")) == 460


def test_no_flag_is_needed_once_the_baseline_is_trained(sample, weights, tmp_path, run_script, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(sample / "train")
    result = run_script(*FILTER, cwd=tmp_path)
    baseline = "models/baseline_train_seed43/best_mrr.safetensors"
    assert_input_error(result, f"{baseline}: no such file", "train it with `python train_mrr.py`", "--folds 5")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    shutil.copytree(weights.parent, tmp_path / "models/baseline_train_seed43")
    monkeypatch.chdir(tmp_path)
    topk_filter_pairs.main([])
    assert {path.name for path in (tmp_path / "data/filtered").iterdir()} == {
        "train_clean_top50.npz",
        "train_clean_top50.keep.npz",
        "train_clean_top50.png",
        "train_suspect_top50.npz",
        "train_ranks.csv",
        "train_ranks.json",
    }


# ------------------------------------------------------------------------------------------- review decisions


def test_review_decisions_override_the_cut(arguments, sample, tmp_path, capsys):
    topk_filter_pairs.main(arguments("--top-k", 10))
    assert "0 honoured" in capsys.readouterr().out
    raw = open_pairs(sample / "train/train.npz")
    before = open_keep_list(tmp_path / "train_clean_top10.keep.npz").keep
    dropped, kept = raw.caption_ids[~before][:2], raw.caption_ids[before][:2]
    review = ReviewDecisions(tmp_path / "review_decisions.csv", raw, fingerprint(raw.source))
    for caption_id, decision in ((dropped[0], "keep"), (dropped[1], "drop"), (kept[0], "drop")):
        review.decide(int(caption_id), decision)

    topk_filter_pairs.main(arguments("--top-k", 10))
    out = capsys.readouterr().out
    assert "3 in " in out
    assert "3 honoured (1 keep, 2 drop), 2 of them against the cut" in out
    keep_list = open_keep_list(tmp_path / "train_clean_top10.keep.npz")
    assert raw.caption_ids[keep_list.keep != before].tolist() == sorted((dropped[0], kept[0]))
    assert keep_list.provenance["cut"]["review_decisions"] == {"kept": 1, "dropped": 2, "against_the_cut": 2}
    assert dropped[0] in open_pairs(tmp_path / "train_clean_top10.npz").caption_ids
    assert kept[0] in open_pairs(tmp_path / "train_suspect_top10.npz").caption_ids

    topk_filter_pairs.main(arguments("--top-k", 10, "--decisions", "none"))
    np.testing.assert_array_equal(open_keep_list(tmp_path / "train_clean_top10.keep.npz").keep, before)
    review.path.rename(tmp_path / "mine.csv")
    topk_filter_pairs.main(arguments("--top-k", 10, "--decisions", tmp_path / "mine.csv"))
    assert (open_keep_list(tmp_path / "train_clean_top10.keep.npz").keep != before).sum() == 2


def test_decisions_about_other_pairs_end_it_before_any_work(arguments, sample, tmp_path):
    raw = open_pairs(sample / "train/train.npz")
    ReviewDecisions(tmp_path / "review_decisions.csv", raw, "0123456789abcdef").decide(0, "drop")
    with pytest.raises(InputError, match=r"review_decisions\.csv: decisions about other pairs"):
        topk_filter_pairs.main(arguments())
    assert not (tmp_path / "train_ranks.csv").exists()


# ------------------------------------------------------------------------------------------------ out of fold


def test_out_of_fold_it_finds_swapped_captions_and_trains_once(arguments, sample, tmp_path, run_script, capfd):
    folds = ("--folds", 3, "--hidden-dim", 256, "--epochs", 15, "--batch-size", 128, "--lr", "3e-3", "--device", "cpu")
    result = run_script(*FILTER, *arguments(*folds, "--top-k", 20, ranked_by=()))
    assert result.returncode == 0, result.stderr
    assert "3 models that did not see the image, seed 43" in result.stdout
    assert "topk_fold with hidden_dim=256,epochs=15" in result.stdout
    assert "step/s" in result.stderr
    keep_list = open_keep_list(tmp_path / "train_clean_top20.keep.npz")
    ranks = keep_list.provenance["ranks"]
    assert (ranks["folds"], ranks["recipe"]["epochs"], len(ranks["models_mrr"])) == (3, 15, 3)
    assert swaps_found(keep_list, sample / "train/sample_noise.csv")["roc_auc"] > 0.65
    first = (tmp_path / "train_ranks.csv").read_bytes()

    topk_filter_pairs.main(arguments(*folds, "--top-k", 10, ranked_by=()))
    assert "are there already" in capfd.readouterr().out
    (tmp_path / "train_ranks.csv").unlink()
    topk_filter_pairs.main(arguments(*folds, "--top-k", 10, ranked_by=()))
    assert "step/s" not in capfd.readouterr().err, "the trained models are used"
    other_threads = pd.read_csv(tmp_path / "train_ranks.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(other_threads, pd.read_csv(io.BytesIO(first), keep_default_na=False), atol=1e-5)


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (("--input-npz", "absent.npz"), "absent.npz: no such file"),
        (("--weights", "absent.safetensors"), "absent.safetensors: no such file; train it with"),
        (("--weights", "pyproject.toml"), "pyproject.toml: not a translator's weights"),
        (("--device", "cuda:99"), "--device cuda:99"),
        (("--epochs", 5), "--epochs: is of the models that --folds K trains"),
        (("--precision", "bfloat16"), "--precision: is of the models that --folds K trains"),
        (("--folds", 5), "--weights and --folds"),
    ],
)
def test_what_cannot_be_used_is_one_error_and_nothing_is_written(arguments, tmp_path, flags, fragment):
    with pytest.raises(InputError, match=fragment):
        topk_filter_pairs.main(arguments(*flags))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("flags", "fragment"), [(("--folds", 1), "1 folds"), (("--folds", 2, "--lr", -1), "--lr -1")])
def test_folds_that_make_no_sense_are_refused(arguments, tmp_path, flags, fragment):
    with pytest.raises(InputError, match=fragment):
        topk_filter_pairs.main(arguments(*flags, ranked_by=()))
    assert not any(tmp_path.iterdir())


def test_a_translator_of_other_embeddings_is_refused(arguments, sample, tmp_path):
    raw = open_pairs(sample / "train/train.npz")
    save_pairs(replace(raw, text_embeddings=raw.text_embeddings[:, :8]), tmp_path / "narrow.npz")
    with pytest.raises(InputError, match=r"small.best_mrr\.safetensors: translates widths .*narrow\.npz are \(8, "):
        topk_filter_pairs.main(arguments("--input-npz", tmp_path / "narrow.npz"))


def test_a_translator_gone_wrong_is_named(arguments, weights, tmp_path):
    translator = load_translator(weights)
    translator.head.bias.data[0] = float("inf")
    save_translator(translator.state_dict(), translator.dims, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match=r"broken\.safetensors: 460 of 460 predictions are NaN"):
        topk_filter_pairs.main(arguments(ranked_by=("--weights", tmp_path / "broken.safetensors")))


def test_the_help_shows_the_commands(run_script):
    result = run_script(*FILTER, "--help")
    assert result.returncode == 0
    assert "python -m src.topk_filter_pairs --folds 5" in result.stdout


@pytest.mark.flickr8k
def test_real_photographs_are_ranked_and_filtered(arguments, flickr8k, tmp_path, run_script):
    data = flickr8k / "visual"
    places = ("--input-npz", data / "train.npz", "--images-root", data / "Images", "--device", "cpu")
    result = run_script(*FILTER, *arguments(*places, "--folds", 2, "--hidden-dim", 64, "--epochs", 4, ranked_by=()))
    assert result.returncode == 0, result.stderr
    keep_list = open_keep_list(tmp_path / "train_clean_top50.keep.npz")
    assert len(open_pairs(tmp_path / "train_clean_top50.npz")) == keep_list.keep.sum() > 0
