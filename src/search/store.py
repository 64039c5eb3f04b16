"""A search on disk, and how the processes that work on it share it.

journal.log              Optuna's journal: every trial, its MRR after each epoch, how it ended
search.lock              the locks: of the search, of the journal, and of every trial that is running
trial_001/ …             the runs; the weights of the best only
best_recipe.json         the best configuration so far, for train_mrr.py --recipe
hpsearch_results.csv     one row for each trial that has ended; elsewhere, because it is the user's

The journal is the truth. What else there is to say is written anew from it whenever a trial ends, so a process that
is killed in between leaves nothing to repair. A trial that is running without its lock was left by a process that
died; whoever sees it first takes it up.
"""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.common.files import InputError, now, write_json, write_text
from src.common.locks import FileLocks
from src.search.space import Space
from src.search.strategy import distributions, draw
from src.training.runs import BEST_LOSS, BEST_MRR, LAST, State, read_run, write_run

JOURNAL, LOCKS, BEST_RECIPE = "journal.log", "search.lock", "best_recipe.json"
WHOLE_SEARCH, WHOLE_JOURNAL, FIRST_TRIAL = 0, 1, 2  # which lock is which
TRIAL_STATES = {
    State.FINISHED: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}
TABLE_MEASURES = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr")
MOST_DEATHS = 3

TrialRow = dict[str, Any]  # of the table: a value for each column, "" for none


