"""A search on disk, and how the processes that work on it share it.

journal.log              Optuna's journal: the list of trials, every MRR, how each trial ended
search.lock              the locks: of the search, of the journal, and of every trial that is running
trial_001/ …             the runs; the weights of the best only
best_recipe.json         the best configuration so far, for train_mrr.py --recipe
hpsearch_results.csv     one row for each trial that has ended; elsewhere, because it is the user's

The journal is the truth. What else there is to say is written anew from it whenever a trial ends, so a process that
is killed in between leaves nothing to repair. A trial that is running without its lock was left by a process that
died; whoever sees it first takes it up.
"""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from src.common.files import InputError, write_json, write_text
from src.common.locks import FileLocks
from src.search.space import Space, draw
from src.training.runs import BEST_LOSS, BEST_MRR, LAST, now, read_run, write_run

JOURNAL, LOCKS, BEST_RECIPE = "journal.log", "search.lock", "best_recipe.json"
WHOLE_SEARCH, WHOLE_JOURNAL, FIRST_TRIAL = 0, 1, 2  # which lock is which
FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
STATES = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
MEASURES = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr", "best_epoch", "epochs")
MOST_DEATHS = 3

Row = dict[str, Any]


class _JournalLock:
    """What Optuna asks of a lock, without the 30 s that its own ones wait for a process that was killed."""

    def __init__(self, locks: FileLocks, journal: Path) -> None:
        self._locks, self._journal = locks, journal

    def acquire(self) -> bool:
        self._locks.acquire(WHOLE_JOURNAL)
        _drop_half_line(self._journal)
        return True

    def release(self) -> None:
        self._locks.release(WHOLE_JOURNAL)


