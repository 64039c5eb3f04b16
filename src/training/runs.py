"""The folder of a run, models/<run name>/, and its record run.json: what was trained, from what, how well.

run.json                  the record: recipe, data and their fingerprints, versions, commit, results
history.csv, curves.png   every epoch; of a closed form the strengths that were tried
best_mrr.safetensors      the weights of the epoch with the best validation MRR
best_loss.safetensors     … with the best validation regression loss
refit.safetensors         … of the model that was trained anew on all images, if that is what predicts
last.pt, refit_last.pt    what resuming needs; gone once the run is finished
submission.csv            the test captions' predictions
"""

import hashlib
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from src.common.files import InputError, read_json, sha256, write_json
from src.common.paths import MODELS_DIR, TRAIN_NPZ
from src.data.pairs import fingerprint
from src.training.recipe import Recipe, difference, recorded_recipe

RUN_JSON = "run.json"
BEST_MRR = "best_mrr.safetensors"
BEST_LOSS = "best_loss.safetensors"
REFIT = "refit.safetensors"
LAST = "last.pt"
REFIT_LAST = "refit_last.pt"
HISTORY = "history.csv"
CURVES = "curves.png"
SUBMISSION = "submission.csv"
LONGEST_NAME = 180  # bytes; file systems allow 255


class State(StrEnum):
    """What can be said of a run from its folder."""

    NEW = "to train"
    TO_RESUME = "to resume"
    FINISHED = "finished"
    FAILED = "failed"
    PRUNED = "pruned"
    WEIGHTS_REMOVED = "weights removed"  # finished, but a search keeps the weights of the best only


RUNNING = "running"  # the status of a record whose process is at work, or died: NEW or TO_RESUME


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The files that a run read, with the fingerprints of their contents, and the sizes of what it used of them;
    caption_weights: the formula of those that a keep-list gave."""

    train_npz: str = ""
    train_fingerprint: str = ""
    keep_list: str | None = None
    keep_list_fingerprint: str | None = None
    caption_weights: str | None = None
    train_captions: int = 0
    train_images: int = 0
    val_npz: str | None = None
    val_fingerprint: str | None = None
    test_npz: str | None = None
    test_fingerprint: str | None = None
    val_captions: int = 0
    val_images: int = 0

    @property
    def identity(self) -> dict[str, str]:
        """What makes it the same training data, wherever the files lie."""
        names = ("train_fingerprint", "keep_list_fingerprint", "caption_weights", "val_fingerprint")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a result depends on besides recipe and data; `started` is when it was begun."""

    command: str = ""
    started: str = ""
    device: str = ""
    precision: str = ""
    threads: int = 0
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None

    @property
    def machine(self) -> str:
        """The kind of device and the precision: "cuda, bfloat16". GPUs are recorded by the names of their models."""
        kind = self.device if self.device in ("cpu", "mps") else "cuda"
        return f"{kind}, {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Results:
    """The best epoch by validation MRR. measures: its row of the history (see src.training.metrics); own_measures: the
    same on the training file's own captions, where those that validated came from another file; linear_mrr: of the
    linear map that was fitted in closed form to the same captions, where it was asked for."""

    measures: dict[str, float]
    own_measures: dict[str, float] | None = None
    linear_mrr: float | None = None
    best_epoch: int = 0
    best_loss_epoch: int = 0
    epochs: int = 0
    stopped: str = ""
    training_seconds: float = math.nan
    refit_seconds: float | None = None

    @property
    def mrr(self) -> float:
        return self.measures["mrr"]


@dataclass(frozen=True)
class FileRecord:
    """A submission, and what is odd about it."""

    path: str
    sha256: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What run.json holds. weights: the SHA-256 of each file of weights; reason: why it failed or was pruned."""

    run_name: str
    status: str
    recipe: Recipe
    data: DataRecord
    provenance: Provenance = Provenance()
    results: Results | None = None
    parameters: int | None = None
    weights: dict[str, str] = field(default_factory=dict)
    submission: FileRecord | None = None
    finished: str | None = None
    reason: str | None = None


def read_run(run_dir: Path) -> RunRecord | None:
    """A run's record, or None if `run_dir` holds none. Raises InputError for a damaged one.

    Fields that are missing have their defaults and those that are not known are left out: the record may be of another
    version of this project.
    """
    path = run_dir / RUN_JSON
    if not path.exists():
        return None
    values: Any = read_json(path)
    try:
        results = dict(values.get("results", {}))
        own_measures, figures = results.pop("own_validation", None), _known(Results, results)
        measures = {name: value for name, value in results.items() if name not in figures}
        if results and not (_are_measures(measures) and (own_measures is None or _are_measures(own_measures))):
            raise TypeError("its measures are not numbers")
        parts = {
            "recipe": recorded_recipe(values["recipe"]),
            "data": DataRecord(**_known(DataRecord, values["data"])),
            "provenance": Provenance(**_known(Provenance, values)),
            "results": Results(measures=measures, own_measures=own_measures, **figures) if results else None,
            "submission": FileRecord(**_known(FileRecord, values["submission"])) if "submission" in values else None,
        }
        rest = {name: value for name, value in values.items() if name not in parts}
        return RunRecord(**({"run_name": run_dir.name} | _known(RunRecord, rest) | parts))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not a run's record ({error!r}); move the folder away") from None


def _known(record: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a record. Raises TypeError for one of another type."""
    names = values.keys()
    known = {option.name: option.type for option in fields(record) if option.name in names}
    for name, kind in known.items():
        if not _fits(values[name], kind):
            raise TypeError(f"{name} is {type(values[name]).__name__}")
    return {name: values[name] for name in known}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that was read from JSON is of a type, such as `int | None`, `list[str]` or `dict[str, float]`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, each) for each in args)
    if origin in (dict, list):
        values = value.values() if isinstance(value, dict) else value
        return isinstance(value, origin) and all(_fits(each, args[-1]) for each in values)
    return type(value) is kind or (kind is float and type(value) is int)


