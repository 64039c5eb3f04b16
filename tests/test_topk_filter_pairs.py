"""The top-k filter as a user starts it: its flags, its defaults, one line for what cannot be used, what it finds."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from src import topk_filter_pairs
from src.common.files import InputError
from src.data.keep_lists import open_keep_list
from src.data.pairs import embedding_dims, fingerprint, open_pairs, save_pairs
from src.filters.decisions import ReviewDecisions
from src.filters.ranks import CAPTIONS_AT_ONCE
from src.training.model import ResidualMLP, save_translator
from src.training.recipe import STRONG
from src.training.runs import BEST_MRR, DataRecord, Results, RunRecord, State, read_run, write_run
from tests.conftest import kill_one_of
from tests.filters.conftest import IMAGE, TEXT, make_pairs
from tests.known_noise import swaps_found

FILTER = ("-m", "src.topk_filter_pairs")
WRITTEN = {"clean_top50.npz", "clean_top50.keep.npz", "clean_top50.png", "suspect_top50.npz", "ranks.csv", "ranks.json"}


@pytest.fixture(scope="module")
def weights(sample, tmp_path_factory) -> Path:
    """A translator of the sample's widths that has learnt nothing."""
    widths = embedding_dims(sample / "train/train.npz")
    torch.manual_seed(0)
    translator = ResidualMLP(widths["text"], widths["image"], 8)
    path = tmp_path_factory.mktemp("models") / "translator.safetensors"
    save_translator(translator.state_dict(), translator.dims, path)
    return path


@pytest.fixture
def arguments(sample, weights, tmp_path):
    """A function that makes the command line: the sample, everything written to tmp_path, and more flags."""

    def make(*more, ranked_by=("--weights", weights)) -> list[str]:
        train = sample / "train"
        places = ("--input-npz", train / "train.npz", "--images-root", train / "Images", "--output-dir", tmp_path)
        return [str(part) for part in (*places, "--models-dir", tmp_path / "models", *ranked_by, *more)]

    return make


def test_it_filters_and_says_what_it_did(arguments, sample, tmp_path, capsys):
    raw = open_pairs(sample / "train/train.npz")
    ReviewDecisions(tmp_path / "mine.csv", raw, fingerprint(raw.source)).decide(7, "drop")
    topk_filter_pairs.main(arguments("--top-k", 50, "--decisions", tmp_path / "mine.csv"))
    printed = capsys.readouterr()
    keep_list = open_keep_list(tmp_path / "train_clean_top50.keep.npz")
    kept = ((pd.read_csv(tmp_path / "train_ranks.csv")["rank"] <= 50) & (raw.caption_ids != 7)).to_numpy()
    assert keep_list.keep.tolist() == kept.tolist()
    assert "pairs that are not recorded" in printed.out
    assert f"kept {kept.sum():,} captions" in printed.out
    assert "1 honoured (0 keep, 1 drop)" in printed.out
    assert "caption/s" in printed.err
    assert keep_list.provenance["arguments"]["top_k"] == 50
    assert len(open_pairs(tmp_path / "train_clean_top50.npz")) == kept.sum()
    assert len(open_pairs(tmp_path / "train_suspect_top50.npz")) == (~kept).sum()


def test_no_flag_is_needed_once_a_translator_is_trained(sample, weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(sample / "train")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^models: holds no finished run.* with `python train_mrr\.py`, .*--folds 5"):
        topk_filter_pairs.main([])
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    run_dir = Path("models/strong_train_seed43")
    data = DataRecord(train_fingerprint=fingerprint(Path("data/train/train.npz")))
    results = Results(measures={"mrr": 0.6})
    write_run(run_dir, RunRecord(run_name="", status=State.FINISHED, recipe=STRONG, data=data, results=results))
    shutil.copy(weights, run_dir / BEST_MRR)
    topk_filter_pairs.main([])
    assert f"{run_dir / BEST_MRR}\n" in capsys.readouterr().out
    assert {path.name for path in Path("data/filtered").iterdir()} == {f"train_{name}" for name in WRITTEN}


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (("--input-npz", "absent.npz"), "absent.npz: no such file"),
        (("--weights", "absent.safetensors"), "absent.safetensors: no such file"),
        (("--weights", __file__), r"\.py: not a translator's weights"),
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


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (("--folds", 1), "1 folds"),
        (("--folds", 2, "--lr", -1), "--lr -1"),
        (("--folds", 2, "--model", "kernel", "--input-npz", "absent.npz"), "no effect on a kernel translator"),
    ],
)
def test_folds_that_make_no_sense_are_refused(arguments, tmp_path, flags, fragment):
    with pytest.raises(InputError, match=fragment):
        topk_filter_pairs.main(arguments(*flags, ranked_by=()))
    assert not any(tmp_path.iterdir())