def _drop_half_line(path: Path) -> None:
    """Cut off what a process that was killed while it wrote has left; the next line would be appended to it."""
    with path.open("rb+") as file:
        if not file.seek(0, io.SEEK_END):
            return
        file.seek(-1, io.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


@dataclass(kw_only=True)
class SearchStore:
    """A search in `folder`, new or continued.

    `data` says what is trained on. Raises InputError for a folder with another search or a damaged one, and for
    `results` with other rows than this search's.
    """

    folder: Path
    results: Path
    space: Space
    data: dict[str, str]
    sampler: str
    seed: int
    pruner: BasePruner
    keep: int
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks = FileLocks(self.folder / LOCKS)
        with self.exclusive():
            journal = self.folder / JOURNAL
            if not journal.exists():
                if any(self.folder.glob("trial_*")):
                    raise InputError(f"{self.folder}: holds trials without their {JOURNAL}; move the folder away")
                _write_table(self.results, self._columns(), [])
            backend = JournalFileBackend(str(journal), lock_obj=_JournalLock(self._locks, journal))
            try:
                self.study = optuna.create_study(
                    storage=JournalStorage(backend),
                    study_name="hpsearch",
                    direction="maximize",
                    load_if_exists=True,
                    sampler=RandomSampler(),  # is never asked: configurations are drawn before their trials
                    pruner=self.pruner,
                )
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise InputError(f"{journal}: not a search's journal, or a damaged one ({error})") from None
            self._check_settings()
            self._publish()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other processes from claiming and ending trials."""
        with self._locks.held(WHOLE_SEARCH):
            yield

    def run_dir(self, number: int) -> Path:
        """Trials are counted from 1 wherever a user sees them, and from 0 in Optuna."""
        return self.folder / f"trial_{number + 1:03}"

    def rows(self) -> list[Row]:
        """The rows of the trials that have ended, in the list's order."""
        return [trial.user_attrs["row"] for trial in self._trials() if trial.state.is_finished()]

    def claim(self, trials: int) -> optuna.Trial | None:
        """A trial to run, of the first so many; None if all have ended or are running in other processes.

        One that a dead process has left comes first. One that has killed its process again and again (by taking all
        memory, say) ends as failed.
        """
        with self.exclusive():
            for trial in self._trials()[:trials]:
                if trial.state == TrialState.RUNNING and self._locks.try_acquire(FIRST_TRIAL + trial.number):
                    claimed = optuna.Trial(self.study, trial._trial_id)
                    if claimed.user_attrs.get("starts", 0) < MOST_DEATHS:
                        return self._start(claimed)
                    reason = f"its process died {MOST_DEATHS} times before an epoch was over; out of memory?"
                    self._end(claimed, FAILED, {}, reason)
            self._extend(trials)
            waiting = [trial for trial in self._trials()[:trials] if trial.state == TrialState.WAITING]
            if not waiting:
                return None
            claimed = self.study.ask()  # the first that waits
            self._locks.acquire(FIRST_TRIAL + claimed.number)
            return self._start(claimed)

    def report(self, trial: optuna.Trial, epoch: int, mrr: float) -> bool:
        """Record an epoch's MRR. Returns whether the pruner sees no hope."""
        if trial.user_attrs["starts"]:
            trial.set_user_attr("starts", 0)
        if epoch not in self._trials()[trial.number].intermediate_values:  # by whoever ran it before
            trial.report(mrr, epoch)
        return trial.should_prune()

    def give_back(self, trial: optuna.Trial) -> None:
        """Leave a trial to whoever comes next, without counting it as the death of a process."""
        trial.set_user_attr("starts", max(0, trial.user_attrs["starts"] - 1))
        self._locks.release(FIRST_TRIAL + trial.number)

    def end(self, trial: optuna.Trial, state: str, results: dict[str, Any], reason: str = "") -> Row:
        """Record how a trial ended, in the journal and in all that is made from it. Returns its row."""
        with self.exclusive():
            return self._end(trial, state, results, reason)

    def _check_settings(self) -> None:
        ours = {"base": asdict(self.space.base), "choices": self.space.choices, "data": self.data}
        ours |= {"sampler": self.sampler, "search_seed": self.seed}
        ours = json.loads(json.dumps(ours))
        theirs = self.study.user_attrs.get("settings")
        if theirs is None:
            self.study.set_user_attr("settings", ours)
        elif differing := _differing(theirs, ours):
            raise InputError(
                f"{self.folder}: holds a search with another {', '.join(differing)}; choose another --models-dir and "
                "--results, or remove it"
            )

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _start(self, trial: optuna.Trial) -> optuna.Trial:
        """Count how often the trial was started since it last got through an epoch."""
        trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        return trial

    def _extend(self, trials: int) -> None:
        """If none waits, add to the list: all that is missing, or the next one if it depends on those before."""
        earlier = self._trials()
        if any(trial.state == TrialState.WAITING for trial in earlier) or len(earlier) >= trials:
            return
        count = trials - len(earlier) if self.sampler == "random" else 1
        for configuration in draw(self.space, earlier, count, self.sampler, self.seed):
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.WAITING, params=configuration, distributions=self.space.distributions
                )
            )

    def _end(self, trial: optuna.Trial, state: str, results: dict[str, Any], reason: str) -> Row:
        reached = self._trials()[trial.number].intermediate_values
        row = dict.fromkeys(self._columns(), "") | {"trial": trial.number + 1, "state": state}
        if reached:
            best_epoch = max(reached, key=reached.get)
            row |= {"mrr": reached[best_epoch], "best_epoch": best_epoch, "epochs": max(reached)}
        row |= results | trial.params
        row |= {"ended": now(), "run": str(self.run_dir(trial.number)), "reason": " ".join(reason.split())}
        trial.set_user_attr("row", row)
        self.study.tell(trial, row["mrr"] if state == FINISHED else None, STATES[state])
        self._locks.release(FIRST_TRIAL + trial.number)
        for path in self.run_dir(trial.number).glob(".*.*"):  # of a process that was killed while it wrote
            path.unlink()
        self._publish()
        return row

    def _columns(self) -> list[str]:
        where = ("training_seconds", "device", "precision", "ended", "run", "reason")
        return ["trial", "state", *MEASURES, *self.space.choices, *where]

    def _publish(self) -> None:
        """Write the table and the best recipe, and remove the weights of all but the best."""
        rows = self.rows()
        _write_table(self.results, self._columns(), rows)
        ranking = ranked(rows)
        if ranking:
            best = {name: ranking[0][name] for name in self.space.choices}
            write_json(self.folder / BEST_RECIPE, asdict(self.space.recipe(best)))
        kept = {row["trial"] for row in ranking[: self.keep]}
        for row in rows:
            if row["trial"] not in kept:
                _remove_weights(self.run_dir(row["trial"] - 1))


def ranked(rows: list[Row]) -> list[Row]:
    """The rows of finished trials, the best first."""
    return sorted((row for row in rows if row["state"] == FINISHED), key=lambda row: -row["mrr"])


def _differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The names of the innermost settings that differ, each once."""
    names = []
    for name in theirs | ours:
        before, after = theirs.get(name), ours.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            names += _differing(before, after)
        elif before != after:
            names.append(name)
    return list(dict.fromkeys(names))


def _write_table(path: Path, columns: list[str], rows: list[Row]) -> None:
    """Write the rows as CSV. Raises InputError if the file there has rows that would be lost."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if path.exists():
        lost = set(path.read_text(encoding="utf-8", errors="replace").splitlines()) - set(text.getvalue().splitlines())
        if lost:
            raise InputError(f"{path}: holds {len(lost)} lines of something else; move it, or name another --results")
    write_text(path, text.getvalue())


def _remove_weights(run_dir: Path) -> None:
    record = read_run(run_dir)
    if record and record["status"] == "finished":  # who looks for finished runs looks for their weights
        write_run(run_dir, record | {"status": "weights removed"})
    for name in (BEST_MRR, BEST_LOSS, LAST):
        (run_dir / name).unlink(missing_ok=True)
