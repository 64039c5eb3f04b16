"""Review decisions: written at once, read by whoever comes next, overriding a cut, for their own pairs alone."""

import re

import numpy as np
import pandas as pd
import pytest

from src.common.files import InputError
from src.data.pairs import fingerprint, open_pairs, save_pairs
from src.filters.decisions import ReviewDecisions
from tests.filters.conftest import HOSTILE, make_pairs


@pytest.fixture
def pairs(tmp_path):
    """Ten captions with ids 27, 24, … 0 and awkward texts."""
    save_pairs(make_pairs(), tmp_path / "pairs.npz")
    return open_pairs(tmp_path / "pairs.npz")


@pytest.fixture
def decisions(pairs, tmp_path) -> ReviewDecisions:
    return ReviewDecisions(tmp_path / "out/decisions.csv", pairs, fingerprint(pairs.source))


def test_without_a_file_nothing_is_decided(decisions):
    assert decisions.read() == {}
    keep = np.arange(10) % 2 == 0
    np.testing.assert_array_equal(decisions.apply(keep), keep)
    assert not decisions.path.exists()


def test_decisions_outlive_the_process_that_made_them(decisions):
    for caption_id in decisions.pairs.caption_ids:
        decisions.decide(int(caption_id), "keep" if caption_id % 2 else "drop")
    decisions.decide(24, "keep")
    decisions.decide(0, None)
    again = ReviewDecisions(decisions.path, decisions.pairs, decisions.input_fingerprint)
    expected = {27: "keep", 21: "keep", 18: "drop", 15: "keep", 12: "drop", 9: "keep", 6: "drop", 3: "keep", 24: "keep"}
    assert again.read() == expected
    table = pd.read_csv(decisions.path, keep_default_na=False)
    assert table.columns.tolist() == ["caption_id", "decision", "decided", "image", "caption", "input_fingerprint"]
    assert set(table.caption) == set(HOSTILE) - {"nan"}, "the last one's was taken back"


def test_they_override_a_cut_and_nothing_else(decisions):
    keep = np.array([True] * 5 + [False] * 5)
    before = keep.copy()
    for caption_id, decision in ((27, "drop"), (24, "keep"), (0, "keep"), (3, "drop")):
        decisions.decide(caption_id, decision)
    np.testing.assert_array_equal(decisions.apply(keep), [False, *[True] * 4, *[False] * 4, True])
    np.testing.assert_array_equal(keep, before)


def test_two_reviewers_do_not_overwrite_each_other(decisions):
    other = ReviewDecisions(decisions.path, decisions.pairs, decisions.input_fingerprint)
    decisions.decide(27, "drop")
    other.decide(0, "keep")
    decisions.decide(3, "keep")
    assert other.read() == {27: "drop", 0: "keep", 3: "keep"}


def test_a_write_that_fails_leaves_the_file_as_it_was(decisions, monkeypatch):
    decisions.decide(27, "drop")
    before = decisions.path.read_bytes()
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda self, path, **options: path.write_text("cap") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decisions.decide(0, "keep")
    assert decisions.path.read_bytes() == before
    assert list(decisions.path.parent.iterdir()) == [decisions.path]


def test_only_keep_and_drop_are_decisions(decisions):
    with pytest.raises(ValueError, match="'maybe' is no decision"):
        decisions.decide(27, "maybe")


def test_decisions_about_other_pairs_are_refused(decisions, pairs):
    decisions.decide(27, "drop")
    other = ReviewDecisions(decisions.path, pairs, "fedcba9876543210")
    for use in (other.read, lambda: other.apply(np.ones(10, bool)), lambda: other.decide(27, "keep")):
        with pytest.raises(InputError, match=f"about other pairs.*{decisions.input_fingerprint}.*fedcba.*--decisions"):
            use()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "", "not a table"),
        (lambda text: text.replace("decision", "choice", 1), "not a table"),
        (lambda text: text.replace("\n27,", "\nx,"), "not a table"),
        (lambda text: text.replace("\n27,", "\n" + "9" * 30 + ","), "not a table"),
        (lambda text: text.replace("\n27,", "\n1e999,"), "not a table"),
        (lambda text: text.replace('"drop"', '"maybe"'), "caption 27 is neither keep nor drop"),
        (lambda text: text.replace("\n27,", "\n28,"), "caption 28 is no caption of these pairs"),
        (lambda text: text + text.split("\n")[1] + "\n", "caption 27 is decided twice"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(decisions, change, reason):
    decisions.decide(27, "drop")
    decisions.path.write_text(change(decisions.path.read_text()))
    with pytest.raises(InputError, match=re.escape(f"{decisions.path}: ") + reason):
        decisions.read()
