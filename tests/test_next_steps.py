"""The last line of a script names commands that work, with the user's own paths."""

import shlex

import pytest

import src.ensemble
import src.submission
import src.topk_filter_pairs
import train_mrr
from src.common.cli import command, print_next
from src.ensemble_scripts import train_members
from train_mrr_Ensemble_old_dataset import ENSEMBLE

SMALL = ("--device", "cpu", "--epochs", "1", "--hidden-dim", "16", "--batch-size", "512")


def steps(printed: str) -> list[list[str]]:
    last = printed.splitlines()[-1]
    assert last.startswith("next: ")
    return [shlex.split(step) for step in last.removeprefix("next: ").split(", or ")]


def test_flags_that_have_their_defaults_are_left_out_and_names_are_quoted(capsys):
    print_next(command("python -m tool", "a b.csv", train_npz=(1, 1), test_npz=("x y", "z")), "python other.py")
    assert capsys.readouterr().out == "next: python -m tool 'a b.csv' --test-npz 'x y', or python other.py\n"


@pytest.fixture
def elsewhere(sample, tmp_path, monkeypatch):
    """A folder without data of its own, where the flags name all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return ["--train-npz", str(sample / "train/train.npz"), "--test-npz", str(sample / "test/test.clean.npz")]


def test_what_comes_after_a_training_and_a_filter_works_as_it_is_printed(elsewhere, capsys):
    train_mrr.main([*SMALL, *elsewhere, "--models-dir", "my models", "--submission", "my submission.csv"])
    rank, check = steps(capsys.readouterr().out)
    assert check[:4] == ["python", "-m", "src.submission", "check"]
    src.submission.main(check[3:])
    assert "ok: my submission.csv" in capsys.readouterr().out
    assert rank[:3] == ["python", "-m", "src.topk_filter_pairs"]
    src.topk_filter_pairs.main([*rank[3:], *SMALL, "--folds", "2", "--output-dir", "my filtered"])
    hard, soft = steps(capsys.readouterr().out)
    assert soft == [*hard, "--soft"]
    assert hard[:2] == ["python", "train_mrr.py"]
    train_mrr.main([*hard[2:], *SMALL, "--submission", "none"])
    assert "evaluate" in steps(capsys.readouterr().out)[0]


@pytest.mark.parametrize(("flags", "kind"), [((), "combine"), (("--split-seed", "0"), "select")])
def test_members_are_combined_or_where_they_can_be_measured_selected(elsewhere, capsys, flags, kind):
    train_members([*SMALL, *elsewhere, "--seeds", "4", "7", *flags], __doc__, ENSEMBLE)
    (step,) = steps(capsys.readouterr().out)
    assert step[:4] == ["python", "-m", "src.ensemble", kind]
    src.ensemble.main(step[3:])
    (after,) = steps(capsys.readouterr().out)
    if kind == "select":
        src.ensemble.main(after[3:])
        (after,) = steps(capsys.readouterr().out)
    assert after[:4] == ["python", "-m", "src.submission", "check"]
    src.submission.main([*after[3:], *elsewhere])
    assert "ok: " in capsys.readouterr().out
