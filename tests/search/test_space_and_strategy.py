"""What a search tries: the space of the flags, the list of configurations, who is ended early."""

import importlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial

import src.search.space
from src.common.files import InputError
from src.search.space import Space
from src.search.strategy import distributions, draw
from src.training.recipe import BASELINE, RECIPES
from tests.search.conftest import LIST, SCRIPT, configurations, rows_of, run_search

CHOICES = {"tau": (0.05, 0.01, 0.02), "dropout": (0.0, 0.1), "lr": [3e-3, 1e-3, 1e-3]}
SPACE = Space.of(BASELINE, CHOICES)


def trial_of(configuration, space=SPACE, **options):
    return create_trial(params=configuration, distributions=distributions(space), **options)


def listed(count, seed, space=SPACE, earlier=()):
    trials = list(earlier)
    for _ in range(count):
        trials.append(trial_of(draw(space, trials, "random", seed), space, value=0.0))
    return [trial.params for trial in trials]


def test_a_space_sorts_its_choices_and_fixes_the_rest():
    assert SPACE.choices == {"dropout": (0.0, 0.1), "lr": (1e-3, 3e-3), "tau": (0.01, 0.02, 0.05)}
    assert SPACE.size == 12
    assert Space.of(BASELINE, {"lr": [7e-4]}) == Space(replace(BASELINE, lr=7e-4), {})
    assert SPACE.recipe({"lr": 3e-3, "tau": 0.05}) == replace(BASELINE, dropout=0.0, lr=3e-3, tau=0.05)


def test_a_named_recipe_is_in_a_space_unless_some_choices_lack_its_value(monkeypatch):
    small = replace(BASELINE, name="small", lr=1e-3, hidden_dim=64, optimizer="adamw", weight_decay=0.1, epochs=9)
    monkeypatch.setattr(src.search.space, "NAMED", (BASELINE, small))

    space = Space.of(BASELINE, {"lr": (3e-4, 1e-3), "weight_decay": (0.0, 0.1), "hidden_dim": [512], "tau": [0.01]})
    assert space.named == {BASELINE: {"lr": 3e-4, "weight_decay": 0.0}, small: {"lr": 1e-3, "weight_decay": 0.1}}
    assert space.left_out == {}
    assert space.changes(BASELINE) == " with hidden_dim=512"
    assert space.changes(small) == " with hidden_dim=512,optimizer=adam"

    space = Space.of(BASELINE, {"lr": (1e-3, 2e-3), "optimizer": ("adam", "adamw"), "hidden_dim": (64, 512)})
    assert space.named == {small: {"hidden_dim": 64, "optimizer": "adamw", "lr": 1e-3}}
    assert space.left_out == {BASELINE: "hidden_dim=3072, lr=0.0003"}
    assert space.changes(small) == " with weight_decay=0.0"


def test_every_named_recipe_is_in_the_default_space_as_it_is():
    """One that is not needs its values among CHOICES."""
    script = importlib.import_module(SCRIPT.removesuffix(".py"))
    space = Space.of(script.BASE, script.CHOICES)
    assert space.left_out == {}
    assert {f"{recipe.name}{space.changes(recipe)}" for recipe in space.named} == RECIPES.keys() - {"linear", "kernel"}


def test_a_seed_has_one_list():
    assert [tuple(configuration.values()) for configuration in listed(5, 0)] == LIST
    assert listed(5, 0) != listed(5, 6)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_no_configuration_is_drawn_twice_until_all_are(sampler):
    trials = []
    for number in range(SPACE.size):
        drawn = draw(SPACE, trials, sampler, 0)
        ended = {"value": drawn["lr"] - drawn["tau"]} if number % 3 else {"state": TrialState.RUNNING}
        trials.append(trial_of(drawn, **ended))
    assert len({tuple(trial.params.values()) for trial in trials}) == SPACE.size


