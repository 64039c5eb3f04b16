"""The command: a CSV checked, sent and logged. Kaggle is played by a script of that name on PATH."""

import csv
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import SEEK_END, StringIO

import numpy as np
import pytest

from src.common.files import InputError, sha256
from src.data.origins import MARKER, PAIR
from src.data.pairs import Pairs, TestCaptions, fingerprint, open_test_captions, save_pairs, save_test_captions
from src.data.submissions import write_submission
from src.submission import main
from tests.conftest import assert_input_error

FAKE = """#!{python}
import json, sys
from pathlib import Path
folder = Path(__file__).parent
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
answer = json.loads((folder / "answers.json").read_text())[sys.argv[2]]
print(answer.get("out", ""))
sys.stderr.buffer.write(answer.get("err", "").encode(errors="surrogateescape"))
sys.exit(answer.get("status", 0))
"""
LISTING = "ref,fileName,date,description,status,publicScore,privateScore\n"
LOG = "utc,file,sha256,run,competition,message,score\n"


def noon(minutes=0.0):
    """A time as Kaggle lists it, and as the log has it but for a zone."""
    return (datetime(2025, 1, 1, 12) + timedelta(minutes=minutes)).isoformat(sep=" ")


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
def command(tmp_path, monkeypatch, capsys):
    """In a working folder with the data and mine.csv, which has no fault: run the command, return what it prints."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    captions = {
        "caption_ids": np.array([30, 7]),
        "caption_texts": np.array(["a dog", "a cat"], object),
        "text_embeddings": rng.standard_normal((2, 4), np.float32),
    }
    images = {"image_names": np.array(["a.jpg"], object), "image_embeddings": rng.standard_normal((1, 3), np.float32)}
    save_pairs(Pairs(**captions, image_of_caption=np.zeros(2, np.int32), **images), "data/train/train.npz")
    save_test_captions(TestCaptions(**captions), "data/test/test.clean.npz")
    write_submission("mine.csv", captions["caption_ids"], rng.standard_normal((2, 3), np.float32))

    def start(*arguments):
        main(list(map(str, arguments)))
        return capsys.readouterr().out

    return start


@pytest.fixture
def submit(command):
    arguments = ("submit", "mine.csv", "--competition", "aml", "--message", "first, a try", "--wait", "0")
    return lambda: command(*arguments)


def logged(tmp_path):
    with (tmp_path / "submissions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_check_says_ok_and_what_is_odd(command, tmp_path):
    assert command("check", "mine.csv") == (
        "ok: mine.csv (0.0 MB) has all 2 test captions of data/test/test.clean.npz\n"
    )
    (tmp_path / "data/train/train.npz").unlink()
    assert "  note 1  the embeddings have 3 numbers; the width of the images is not known\n" in command(
        "check", "mine.csv"
    )


def test_check_names_faults(command):
    write_submission("mine.csv", np.array([30, 7]), np.zeros((2, 5)))
    with pytest.raises(InputError, match=r"mine\.csv: its embeddings have 5 numbers; those of the images have 3"):
        command("check", "mine.csv")


@pytest.fixture
def mark(command, tmp_path):
    """Have the marker of data/ say that these of its files are the sample's; the captions are embedded in two ways."""
    captions = open_test_captions("data/test/test.clean.npz")
    save_test_captions(replace(captions, text_embeddings=-captions.text_embeddings), "data/test/test.clean.npz")

    def write(*names):
        pair = {name: fingerprint(f"data/{name}") if name in names else "another" for name in PAIR}
        (tmp_path / "data" / MARKER).write_text(json.dumps({"pair": pair}))

    return write


def test_a_submission_for_the_samples_captions_beside_other_pairs_is_not_ok(command, mark):
    mark(PAIR[1])
    with pytest.raises(InputError, match=r"test\.clean\.npz: is the embedded sample's, but data/train/train\.npz"):
        command("check", "mine.csv")
    mark(*PAIR)
    assert command("check", "mine.csv").startswith("ok: mine.csv")


def test_the_width_of_the_samples_images_says_nothing_of_other_captions(command, mark):
    write_submission("mine.csv", np.array([30, 7]), np.arange(10, dtype=np.float32).reshape(2, 5))
    mark(PAIR[0])
    assert "the embeddings have 5 numbers; the width of the images is not known" in command("check", "mine.csv")


def test_as_a_user_starts_it(run_script):
    assert_input_error(run_script("-m", "src.submission", "check", "absent.csv"), "no such file")


def test_a_file_is_sent_and_logged_with_its_run_and_score(submit, kaggle, tmp_path):
    digest = sha256(tmp_path / "mine.csv")
    run = {"recipe": {}, "data": {}, "status": "finished", "submission": {"path": "elsewhere.csv", "sha256": digest}}
    other = run | {"submission": {"path": "mine.csv", "sha256": "0"}}
    for name, record in (("a_other", other), ("b_this", run)):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "run.json").write_text(json.dumps(record))
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ")
    kaggle(f'Warning: outdated\n{LISTING}9,mine.csv,{now},"first, a try",SubmissionStatus.COMPLETE,0.61803,None')
    assert "score: 0.61803" in submit()
    sent, asked = kaggle.calls()
    assert sent == ["competitions", "submit", "-c", "aml", "-f", "mine.csv", "-m", "first, a try"]
    assert asked == ["competitions", "submissions", "-c", "aml", "--csv", "--page-size", "200"]
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