def test_two_processes_write_what_one_does(tmp_path, run_torchrun):
    """Of three blocks that are ranked at once, the last not full, one has two."""
    torch.manual_seed(0)
    translator = ResidualMLP(TEXT, IMAGE, 5)
    save_translator(translator.state_dict(), translator.dims, tmp_path / "translator.safetensors")
    save_pairs(make_pairs(2 * CAPTIONS_AT_ONCE + 100, 50), tmp_path / "pairs.npz")

    def command(out: Path) -> list[str]:
        places = ("--input-npz", tmp_path / "pairs.npz", "--output-dir", out, "--images-root", tmp_path / "none")
        return [*map(str, places), "--weights", str(tmp_path / "translator.safetensors"), "--top-k", "8"]

    topk_filter_pairs.main([*command(tmp_path / "one"), "--device", "cpu"])
    result = run_torchrun(2, *FILTER, *command(tmp_path / "two"), "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "cpu, 2 processes" in result.stdout
    assert result.stdout.count("kept ") == 2, "in the opening lines and at the end"
    assert re.search(r"ranking \(share 1 of 2\): 100%.* 8292/8292 ", result.stderr)
    assert_written_alike(tmp_path / "two", tmp_path / "one")


def assert_written_alike(folder: Path, expected: Path) -> None:
    """All files but the records of how, which tell the command and the time."""
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}
    for path in expected.iterdir():
        if path.name.endswith(".keep.npz"):
            found, kept = open_keep_list(folder / path.name), open_keep_list(path)
            assert (found.keep.tolist(), found.scores.tolist()) == (kept.keep.tolist(), kept.scores.tolist())
        elif path.is_file() and path.suffix != ".json":
            assert (folder / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_of_two_processes_is_killed_the_folds_are_taken_up(
    killed, arguments, tmp_path, run_script, run_torchrun
):
    folds = ("--folds", 3, "--hidden-dim", 64, "--epochs", 40, "--batch-size", 64, "--device", "cpu", "--top-k", 10)

    def command(out: str) -> tuple[str, ...]:
        places = ("--output-dir", tmp_path / out, "--models-dir", tmp_path / out / "models")
        return *FILTER, *arguments(*folds, *places, ranked_by=())

    result = run_script(*command("one"))
    assert result.returncode == 0, result.stderr
    begun = lambda: len(list((tmp_path / "two/models/topk_folds").glob("*/fold*/run.json"))) == 2  # noqa: E731
    kill_one_of(2, killed, begun, *command("two"))
    assert not (tmp_path / "two/train_folds3_ranks.csv").exists()
    result = run_torchrun(2, *command("two"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("kept ") == 2, "in the opening lines and at the end"
    assert_written_alike(tmp_path / "two", tmp_path / "one")
    result = run_torchrun(3, *command("two"))
    assert "there already" in result.stdout
    assert "step/s" not in result.stderr


@pytest.mark.slow
def test_out_of_fold_it_finds_swapped_captions_and_trains_once(arguments, sample, tmp_path, run_script, capfd):
    folds = ("--folds", 3, "--hidden-dim", 256, "--epochs", 12, "--batch-size", 128, "--lr", "3e-3", "--device", "cpu")
    result = run_script(*FILTER, *arguments(*folds, "--top-k", 20, ranked_by=()))
    assert result.returncode == 0, result.stderr
    assert "3 models that did not see the image, seed 43" in result.stdout
    assert "topk_fold with hidden_dim=256,epochs=12" in result.stdout
    assert "fold 3 of 3: epoch 1 of" in result.stderr
    keep_list = open_keep_list(tmp_path / "train_folds3_clean_top20.keep.npz")
    assert swaps_found(keep_list, sample / "train/sample_noise.csv")["roc_auc"] > 0.65
    ranks = (tmp_path / "train_folds3_ranks.csv").read_bytes()

    topk_filter_pairs.main(arguments(*folds, "--top-k", 10, ranked_by=()))
    assert "there already" in capfd.readouterr().out
    (tmp_path / "train_folds3_ranks.csv").unlink()
    topk_filter_pairs.main(arguments(*folds, "--top-k", 10, ranked_by=()))
    assert "epoch 1 of" not in capfd.readouterr().err, "the trained models are used"
    assert (tmp_path / "train_folds3_ranks.csv").read_bytes() == ranks

    train = ("--train-npz", sample / "train/train.npz", "--keep-list", tmp_path / "train_folds3_clean_top20.keep.npz")
    quick = ("--recipe", "auto", "--epochs", 1, "--hidden-dim", 16, "--submission", "none", "--device", "cpu")
    result = run_script("train_mrr.py", *train, "--soft", *quick, "--models-dir", tmp_path, "--run-name", "soft")
    assert result.returncode == 0, result.stderr
    assert read_run(tmp_path / "soft").data.caption_weights == "1 / (1 + (rank / 20)^2)"


@pytest.mark.slow
def test_ranks_by_what_train_mrr_makes_of_the_same_pairs_are_said_to_be_flattered(
    arguments, sample, tmp_path, run_script, capsys
):
    recipe = ("--hidden-dim", 64, "--epochs", 20, "--lr", "3e-3", "--tau", "0.05", "--device", "cpu")
    places = ("--train-npz", sample / "train/train.npz", "--models-dir", tmp_path / "models", "--run-name", "small")
    result = run_script("train_mrr.py", *recipe, *places, "--submission", "none")
    assert result.returncode == 0, result.stderr
    weights = tmp_path / "models/small/best_mrr.safetensors"
    (tmp_path / "review_decisions.csv").write_text("of whatever; not asked for")
    topk_filter_pairs.main(arguments("--top-k", 10, "--decisions", "none", ranked_by=("--weights", weights)))
    assert "these pairs, so its ranks flatter them; --folds 5 ranks out of fold" in capsys.readouterr().out
    keep_list = open_keep_list(tmp_path / "train_clean_top10.keep.npz")
    assert swaps_found(keep_list, sample / "train/sample_noise.csv")["roc_auc"] > 0.55


@pytest.mark.slow
@pytest.mark.flickr8k
def test_real_photographs_are_ranked_and_filtered(arguments, flickr8k, tmp_path, run_script):
    data = flickr8k / "visual"
    places = ("--input-npz", data / "train.npz", "--images-root", data / "Images", "--device", "cpu")
    result = run_script(*FILTER, *arguments(*places, "--folds", 2, "--hidden-dim", 64, "--epochs", 4, ranked_by=()))
    assert result.returncode == 0, result.stderr
    keep_list = open_keep_list(tmp_path / "train_folds2_clean_top50.keep.npz")
    assert len(open_pairs(tmp_path / "train_folds2_clean_top50.npz")) == keep_list.keep.sum() > 0