@dataclass(kw_only=True)
class SearchStore:
    """A search in `folder`, new or continued; its table is `results`.

    `data` is the identity of what is trained on; the best `keep` trials keep their weights. Raises InputError for a
    folder with another search or a damaged one, and for `results` with other rows than this search's.
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
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search says itself what there is to say
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks = FileLocks(self.folder / LOCKS)
        with self.exclusive():
            journal = self.folder / JOURNAL
            if not journal.exists():
                if any(self.folder.glob("trial_*")):
                    raise InputError(f"{self.folder}: holds trials without their {JOURNAL}; move the folder away")
                self._write_table([])
            try:
                self.study = optuna.create_study(
                    storage=JournalStorage(JournalFileBackend(str(journal), _JournalLock(self._locks, journal))),
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

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep all other processes from claiming and ending trials."""
        return self._locks.held(WHOLE_SEARCH)

    def run_dir(self, trial: int) -> Path:
        """Of a trial as users count them, from 1; Optuna's numbers start at 0."""
        return self.folder / f"trial_{trial:03}"

    def rows(self) -> list[TrialRow]:
        """The rows of the trials that have ended, by number."""
        return [trial.user_attrs["row"] for trial in self._trials() if trial.state.is_finished()]

    def claim(self, trials: int) -> optuna.Trial | None:
        """A trial to run, of the first so many; None if all have ended or are running in other processes.

        One that a dead process has left comes first. One that has killed its process again and again (by taking all
        memory, say) ends as failed.
        """
        with self.exclusive():
            for left in self._trials()[:trials]:
                if left.state == TrialState.RUNNING and self._locks.acquire(FIRST_TRIAL + left.number, wait=False):
                    trial = optuna.Trial(self.study, left._trial_id)
                    if trial.user_attrs.get("starts", 0) < MOST_DEATHS:
                        return self._start(trial)
                    reason = f"its process died {MOST_DEATHS} times before an epoch was over; out of memory?"
                    self._end(trial, State.FAILED, {}, reason)
            earlier = self._trials()
            if not any(trial.state == TrialState.WAITING for trial in earlier[:trials]):
                if len(earlier) >= trials:
                    return None
                configuration = draw(self.space, earlier, self.sampler, self.seed)
                waiting = {"state": TrialState.WAITING, "distributions": distributions(self.space)}
                self.study.add_trial(create_trial(params=configuration, **waiting))
            trial = self.study.ask()  # the first that waits
            self._locks.acquire(FIRST_TRIAL + trial.number)
            return self._start(trial)

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

    def end(self, trial: optuna.Trial, state: State, results: dict[str, Any], reason: str = "") -> TrialRow:
        """Record how a trial ended, in the journal and in all that is made from it. Returns its row."""
        with self.exclusive():
            return self._end(trial, state, results, reason)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _check_settings(self) -> None:
        """Remember what the search is about, or compare it with what it was begun for."""
        ours = {"base": asdict(self.space.base), "choices": self.space.choices, "data": self.data}
        ours = json.loads(json.dumps(ours | {"sampler": self.sampler, "search_seed": self.seed}))
        theirs = self.study.user_attrs.get("settings")
        if theirs is None:
            self.study.set_user_attr("settings", ours)
            return
        before, after = ({**each, **each["base"], **each["data"], **each["choices"]} for each in (theirs, ours))
        names = [name for name in after | before if name not in ("base", "data", "choices")]
        if differing := [name for name in names if before.get(name) != after.get(name)]:
            raise InputError(
                f"{self.folder}: holds a search with another {', '.join(differing)}; choose another --models-dir and "
                "--results, or remove it"
            )

    def _start(self, trial: optuna.Trial) -> optuna.Trial:
        """Count how often the trial was started since it last got through an epoch."""
        trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        return trial

    def _end(self, trial: optuna.Trial, state: State, results: dict[str, Any], reason: str) -> TrialRow:
        run_dir = self.run_dir(trial.number + 1)
        row: TrialRow = {"trial": trial.number + 1, "state": state}
        if reached := self._trials()[trial.number].intermediate_values:
            best_epoch = max(reached, key=reached.__getitem__)
            row |= {"mrr": reached[best_epoch], "best_epoch": best_epoch, "epochs": max(reached)}
        row |= results | trial.params
        row |= {"ended": now(), "run": str(run_dir), "reason": " ".join(reason.split())}
        row = {column: row.get(column, "") for column in self._columns()}
        trial.set_user_attr("row", row)
        self.study.tell(trial, row["mrr"] if state == State.FINISHED else None, TRIAL_STATES[state])
        self._locks.release(FIRST_TRIAL + trial.number)
        for path in run_dir.glob(".*.*"):  # of a process that was killed while it wrote
            path.unlink()
        self._publish()
        return row

    def _publish(self) -> None:
        """Write the table and the best recipe, and remove the weights of all but the best."""
        rows = self.rows()
        self._write_table(rows)
        ranking = ranked(rows)
        if ranking:
            best = {name: ranking[0][name] for name in self.space.choices}
            write_json(self.folder / BEST_RECIPE, asdict(self.space.recipe(best)))
        for row in rows:
            if row not in ranking[: self.keep]:
                _remove_weights(self.run_dir(row["trial"]))

    def _columns(self) -> list[str]:
        before = ("trial", "state", *TABLE_MEASURES, "best_epoch", "epochs")
        after = ("training_seconds", "device", "precision", "ended", "run", "reason")
        return [*before, *self.space.choices, *after]

    def _write_table(self, rows: list[TrialRow]) -> None:
        """Write the rows as CSV. Raises InputError if the file there has rows that would be lost."""
        text = pd.DataFrame(rows, columns=self._columns()).to_csv(index=False)
        if self.results.exists():
            theirs = self.results.read_text(encoding="utf-8", errors="replace")
            if lost := set(theirs.splitlines()) - set(text.splitlines()):
                raise InputError(
                    f"{self.results}: holds {len(lost)} lines of something else; move it, or name another --results"
                )
        write_text(self.results, text)


class _JournalLock:
    """What Optuna asks of a lock. Its own is a file, which a process that is killed leaves behind: the others wait 30 s
    for it, or with optuna before 4.4 for ever."""

    def __init__(self, locks: FileLocks, journal: Path) -> None:
        self._locks, self._journal = locks, journal

    def acquire(self) -> bool:
        self._locks.acquire(WHOLE_JOURNAL)
        # A process that was killed while it wrote has left half a line, and the next one would be appended to it.
        journal = self._journal.read_bytes()
        if not journal.endswith(b"\n"):
            os.truncate(self._journal, journal.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._locks.release(WHOLE_JOURNAL)


def ranked(rows: list[TrialRow]) -> list[TrialRow]:
    """The rows of finished trials, the best first."""
    return sorted((row for row in rows if row["state"] == State.FINISHED), key=lambda row: -row["mrr"])


def _remove_weights(run_dir: Path) -> None:
    record = read_run(run_dir)
    if record and record.status == State.FINISHED:  # who looks for finished runs looks for their weights
        write_run(run_dir, replace(record, status=State.WEIGHTS_REMOVED))
    for name in (BEST_MRR, BEST_LOSS, LAST):
        (run_dir / name).unlink(missing_ok=True)
