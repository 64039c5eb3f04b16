"""A search on disk, and how the processes that work on it share it.

journal.log              Optuna's journal: every trial, its MRR after each epoch, how it ended
search.lock              the locks: of the search, of the journal, and of every trial that is running
trial_001/ …             the runs; the weights of the best only
best_recipe.json         the best configuration so far, for train_mrr.py --recipe
hpsearch_results.csv     one row for each trial that has ended; elsewhere, because it is the user's

The journal is the truth. The rest is written anew from it whenever a trial ends, so a kill in between leaves nothing to
repair. A trial that is running without its lock was left by a process that died; whoever sees it first takes it up.
"""

import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.common.files import InputError, now, write_json, write_text
from src.common.locks import FileLocks
from src.search.space import COMMON, SEARCHABLE, Space
from src.search.strategy import distributions, draw
from src.training.recipe import flag_of, recorded_recipe
from src.training.runs import BEST_LOSS, BEST_MRR, LAST, State, read_run, write_run

JOURNAL, LOCKS, BEST_RECIPE = "journal.log", "search.lock", "best_recipe.json"
WHOLE_SEARCH, WHOLE_JOURNAL, FIRST_TRIAL = 0, 1, 2  # which lock is which
OUTCOMES = {State.FINISHED: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.FAILED: TrialState.FAIL}
TABLE_MEASURES = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr", "best_epoch", "epochs")
FLAGS = {*COMMON, *SEARCHABLE, "sampler", "search_seed"}  # the settings that are the user's
STARTED_FROM = "started_from"  # the column that tables of earlier versions lack
TABLE_REMARKS = (STARTED_FROM, "training_seconds", "device", "precision", "ended", "run", "reason")

TrialRow = dict[str, Any]  # of the table: a value for each column, "" for none


class _OtherSearch(Exception):
    """The folder holds a search with other settings."""


