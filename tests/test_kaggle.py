"""Sending to Kaggle, played by a script of that name on PATH: what is called, logged, and said when it fails."""

import csv
import json
import os
import sys

import numpy as np
import pytest

from src.common.files import InputError
from src.common.kaggle import fill_scores
from src.data.pairs import embedding_dims, open_test_captions
from src.submission import main, write_submission
from src.training.runs import sha256

FAKE = """#!{python}
import json, sys
from pathlib import Path
folder = Path(__file__).parent
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
answer = json.loads((folder / "answers.json").read_text())[sys.argv[2]]
print(answer.get("out", ""))
print(answer.get("err", ""), file=sys.stderr)
sys.exit(answer.get("status", 0))
"""
LISTING = "ref,fileName,date,description,status,publicScore,privateScore\n"


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A folder at the head of PATH with a `kaggle` whose answers the test sets."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kaggle").write_text(FAKE.format(python=sys.executable))
    (folder / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def answer(submissions="No submissions found", **submit):
        answers = {"submit": submit, "submissions": {"out": submissions}}
        (folder / "answers.json").write_text(json.dumps(answers))

    answer()
    answer.calls = lambda: [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    return answer


@pytest.fixture
def submit(sample, tmp_path, monkeypatch, capsys):
    """Write mine.csv in an empty working folder, without a fault; return a function that submits it as
    `python -m src.submission submit` does, and returns what that prints."""
    ids = open_test_captions(sample / "test/test.clean.npz").caption_ids
    width = embedding_dims(sample / "train/train.npz")["image"]
    write_submission(tmp_path / "mine.csv", ids, np.random.default_rng(0).standard_normal((len(ids), width)))
    monkeypatch.chdir(tmp_path)
    data = ("--test-npz", sample / "test/test.clean.npz", "--train-npz", sample / "train/train.npz")

    def start():
        flags = ("--competition", "aml", "--message", "first, a try", "--wait", "0", *data)
        main(["submit", *map(str, ("mine.csv", *flags))])
        return capsys.readouterr().out

    return start


def logged(tmp_path):
    with (tmp_path / "submissions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_is_sent_and_logged_with_its_run_and_score(submit, kaggle, tmp_path):
    digest = sha256(tmp_path / "mine.csv")
    run = {"recipe": {}, "data": {}, "status": "finished", "submission": {"path": "elsewhere.csv", "sha256": digest}}
    other = run | {"submission": {"path": "mine.csv", "sha256": "0"}}
    for name, record in (("a_other", other), ("b_this", run)):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "run.json").write_text(json.dumps(record))
    kaggle("Warning: outdated\n" + LISTING + '9,mine.csv,now,"first, a try",SubmissionStatus.COMPLETE,0.61803,None')
    assert "score: 0.61803" in submit()
    sent, asked = kaggle.calls()
    assert sent == ["competitions", "submit", "-c", "aml", "-f", "mine.csv", "-m", "first, a try"]
    assert asked == ["competitions", "submissions", "-c", "aml", "--csv"]
    (row,) = logged(tmp_path)
    assert row.pop("utc").startswith("20")
    assert row == {
        "file": "mine.csv",
        "sha256": digest,
        "run": "models/b_this",
        "competition": "aml",
        "message": "first, a try",
        "score": "0.61803",
    }


def test_scores_are_filled_in_later(submit, kaggle, tmp_path, capsys):
    pending = '{ref},mine.csv,now,"first, a try",SubmissionStatus.PENDING,,\n'
    complete = '{ref},mine.csv,now,"first, a try",SubmissionStatus.COMPLETE,{score},\n'
    assert "not known yet; later: python -m src.submission scores --competition aml" in submit()
    # The same name and message again: the first one's score, known by now, is not taken for the second's.
    kaggle(LISTING + complete.format(ref=1, score=0.5))
    assert "not known yet" in submit()
    assert [row["score"] for row in logged(tmp_path)] == ["0.5", ""]
    assert logged(tmp_path)[1]["run"] == ""
    kaggle(LISTING + pending.format(ref=2) + complete.format(ref=1, score=0.5))
    assert fill_scores(tmp_path / "submissions.csv", "aml") == 0
    kaggle(LISTING + complete.format(ref=2, score=0.7) + complete.format(ref=1, score=0.5))
    main(["scores", "--competition", "aml"])
    assert "1 scores filled in" in capsys.readouterr().out
    assert [row["score"] for row in logged(tmp_path)] == ["0.5", "0.7"]


def test_only_the_same_competition_name_and_message_match(kaggle, tmp_path):
    log = tmp_path / "submissions.csv"
    columns = "utc,file,sha256,run,competition,message,score\n"
    log.write_text(columns + "now,out/a.csv,0,,aml,one,\nnow,out/a.csv,0,,other,one,\nnow,b.csv,0,,aml,two,\n")
    kaggle(LISTING + "3,b.csv,now,two,ERROR,,\n2,a.csv,now,one,COMPLETE,0.2,\n1,a.csv,now,two,COMPLETE,0.1,\n")
    assert fill_scores(log, "aml") == 2
    assert [row["score"] for row in logged(tmp_path)] == ["0.2", "", "error"]


def test_older_ones_that_the_log_lacks_are_passed_over(kaggle, tmp_path):
    log = tmp_path / "submissions.csv"
    log.write_text("utc,file,sha256,run,competition,message,score\nnow,a.csv,0,,aml,one,\n")
    kaggle(LISTING + "2,a.csv,now,one,COMPLETE,0.2,\n1,a.csv,then,one,COMPLETE,0.1,\n")
    assert fill_scores(log, "aml") == 1
    assert logged(tmp_path)[0]["score"] == "0.2"


def test_a_faulty_file_is_not_sent(submit, kaggle, tmp_path):
    (tmp_path / "mine.csv").write_text('id,embedding\n1,"[0.5]"\n')
    with pytest.raises(InputError, match=r"mine\.csv"):
        submit()
    assert not (tmp_path / "bin/calls.jsonl").exists()
    assert not (tmp_path / "submissions.csv").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 1, "out": "Authentication required to call the Kaggle API.\n\nFirst, …"}, "kaggle auth login"),
        ({"status": 1, "err": "OSError: Could not find kaggle.json. Make sure …"}, "kaggle auth login"),
        ({"status": 1, "err": "100%|███| 1/1\nCould not find competition"}, "failed: Could not find competition"),
        ({"status": 0, "out": "Could not submit to competition"}, "failed: Could not submit"),  # clients before 2.0
        ({"status": 1}, "no reason given"),
    ],
)
def test_what_kaggle_refuses_is_said_and_not_logged(submit, kaggle, tmp_path, answer, message):
    kaggle(**answer)
    with pytest.raises(InputError, match=message):
        submit()
    assert not (tmp_path / "submissions.csv").exists()


def test_without_kaggle_one_line_says_what_to_do(submit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="pip install kaggle, then run `kaggle auth login`"):
        submit()


def test_a_damaged_log_is_kept_and_nothing_sent(submit, kaggle, tmp_path):
    (tmp_path / "submissions.csv").write_text("my,own,table\n1,2,3\n")
    with pytest.raises(InputError, match=r"submissions\.csv: .* --log"):
        submit()
    assert (tmp_path / "submissions.csv").read_text() == "my,own,table\n1,2,3\n"
    assert not (tmp_path / "bin/calls.jsonl").exists()


def test_a_listing_without_scores_is_an_error(kaggle, tmp_path):
    log = tmp_path / "submissions.csv"
    log.write_text("utc,file,sha256,run,competition,message,score\nnow,a.csv,0,,aml,one,\n")
    kaggle("fileName,date\na.csv,now\n")
    with pytest.raises(InputError, match="without the score"):
        fill_scores(log, "aml")
