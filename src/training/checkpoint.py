"""The state of a training that may be interrupted: one file, written now and then, and read with distrust."""

import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.common.files import InputError, atomic_path
from src.training.model import Translator
from src.training.recipe import recorded_recipe
from src.training.trainer import Trainer

SECONDS_BETWEEN_CHECKPOINTS = 60

EpochRow = dict[str, float]  # a row of the history: the epoch, what training says of it, the measures


@dataclass
class Best:
    """The best epoch by one measure so far, and its weights."""

    value: float
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, value: float, epoch: int, translator: Translator) -> None:
        self.value, self.epoch = value, epoch
        self.weights = {name: tensor.detach().clone() for name, tensor in translator.state_dict().items()}


@dataclass(kw_only=True)
class Checkpoint:
    """What `path` holds of a training: the trainer's weights and moments, the history, the bests by name. `identity`
    tells it from other trainings, `columns` are those that each row of the history must have."""

    path: Path
    identity: dict[str, Any]
    trainer: Trainer
    columns: tuple[str, ...]
    bests: dict[str, Best] = field(default_factory=dict)
    history: list[EpochRow] = field(default_factory=list)
    next_save: float = field(default_factory=time.monotonic)

    def begin(self, *, resume: bool) -> None:
        """Take up what the file holds or, to start anew, remove it. Raises InputError if it cannot be resumed."""
        if resume:
            self._restore()
        else:
            self.path.unlink(missing_ok=True)  # of an earlier run

    def save_if_due(self) -> bool:
        """Write the file if the last time was a while ago, and if this is the process that writes; whether it did."""
        if due := time.monotonic() > self.next_save and self.trainer.world.first:
            started = time.monotonic()
            with atomic_path(self.path) as temporary:
                trainer, bests = self.trainer, {name: asdict(best) for name, best in self.bests.items()}
                state = {"translator": trainer.translator.state_dict(), "optimizer": trainer.optimizer.state_dict()}
                torch.save({"identity": self.identity, "history": self.history, **state, **bests}, temporary)
            # Never more than a twentieth of the time for writing, however slow the disk.
            self.next_save = time.monotonic() + max(SECONDS_BETWEEN_CHECKPOINTS, 20 * (time.monotonic() - started))
        return due

    def _restore(self) -> None:
        if not self.path.exists():
            raise InputError(f"{self.path}: no such file, so there is nothing to resume; start without --resume")
        trainer = self.trainer
        try:
            with zipfile.ZipFile(self.path) as archive:
                if damaged := archive.testzip():  # torch.load itself compares no checksums
                    raise ValueError(f"{damaged} is damaged")
            state = torch.load(self.path, map_location=trainer.machine.device, weights_only=True)
            theirs = {**state["identity"], "recipe": asdict(recorded_recipe(state["identity"]["recipe"]))}
            differing = [name for name in self.identity if theirs.get(name) != self.identity[name]]
            if not differing:
                self._check_form(state)
                trainer.translator.load_state_dict(state["translator"])
                # The groups are this trainer's own, whose learning rate is set before each step.
                trainer.optimizer.load_state_dict(
                    trainer.optimizer.state_dict() | {"state": state["optimizer"]["state"]}
                )
                for name, best in self.bests.items():
                    vars(best).update(state[name])
                self.history += state["history"]
        except Exception as error:  # torch.load raises what it likes for a damaged file
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.path}: not a checkpoint of this project ({reason}); start without --resume"
            ) from None
        if differing:
            raise InputError(f"{self.path}: is of a run with another {', '.join(differing)}; start without --resume")

    def _check_form(self, state: dict[str, Any]) -> None:
        """Raises an error unless a checkpoint has all that one of this trainer has: its optimizer writes to tensors of
        any shape as if they had the right one."""
        weights, history = self.trainer.translator.state_dict(), state["history"]
        moments = [{"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p} for p in self.trainer.trained_parameters]
        best = {"value": 0.0, "epoch": 0, "weights": weights}
        form = {"translator": weights, "optimizer": dict(enumerate(moments)), **dict.fromkeys(self.bests, best)}
        whole = bool(history) and _has_form(state | {"optimizer": state["optimizer"]["state"]}, form)
        for epoch, row in enumerate(history, 1):
            whole &= row["epoch"] == epoch and row.keys() >= {*self.columns}
            whole &= all(type(value) in (int, float) for value in row.values())
        if not whole or not all(1 <= state[name]["epoch"] <= len(history) for name in self.bests):
            raise ValueError("something in it is missing or of another shape")


def _has_form(value: Any, form: Any) -> bool:
    """Whether a value has the type, or the shape and dtype, of another; and each of a dictionary's values has."""
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _has_form(value[name], form[name]) for name in form)
    if isinstance(form, Tensor):
        return isinstance(value, Tensor) and (value.shape, value.dtype) == (form.shape, form.dtype)
    return type(value) is type(form)