@pytest.fixture
def scores(command, kaggle, tmp_path):
    """Fill in the scores of a log of rows (minutes after noon, file, message[, score]) from a listing of entries
    (minutes, file name, message, status, score); return the log's scores."""

    def start(rows, entries, competition="aml"):
        log = [[noon(row[0]) + "+00:00", row[1], "0", "", "aml", row[2], *(row[3:] or [""])] for row in rows]
        with (tmp_path / "submissions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([LOG.strip().split(","), *log])
        listing = StringIO(LISTING)
        listing.seek(0, SEEK_END)
        csv.writer(listing).writerows([[9, name, noon(at), *rest, ""] for at, name, *rest in entries])
        kaggle(listing.getvalue())
        command("scores", "--competition", competition)
        return [row["score"] for row in logged(tmp_path)]

    return start


COMPLETE, PENDING = "SubmissionStatus.COMPLETE", "SubmissionStatus.PENDING"


def test_scores_are_filled_in_later(submit, command, kaggle, tmp_path):
    assert "not known yet; later: python -m src.submission scores --competition aml" in submit()
    now = datetime.now(UTC).isoformat(sep=" ")
    kaggle(LISTING + f'1,mine.csv,{now},"first, a try",{PENDING},,\n')
    assert "0 of 1 scores are known" in command("scores", "--competition", "aml")
    kaggle(LISTING + f'1,mine.csv,{now},"first, a try",{COMPLETE},0.5,\n')
    assert "1 of 1 scores are known" in command("scores", "--competition", "aml")
    assert [row["score"] for row in logged(tmp_path)] == ["0.5"]


def test_only_the_same_competition_name_and_message_match(scores):
    rows = [(0, "out/a.csv", "one"), (1, "b.csv", "two"), (2, "c.csv", "one")]
    entries = [(1, "b.csv", "two", "ERROR", ""), (0, "a.csv", "one", COMPLETE, 0.2), (2, "c.csv", "two", COMPLETE, 0.1)]
    assert scores(rows, entries) == ["0.2", "error", ""]
    assert scores(rows, entries, "other") == ["", "", ""]


def test_equal_names_and_messages_are_told_apart_by_time(scores):
    """As a loop sends them; the listing lacks the oldest, which a page is too short for, and the last one."""
    rows = [(i, "submission.csv", "try") for i in range(30)]
    entries = [(i - 0.05, "submission.csv", "try", COMPLETE, f"0.{i}") for i in range(28, 8, -1)]
    assert scores(rows, entries) == [f"0.{i}" if 8 < i < 29 else "" for i in range(30)]


def test_what_the_log_lacks_is_passed_over_and_a_known_score_stays(scores):
    rows = [(60, "a.csv", "one"), (90, "a.csv", "one", "0.3")]
    entries = [
        (90, "a.csv", "one", COMPLETE, 0.4),
        (60, "a.csv", "one", COMPLETE, 0.2),
        (0, "a.csv", "one", COMPLETE, 0.1),
    ]
    assert scores(rows, entries) == ["0.2", "0.3"]


def test_what_cannot_be_told_apart_has_no_score(scores):
    entry = (0.5, "a.csv", "one", COMPLETE, 0.2)
    assert scores([(0, "a.csv", "one"), (1, "a.csv", "one")], [entry]) == ["", ""]
    assert scores([(0.5, "a.csv", "one")], [entry, entry]) == [""]
    assert scores([(60, "a.csv", "one")], [entry]) == [""]


def test_messages_of_several_lines_match(scores):
    rows = [(0, "a.csv", "two\nlines"), (0, "a.csv", "two other\nlines")]
    entries = [(0, "a.csv", "two\nlines", COMPLETE, 0.1), (0, "a.csv", " two other\r\nlines", COMPLETE, 0.2)]
    assert scores(rows, entries) == ["0.1", "0.2"]


def test_a_client_without_pages_is_asked_without(command, kaggle, tmp_path):
    (tmp_path / "submissions.csv").write_text(LOG + f"{noon()}+00:00,a.csv,0,,aml,one,\n")
    kaggle(LISTING + f"1,a.csv,{noon()},one,complete,0.5,\nWarning: this client is outdated\n")
    script = tmp_path / "bin/kaggle"
    refusal = 'if "--page-size" in sys.argv: sys.exit("error: unrecognized arguments: --page-size 200")\n'
    script.write_text(script.read_text().replace("folder = ", refusal + "folder = ", 1))
    assert "1 of 1 scores are known" in command("scores", "--competition", "aml")


def test_a_page_is_named_by_its_slug_too(submit, command, kaggle):
    kaggle()
    command(
        "submit",
        "mine.csv",
        "--competition",
        "https://www.kaggle.com/competitions/aml/leaderboard",
        "--message",
        "m",
        "--wait",
        "0",
    )
    assert {call[3] for call in kaggle.calls()} == {"aml"}


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
        (
            {"status": 1, "err": "403 Client Error: Forbidden for url: …"},
            "rules first: https://.*/competitions/aml/rules",
        ),
        ({"status": 1, "err": "caf\udce9 failed"}, "failed: caf\ufffd failed"),
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


def test_a_log_that_cannot_be_written_is_found_before_anything_is_sent(command, kaggle, tmp_path):
    with pytest.raises(InputError, match=r"mine\.csv/log\.csv: cannot be written"):
        command("submit", "mine.csv", "--competition", "aml", "--message", "m", "--log", "mine.csv/log.csv")
    assert not (tmp_path / "bin/calls.jsonl").exists()


def test_a_listing_without_scores_is_an_error(command, kaggle, tmp_path):
    (tmp_path / "submissions.csv").write_text(LOG + "now,a.csv,0,,aml,one,\n")
    kaggle("fileName,date\na.csv,now\n")
    with pytest.raises(InputError, match="without the score"):
        command("scores", "--competition", "aml")