def _are_measures(value: Any) -> bool:
    return _fits(value, dict[str, float]) and "mrr" in value


def write_run(run_dir: Path, record: RunRecord) -> None:
    """Write run.json: the record flat, without what is not known."""
    values = asdict(record)
    values |= values.pop("provenance")
    if results := values["results"]:
        own = {"own_validation": results.pop("own_measures")}
        values["results"] = _stated(results.pop("measures") | results | own)
    if values["submission"]:
        values["submission"] = _stated(values["submission"])
    write_json(run_dir / RUN_JSON, _stated(values | {"data": _stated(values["data"])}))


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def recorded_runs(models_dir: Path) -> Iterator[tuple[Path, RunRecord]]:
    """The runs below `models_dir`, folder and record, by name."""
    for path in sorted(models_dir.rglob(RUN_JSON)):
        if record := read_run(path.parent):
            yield path.parent, record


def best_weights(models_dir: Path, train_npz: Path, others: str = "or name weights with --weights") -> Path:
    """The weights of the finished run on all pairs of `train_npz` whose validation MRR is the highest. Raises
    InputError, with what `others` can be done, if there is none."""
    pairs, mrrs = fingerprint(train_npz), {}
    for folder, record in recorded_runs(models_dir):
        weights, data = folder / BEST_MRR, record.data
        of_these = data.train_fingerprint == pairs and not data.keep_list_fingerprint
        if record.status == State.FINISHED and record.results and of_these and weights.is_file():
            mrrs[weights] = record.results.mrr
    if not mrrs:
        train = ["python", "train_mrr.py"]
        train += ["--train-npz", str(train_npz)] if train_npz != TRAIN_NPZ else []
        train += ["--models-dir", str(models_dir)] if models_dir != MODELS_DIR else []
        raise InputError(
            f"{models_dir}: holds no finished run on the pairs of {train_npz}; train one with `{shlex.join(train)}`, "
            f"{others}"
        )
    return max(mrrs, key=lambda weights: mrrs[weights])


def runs_by_submission(models_dir: Path) -> dict[str, tuple[Path, RunRecord]]:
    """The recorded runs in `models_dir`, folder and record, by the SHA-256 of the submission that each wrote."""
    return {run[1].submission.sha256: run for run in recorded_runs(models_dir) if run[1].submission}


def intact_submission(run_dir: Path) -> Path | None:
    """A run's submission, where it still is as it was recorded; None if it is gone or has changed."""
    record, own = read_run(run_dir), run_dir / SUBMISSION
    if record is None or record.submission is None:
        return own if own.is_file() else None
    places = own, Path(record.submission.path)
    return next((file for file in places if file.is_file() and sha256(file) == record.submission.sha256), None)


def state_of(run_dir: Path, recipe: Recipe | None = None, data: DataRecord | None = None) -> State:
    """The state of the run in a folder. Raises InputError if that is one of another `recipe` or of other `data`."""
    record = read_run(run_dir)
    if record is None:
        return State.NEW
    differing = []
    for theirs, ours in (
        (asdict(record.recipe), asdict(recipe or record.recipe)),
        (record.data.identity, (data or record.data).identity),
    ):
        differing += [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    if differing:
        raise InputError(
            f"{run_dir}: holds a run with another {', '.join(differing)}; choose another --models-dir or --run-name, "
            "or remove it"
        )
    if record.status in (RUNNING, State.FINISHED) and (run_dir / LAST).exists():  # or just before it was removed
        return State.TO_RESUME
    return next((state for state in State if state == record.status), State.NEW)


def folder_name(recipe: Recipe, base: Recipe, tag: str = "") -> str:
    """What a run's folder is called: the recipe, what it changes in `base`, the data's tag, the seed. What would be too
    long for a file system is cut off, and told from others by a hash."""
    name = "_".join(filter(None, (recipe.name, difference(recipe, base), tag)))
    if len(name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name.encode()[:LONGEST_NAME].decode(errors='ignore')}…{digest}"
    return f"{name}_seed{recipe.seed}"
