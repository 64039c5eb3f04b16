"""Which configuration {field: choice} is tried next, and which trial ends early: Optuna's samplers and pruners."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler

from src.search.space import Space


def distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: CategoricalDistribution(values) for name, values in space.choices.items()}


def draw(space: Space, earlier: Sequence[optuna.trial.FrozenTrial], sampler: str, seed: int) -> dict[str, Any]:
    """Draw a configuration that none of the `earlier` trials has; the space must have one.

    With the sampler "random" a seed gives one list of configurations, whichever process draws which of them. "tpe"
    (Bergstra et al. 2011) draws by how the earlier trials ended.
    """
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed))
    if sampler == "tpe":
        seed = int(np.random.SeedSequence((seed, len(earlier))).generate_state(1)[0])
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            # A trial that is still running counts as a bad one. Until optuna 4.4 that was experimental.
            study.sampler = TPESampler(seed=seed, constant_liar=True)
        study.add_trials(earlier)
    choices, tried = distributions(space), [trial.params for trial in earlier]
    while (configuration := study.ask(choices).params) in tried:
        continue
    return configuration


def make_pruner(name: str, space: Space) -> BasePruner:
    """The pruner "median", which the help of --pruner describes, or "none"."""
    if name == "none":
        return NopPruner()
    warmups = ("lr_warmup_epochs", "infonce_warmup_epochs")
    longest = max(max(space.choices.get(name, [getattr(space.base, name)])) for name in warmups)
    return MedianPruner(n_startup_trials=5, n_warmup_steps=max(space.base.epochs // 5, math.ceil(longest) + 1))
