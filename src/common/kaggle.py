"""The Kaggle CLI: send a submission, ask for scores, and keep the table of what was sent.

`submissions.csv` has one row for each file sent: when, which file with which contents, of which run, and its score.
"""

import csv
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path

from src.common.files import InputError, atomic_path
from src.training.runs import now

COLUMNS = ("utc", "file", "sha256", "run", "competition", "message", "score")
POLL_SECONDS = 5
CREDENTIALS = "run `kaggle auth login`, or save an API token of https://www.kaggle.com/settings/api in ~/.kaggle"


def kaggle(*arguments: str) -> str:
    """Run `kaggle competitions …` and return what it prints. Raises InputError that says why it failed."""
    try:
        result = subprocess.run(["kaggle", "competitions", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(f"there is no `kaggle` command here: pip install kaggle, then {CREDENTIALS}") from None
    # Kaggle clients before 2.0 say that they "Could not submit" or "Could not find" on stdout and end with status 0.
    if result.returncode or re.search("^Could not", result.stdout, re.MULTILINE):
        output = result.stderr + result.stdout
        if any(sign in output for sign in ("Authentication required", "Could not find kaggle.json", "Unauthorized")):
            raise InputError(f"Kaggle has no credentials here, or wrong ones: {CREDENTIALS}")
        lines = [line for line in output.splitlines() if line.strip() and "%|" not in line]  # no progress bars
        raise InputError(f"`kaggle competitions {arguments[0]}` failed: {' '.join(lines)[-300:] or 'no reason given'}")
    return result.stdout


def send(path: Path, digest: str, run_dir: str, competition: str, message: str, log: Path) -> None:
    """Submit a file and append a row to `log`, with the file's SHA-256 and the run that wrote it, "" if unknown."""
    rows = _read_log(log)  # before anything is sent: it may be damaged
    kaggle("submit", "-c", competition, "-f", str(path), "-m", message)
    values = (now(), str(path), digest, run_dir, competition, message, "")
    _write_log(log, [*rows, dict(zip(COLUMNS, values, strict=True))])


def wait_for_score(log: Path, competition: str, seconds: float) -> str:
    """Ask every few seconds until the last row of `log` has its score. Returns the score, "" after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        fill_scores(log, competition)
        score = _read_log(log)[-1]["score"]
        if score or time.monotonic() + POLL_SECONDS > deadline:
            return score
        time.sleep(POLL_SECONDS)


def fill_scores(log: Path, competition: str) -> int:
    """Enter the public scores that `log` lacks, or "error" for what Kaggle could not score. Returns how many."""
    rows = _read_log(log)
    sent = defaultdict(list)
    for row in rows:
        if row["competition"] == competition:
            sent[Path(row["file"]).name, row["message"]].append(row)
    listing = _oldest_first(kaggle("submissions", "-c", competition, "--csv")) if sent else []
    filled = 0
    for key, ours in sent.items():
        # The same name and message sent twice: the first of the log is the first of the listing, which may still
        # lack the last, or have older ones that the log lacks.
        theirs = [entry for entry in listing if (entry["fileName"], entry["description"]) == key][-len(ours) :]
        for row, entry in zip(ours, theirs, strict=False):
            score = "error" if "error" in entry["status"].lower() else entry["publicScore"]
            if not row["score"] and score not in ("", "None"):
                row["score"] = score
                filled += 1
    if filled:
        _write_log(log, rows)
    return filled


def _oldest_first(output: str) -> list[dict[str, str]]:
    """The table that `kaggle competitions submissions --csv` prints, below any remarks, newest first."""
    lines = output.splitlines()
    start = next((number for number, line in enumerate(lines) if "fileName" in line), len(lines))
    listing = list(csv.DictReader(lines[start:]))
    if listing and not {"description", "status", "publicScore"} <= listing[0].keys():
        raise InputError(f"`kaggle competitions submissions` gave a table without the score: {lines[start]}")
    return listing[::-1]


def _read_log(log: Path) -> list[dict[str, str]]:
    if not log.exists():
        return []
    with log.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS or any(None in row or None in row.values() for row in rows):
        raise InputError(f"{log}: not a table with the columns {', '.join(COLUMNS)}; name another with --log")
    return rows


def _write_log(log: Path, rows: list[dict[str, str]]) -> None:
    with atomic_path(log) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