@dataclass(kw_only=True)
class SearchStore:
    """A search in `folder`, new or continued; its table is `results`.

    `data` is the identity of what is trained on; the best `keep` trials keep their weights. Raises InputError for a
    folder with another search or a damaged one, and for a table with other rows.
    """

    folder: Path
    results: Path
    space: Space
    data: dict[str, str]
    sampler: str
    seed: int
    pruner: optuna.pruners.BasePruner
    keep: int

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._columns = ["trial", "state", *TABLE_MEASURES, *self.space.choices, *TABLE_REMARKS]
        self._locks = FileLocks(self.folder / LOCKS)
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # the search says itself how trials end
        with self.exclusive():
            journal = self.folder / JOURNAL
            if not journal.exists() or not journal.stat().st_size:
                if any(self.folder.glob("trial_*")):
                    raise InputError(f"{self.folder}: holds trials without their {JOURNAL}; move the folder away")
                self._write_table([])
            lock: Any = _JournalLock(self._locks, journal)
            try:
                self.study = optuna.create_study(
                    storage=JournalStorage(JournalFileBackend(str(journal), lock)),
                    study_name="hpsearch",
                    direction="maximize",
                    load_if_exists=True,
                    sampler=optuna.samplers.RandomSampler(),  # is never asked: all is drawn before
                    pruner=self.pruner,
                )
                self._check_settings()
                for trial in self._trials():
                    self._check_trial(trial)
            except OSError:
                raise
            except _OtherSearch as error:
                raise InputError(f"{self.folder}: {error}") from None
            except Exception as error:  # Optuna takes the lines of a journal for what it wrote
                raise InputError(f"{journal}: not a search's journal, or a damaged one ({error!r})") from None
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
        """A trial to run, of the first so many: one that a dead process has left, a named recipe's, or the next of the
        list. None if all have ended or are running in other processes."""
        with self.exclusive():
            known = self._trials()
            unfinished = (t for t in known[:trials] if not t.state.is_finished())
            free = next((t for t in unfinished if self._locks.acquire(FIRST_TRIAL + t.number, wait=False)), None)
            if free is None and len(known) >= trials:
                return None
            if free is None:
                tried, choices = [trial.params for trial in known], distributions(self.space)
                named = (configuration for configuration in self.space.named.values() if configuration not in tried)
                params = next(named, None) or draw(self.space, known, self.sampler, self.seed)
                self.study.add_trial(create_trial(state=TrialState.WAITING, params=params, distributions=choices))
                free = self._trials()[-1]
                self._locks.acquire(FIRST_TRIAL + free.number)
            # Optuna is asked for what waits, and the first of these is the free one.
            trial = self.study.ask() if free.state == TrialState.WAITING else optuna.Trial(self.study, free._trial_id)
            trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
            return trial

    def report(self, trial: optuna.Trial, epoch: int, mrr: float) -> bool:
        """Record an epoch's MRR. Returns whether the pruner sees no hope. A named recipe is seen through, because the
        others are compared with it."""
        if trial.user_attrs["starts"]:  # how often, since it last got through an epoch
            trial.set_user_attr("starts", 0)
        if epoch not in self._trials()[trial.number].intermediate_values:  # by whoever ran it before
            trial.report(mrr, epoch)
        return trial.params not in self.space.named.values() and trial.should_prune()

    def end(self, trial: optuna.Trial, state: State, results: dict[str, Any], reason: str = "") -> TrialRow:
        """Record how a trial ended, in its folder, the journal and all that is made from it. Returns its row."""
        run_dir = self.run_dir(trial.number + 1)
        values: dict[str, Any] = {"trial": trial.number + 1, "state": state, "ended": now(), "run": str(run_dir)}
        if reached := self._trials()[trial.number].intermediate_values:
            best_epoch = max(reached, key=reached.__getitem__)
            values |= {"mrr": reached[best_epoch], "best_epoch": best_epoch, "epochs": max(reached)}
        names = ", ".join(recipe.name for recipe, params in self.space.named.items() if params == trial.params)
        values |= results | trial.params | {STARTED_FROM: names, "reason": " ".join(reason.split())}
        row = {column: values.get(column, "") for column in self._columns}
        with self.exclusive():
            if state != State.FINISHED and (record := read_run(run_dir)):
                write_run(run_dir, replace(record, status=state, reason=row["reason"], finished=row["ended"]))
            trial.set_user_attr("row", row)
            self.study.tell(trial, row["mrr"] if state == State.FINISHED else None, OUTCOMES[state])
            self._locks.release(FIRST_TRIAL + trial.number)
            for path in run_dir.glob(".*.*"):  # of a process that was killed while it wrote
                path.unlink()
            self._publish()
        return row

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _check_settings(self) -> None:
        """Record what the search is about, or compare it with what it was begun with."""
        ours = {"base": asdict(self.space.base), "choices": self.space.choices, "data": self.data}
        ours = json.loads(json.dumps(ours | {"sampler": self.sampler, "search_seed": self.seed}))
        theirs = self.study.user_attrs.get("settings")
        if theirs is None:
            self.study.set_user_attr("settings", ours)
            return
        theirs |= {"base": asdict(recorded_recipe(theirs["base"]))}  # may be of an older version of this project
        for settings in (theirs, ours):
            for part in ("base", "data", "choices"):  # the choices last: `base` has the lowest of what is searched
                settings |= settings.pop(part)
        if differing := [name for name in theirs | ours if theirs.get(name) != ours.get(name)]:
            advice = "choose another --models-dir and --results, or remove it"
            if set(differing) <= FLAGS:  # mostly the choices of an earlier version
                flags = " ".join(_flag(name, theirs.get(name)) for name in differing)
                advice = f"continue it with {flags}, or {advice}"
            raise _OtherSearch(f"holds a search with another {', '.join(differing)}; {advice}")

    def _check_trial(self, trial: FrozenTrial) -> None:
        """Raises an error unless a trial of the journal is one of this search."""
        choices, attributes = self.space.choices, trial.user_attrs
        sane = trial.params.keys() == choices.keys() and type(attributes.get("starts", 0)) is int
        sane = sane and isinstance(trial.system_attrs, dict)
        sane = sane and all(trial.params[name] in choices[name] for name in choices)
        if sane and trial.state.is_finished():
            row = attributes["row"]
            json.dumps(row, ensure_ascii=False).encode()  # can be written to the table
            sane = row["trial"] == trial.number + 1 and all(row[name] == trial.params[name] for name in choices)
            sane = sane and (row["state"] != State.FINISHED or math.isfinite(row["mrr"]))
        if not sane:
            raise ValueError(f"trial {trial.number + 1} is none of this search")

    def _publish(self) -> None:
        """Write the table and the best recipe, and remove the weights of all but the best."""
        rows = self.rows()
        self._write_table(rows)
        if ranking := ranked(rows):
            best = {name: ranking[0][name] for name in self.space.choices}
            write_json(self.folder / BEST_RECIPE, asdict(self.space.recipe(best)))
        for run_dir in (self.run_dir(row["trial"]) for row in rows if row not in ranking[: self.keep]):
            record = read_run(run_dir)
            if record and record.status == State.FINISHED:  # who looks for finished runs looks for their weights
                write_run(run_dir, replace(record, status=State.WEIGHTS_REMOVED))
            for name in (BEST_MRR, BEST_LOSS, LAST):
                (run_dir / name).unlink(missing_ok=True)

    def _write_table(self, rows: list[TrialRow]) -> None:
        """Write the rows as CSV. Raises InputError if the file there has rows that would be lost."""
        table = pd.DataFrame(rows, columns=self._columns)
        text, earlier = table.to_csv(index=False), table.drop(columns=STARTED_FROM).to_csv(index=False)
        there = self.results.read_text(encoding="utf-8", errors="replace") if self.results.exists() else ""
        if lost := len(set(there.splitlines()) - set(text.splitlines()) - set(earlier.splitlines())):
            raise InputError(f"{self.results}: holds {lost} lines of something else; move it or name another --results")
        write_text(self.results, text)


@dataclass
class _JournalLock:
    """What Optuna asks of a lock. Its own is a file that outlives a kill: others wait 30 s for it, or for ever."""

    locks: FileLocks
    journal: Path

    def acquire(self) -> bool:
        self.locks.acquire(WHOLE_JOURNAL)
        with self.journal.open("rb") as file:
            file.seek(max(0, self.journal.stat().st_size - 1))
            whole = file.read() == b"\n"
        if not whole:  # half a line of a process that was killed; the next would be appended to it
            os.truncate(self.journal, self.journal.read_bytes().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.locks.release(WHOLE_JOURNAL)


def _flag(name: str, value: Any) -> str:
    """What to type for a setting, as a journal has it."""
    words = map(str, value if isinstance(value, list) else [value])
    return f"no {flag_of(name)}" if value is None else f"{flag_of(name)} {' '.join(words)}"


def ranked(rows: list[TrialRow]) -> list[TrialRow]:
    """The rows of finished trials, the best first."""
    return sorted((row for row in rows if row["state"] == State.FINISHED), key=lambda row: -row["mrr"])