def test_tpe_draws_what_did_well():
    space = Space.of(BASELINE, CHOICES | {"input_noise": (0.0, 0.1, 0.2, 0.3), "batch_size": range(64, 96)})
    rng = np.random.default_rng(0)
    drawn = [{name: values[rng.integers(len(values))] for name, values in space.choices.items()} for _ in range(60)]
    earlier = [trial_of(each, space, value=float(each["input_noise"] == 0.2)) for each in drawn]
    chosen = [draw(space, earlier, "tpe", seed)["input_noise"] for seed in range(20)]
    assert chosen.count(0.2) >= 12  # by chance: 5


def test_flags_narrow_fix_and_widen_the_space(project, capsys):
    run_search("--trials", 2, "--lr", 3e-3, 3e-3, "--tau", 0.02, 0.01, "--weight-decay", 0, 0.1, "--epochs", 1)
    printed = capsys.readouterr().out
    assert "starts from        baseline with hidden_dim=16,batch_size=512,lr=0.003\n" in printed
    assert "not from strong    dropout=0.4, weight_decay=0.05: not among the choices\n" in printed
    assert "2 of 8 configurations; 0 have ended already" in printed
    assert "hidden_dim=16, epochs=1, patience=0, batch_size=512, optimizer=adamw, lr=0.003, seed 43\n" in printed
    assert {"tau", "dropout", "weight_decay"} < set(rows_of().columns)
    assert "lr" not in rows_of().columns


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--lr", 0, 1e-3), "--lr"),
        (("--dropout", 0.1, 1.0), "--dropout"),
        (("--infonce-weight", 0, 1, "--regression-weight", 0, 0.1), "loss weights"),
        (("--trials", 13), "has 12 configurations"),
        (("--val-fraction", 1), "--val-fraction"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_before_anything_is_written(project, flags, reason):
    with pytest.raises(InputError, match=reason):
        run_search(*flags)
    assert {path.name for path in project.iterdir()} == {"data"}


def test_a_loss_weight_may_be_0_if_the_other_is_not(project):
    run_search("--trials", 1, "--infonce-weight", 0, "--regression-weight", 0.1, 1, "--epochs", 1)
    assert rows_of().state.tolist() == ["finished"]


def test_tpe_runs_every_trial_once(project):
    run_search("--trials", 12, "--epochs", 1, "--sampler", "tpe", "--submission", "none")
    assert len(set(configurations(rows_of()))) == 12


def test_the_median_pruner_ends_hopeless_trials_and_says_what_it_saved(project, capsys):
    run_search("--trials", 9, "--epochs", 5, "--lr", 1e-6, 3e-3, "--batch-size", 128, "--submission", "none")
    table = rows_of()
    pruned = table[table.state == "pruned"]
    assert 0 < len(pruned) <= 4  # five have to finish first
    assert set(pruned.reason) == {"below the median"}
    saved = 5 * len(pruned) - pruned.epochs.sum()
    assert saved > 0
    printed = capsys.readouterr().out
    assert f"saved {saved} of 45 epochs" in printed
    assert f"trial {pruned.trial.iloc[0]} of 9: pruned after epoch" in printed
    histories = {row.trial: pd.read_csv(f"{row.run}/history.csv").mrr for row in table.itertuples()}
    for row in pruned.itertuples():
        finished = table.trial[(table.state == "finished") & (table.trial < row.trial)]
        assert row.mrr < np.median([histories[trial][row.epochs - 1] for trial in finished])
        assert not list((project / row.run).glob("*.safetensors"))
        assert '"status": "pruned"' in (project / row.run / "run.json").read_text()


def test_without_a_pruner_or_in_the_warm_up_none_is_pruned(project):
    hopeless = ("--trials", 8, "--epochs", 4, "--lr", 1e-6, 3e-3, "--batch-size", 128, "--submission", "none")
    run_search(*hopeless, "--pruner", "none")
    elsewhere = ("--models-dir", "models/warm", "--results", "warm.csv")
    run_search(*hopeless, *elsewhere, "--infonce-warmup-epochs", 0, 3)
    assert set(rows_of().epochs) == set(rows_of("warm.csv").epochs) == {4}
