"""Check a submission CSV, send it to Kaggle, and keep the table of what was sent.

    python -m src.submission check submission_mrr_baseline.csv
    python -m src.submission submit submission_mrr_baseline.csv --competition <slug> --message "baseline, seed 43"
    python -m src.submission scores --competition <slug>       # fill in the scores that were not known yet

The table, submissions.csv, has one row for each file sent: when, which contents, of which run, and its score.
"""

import csv
import itertools
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from src.common.cli import Parser, print_settings
from src.common.endings import run_main
from src.common.files import InputError, atomic_path, now, sha256, try_outputs
from src.common.kaggle import kaggle
from src.common.paths import MODELS_DIR, TEST_NPZ, TRAIN_NPZ
from src.data.origins import are_of_sample, embedded_alike, mixed
from src.data.pairs import embedding_dims, open_test_captions
from src.data.submissions import check_submission
from src.training.runs import runs_by_submission

LOG = Path("submissions.csv")
LOG_COLUMNS = ["utc", "file", "sha256", "run", "competition", "message", "score"]
POLL_SECONDS = 5
CLOCKS_APART = 300  # seconds, at most, between Kaggle's time of a submission and ours


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is wrong with a CSV before Kaggle does")
    submit = commands.add_parser("submit", help="check a CSV, send it to Kaggle, log it in submissions.csv")
    scores = commands.add_parser("scores", help="fill in scores that were not known yet")
    for command in (check, submit):
        command.add_argument("file", type=Path, help="the submission CSV")
        command.add_argument("--test-npz", type=Path, default=TEST_NPZ, help="the captions that it must predict")
        command.add_argument("--train-npz", type=Path, default=TRAIN_NPZ, help="tells the images' width, if it exists")
    for command in (submit, scores):
        command.add_argument("--competition", required=True, help="the competition's slug on Kaggle")
        command.add_argument("--log", type=Path, default=LOG, help="the table of what was sent")
    submit.add_argument("--message", required=True, help="what to remember this submission by")
    submit.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where to look for the run it came from")
    submit.add_argument("--wait", type=float, default=60, help="seconds to wait for the score")
    args = parser.parse_args(argv)
    if args.command == "scores":
        rows = fill_scores(args.log, args.competition)
        print(f"{args.log}: {sum(bool(row['score']) for row in rows)} of {len(rows)} scores are known")
        return
    test = open_test_captions(args.test_npz)
    notes = check_submission(args.file, test, image_width(args.train_npz, args.test_npz))
    megabytes = args.file.stat().st_size / 1e6
    title = f"ok: {args.file} ({megabytes:.1f} MB) has all {len(test)} test captions of {args.test_npz}"
    print_settings(title, {f"note {number}": note for number, note in enumerate(notes, 1)})
    if args.command == "submit":
        send(args.file, args.competition, args.message, args.log, args.models_dir)
        print(f"sent to {args.competition}, logged in {args.log}", flush=True)
        score = wait_for_score(args.log, args.competition, args.wait)
        later = f"not known yet; later: python -m src.submission scores --competition {args.competition}"
        print(f"score: {score or later}")


def image_width(train_npz: Path, test_npz: Path) -> int | None:
    """What the pairs say of the images' width, None if there are none or they are the sample's and the captions are
    not. Raises InputError if the captions are the sample's and the pairs are not."""
    if not train_npz.exists():
        return None
    pairs, captions = are_of_sample(train_npz, test_npz)
    if pairs != captions and not embedded_alike(train_npz, test_npz):
        if captions:
            raise InputError(mixed(test_npz, train_npz, "test"))
        return None
    return embedding_dims(train_npz).get("image")


def send(path: Path, competition: str, message: str, log: Path, models_dir: Path) -> None:
    """Submit a file to Kaggle and append a row to `log`. Raises InputError, and logs nothing, if Kaggle refuses it."""
    rows = read_log(log)  # before anything is sent: it may be damaged
    try_outputs([log], [path])
    digest = sha256(path)
    run_dir, _ = runs_by_submission(models_dir).get(digest, ("", None))
    kaggle("submit", competition, "-f", str(path), "-m", message)
    values = (now(), str(path), digest, str(run_dir), competition, message, "")
    _write_log(log, [*rows, dict(zip(LOG_COLUMNS, values, strict=True))])


def wait_for_score(log: Path, competition: str, seconds: float) -> str:
    """Ask every few seconds until the last row of `log` has its score. Returns the score, "" after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        score = fill_scores(log, competition)[-1]["score"]
        if score or time.monotonic() + POLL_SECONDS > deadline:
            return score
        time.sleep(POLL_SECONDS)


def fill_scores(log: Path, competition: str) -> list[dict[str, str]]:
    """Enter the public scores that `log` lacks, or "error" for what Kaggle could not score. Returns its rows."""
    rows = read_log(log)
    ours = [row for row in rows if row["competition"] == competition]
    if not ours:
        return rows
    for row, entry in _match(ours, _listing(competition)):
        score = "error" if "error" in entry["status"].lower() else entry["publicScore"]
        if score != "None":
            row["score"] = row["score"] or score
    _write_log(log, rows)
    return rows


def _match(
    rows: list[dict[str, str]], entries: list[dict[str, str]]
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Which entry of Kaggle's listing is a row's: of the same file name and message the nearest in time, both ways.

    Names and messages may repeat, and the listing may lack old ones, the last one, and have some that the log lacks.
    """
    apart = np.full((len(rows), len(entries)), np.inf)
    for i, row in enumerate(rows):
        for j, entry in enumerate(entries):
            same_file = Path(row["file"]).name == entry["fileName"]
            if same_file and row["message"].split() == entry["description"].split():
                apart[i, j] = abs(_seconds(row["utc"]) - _seconds(entry["date"]))
    for i, j in np.argwhere(apart <= CLOCKS_APART):
        if 1 == (apart[i] <= apart[i, j]).sum() == (apart[:, j] <= apart[i, j]).sum():  # what is as near is ambiguous
            yield rows[i], entries[j]


def _seconds(text: str) -> float:
    """Since the epoch, of an ISO 8601 time, in UTC if it does not say; NaN for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _listing(competition: str) -> list[dict[str, str]]:
    """What was submitted: the table that the Kaggle CLI prints between its remarks."""
    try:
        output = kaggle("submissions", competition, "--csv", "--page-size", "200")
    except InputError as error:
        if "--page-size" not in str(error):
            raise
        output = kaggle("submissions", competition, "--csv")  # a client before 2.0, which lists the last 20
    lines = itertools.dropwhile(lambda line: "fileName" not in line, output.splitlines(keepends=True))
    table = list(csv.DictReader(lines, restval=""))
    if table and not {"date", "description", "status", "publicScore"} <= table[0].keys():
        raise InputError(f"`kaggle competitions submissions` gave a table without the score: {', '.join(table[0])}")
    return table


def read_log(log: Path) -> list[dict[str, str]]:
    """The rows of the table of what was sent. Raises InputError for a file that is none."""
    if not log.exists():
        return []
    with log.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != LOG_COLUMNS or any(None in row or None in row.values() for row in rows):
        raise InputError(f"{log}: not a table with the columns {', '.join(LOG_COLUMNS)}; name another with --log")
    return rows


def _write_log(log: Path, rows: list[dict[str, str]]) -> None:
    with atomic_path(log) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run_main(main)
