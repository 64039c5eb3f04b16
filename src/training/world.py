"""The processes that share a job: as many as torchrun started, or this one alone.

What they share crosses by torch.distributed: gradients and normalisers of a training, whose turn it is, results of any
kind. A process that dies ends the job: torchrun ends the others, and what waits for it longer than TIMEOUT gives up.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from src.common import processes
from src.common.files import InputError

TIMEOUT = timedelta(minutes=30)  # what the first process alone does, such as fitting a linear map, takes less

_T = TypeVar("_T")


@dataclass(frozen=True)
class World:
    """This process among all: 0 ≤ rank < size; what the others wait for, by name, is in the store."""

    rank: int = 0
    size: int = 1
    store: "dist.Store | None" = None  # which a torch without torch.distributed does not have

    def __str__(self) -> str:
        """As the opening lines of a script tell it, after the device."""
        return f", {self.size} processes" if self.size > 1 else ""

    @property
    def share(self) -> str:
        """As the label of a bar tells of whose work it is."""
        return f" (share {self.rank + 1} of {self.size})" if self.size > 1 else ""

    @property
    def first(self) -> bool:
        """Whether this is the process that prints, draws and writes."""
        return self.rank == 0

    def of_first(self, compute: Callable[[], _T]) -> _T:
        """What the first process computes, for all of them."""
        values = [compute() if self.first else None]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def gathered(self, value: _T) -> list[_T]:
        """The values of all processes, by rank, once each has one, however long that takes."""
        values = [value] * self.size
        if self.store is not None:
            self.store.add("values", 1)
            while self.store.add("values", 0) % self.size:  # a collective would give up
                time.sleep(0.5)
            dist.all_gather_object(values, value)
        return values

    def dealt(self, number: int) -> Iterator[int]:
        """Of 0, 1, … number - 1 those that this process is dealt: the next one whenever it asks. To be used once."""
        for turn in count():
            turn = self.store.add("dealt", 1) - 1 if self.store is not None else turn
            if turn >= number:
                return
            yield turn

    @contextmanager
    def one_after_the_first(self) -> Iterator[None]:
        """On each machine the first process goes ahead, as to make what the others then share."""
        if self.size > 1 and processes.local_rank():
            dist.barrier()
        yield
        if self.size > 1 and not processes.local_rank():
            dist.barrier()

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def logsumexp(self, own_G: Tensor) -> Tensor:
        """The logarithm (G,) of the sum over processes of exp(own_G), by which each one's gradient flows to all."""
        if self.size == 1:
            return own_G
        highest_G = own_G.detach().clone()
        dist.all_reduce(highest_G, dist.ReduceOp.MAX)
        return _Sum.apply((own_G - highest_G).exp()).log() + highest_G


class _Sum(torch.autograd.Function):
    """Over processes; each one's loss depends on it, so that the gradient is their sum, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


ALONE = World()


def join_world(device: torch.device) -> World:
    """Meet the processes that torchrun started beside this one, each with a device of its own kind. Raises InputError
    for a device that cannot share."""
    if processes.world_size() == 1:
        return ALONE
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: works in one process; start it without torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(f"start {processes.restarts()}", store)  # torchrun may keep what was shared before
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    processes.tell_errors_by(lambda: store.add("errors", 1) == 1)
    return World(rank, size, store)
