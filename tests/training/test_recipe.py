"""Recipes: the baseline is the one to reproduce, bad values are refused, names and files load."""

import json
from dataclasses import asdict, replace

import pytest

from src.common.files import InputError
from src.training.recipe import (
    AUTO,
    BASELINE,
    KERNEL,
    LINEAR,
    RECIPES,
    STRONG,
    describe_recipe,
    difference,
    load_recipe,
    sized,
)


def test_the_baseline_is_the_one_to_reproduce():
    assert (BASELINE.hidden_dim, BASELINE.dropout, BASELINE.tau) == (3072, 0.1, 0.01)
    assert (BASELINE.optimizer, BASELINE.lr, BASELINE.batch_size) == ("adam", 3e-4, 4096)
    assert (BASELINE.val_fraction, BASELINE.seed, BASELINE.epochs) == (0.1, 43, 500)
    assert BASELINE.effective_split_seed == 43


def test_auto_is_strong_suited_to_the_number_of_captions_and_nothing_else_is():
    small, middle, large = (sized(AUTO, captions) for captions in (3_000, 10_000, 125_000))
    assert large == replace(STRONG, name="auto")
    assert small.epochs > middle.epochs > large.epochs
    assert small.tau > middle.tau > large.tau
    own = replace(AUTO, lr=1e-3)  # as a run may have recorded it
    for recipe in (STRONG, BASELINE, own):
        assert sized(recipe, 3_000) is recipe
    assert load_recipe("auto") is AUTO


def test_training_anew_goes_through_a_schedule_or_stops_where_it_was_best():
    assert STRONG.refit_epochs(5) == STRONG.epochs
    assert BASELINE.refit_epochs(5) == replace(STRONG, patience=3).refit_epochs(5) == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("tau", 0),
        ("dropout", 1.0),
        ("val_fraction", 0.0),
        ("val_fraction", 1.0),
        ("hidden_dim", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("seed", -1),
        ("seed", 2**63),
        ("lr", 1e39),
        ("lr", float("inf")),
        ("name", "../elsewhere"),
        ("optimizer", "sgd"),
        ("negatives", None),
        ("max_negatives", -1),
        ("copies", 0),
        ("depth", 0),
        ("infonce_weight", 0.0),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_flag(field, value):
    with pytest.raises(InputError, match="--" + field.replace("_", "-") if field != "infonce_weight" else "weights"):
        replace(BASELINE, **{field: value})


@pytest.mark.parametrize(
    ("recipe", "field", "value"),
    [(LINEAR, "lr", 1e-3), (LINEAR, "hidden_dim", 64), (KERNEL, "epochs", 5), (KERNEL, "negatives", "all")],
)
def test_what_has_no_effect_on_a_closed_form_is_refused(recipe, field, value):
    with pytest.raises(InputError, match=f"--{field.replace('_', '-')}: has no effect on a {recipe.model} translator"):
        replace(recipe, **{field: value})
    assert replace(KERNEL, hidden_dim=64, seed=1, split_seed=2, val_fraction=0.5).hidden_dim == 64


def test_a_difference_is_told_field_by_field_without_seed_and_name():
    recipe = replace(BASELINE, name="mine", seed=1, split_seed=7, lr=1e-3)
    assert difference(recipe, BASELINE) == "split_seed=7,lr=0.001"
    assert describe_recipe(recipe, BASELINE) == "baseline with split_seed=7,lr=0.001"
    assert describe_recipe(BASELINE, BASELINE) == "baseline"


def test_recipes_load_by_name_and_from_json(tmp_path):
    for name, recipe in RECIPES.items():
        assert load_recipe(name) is recipe
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(asdict(replace(BASELINE, name="mine", tau=0.02))))
    assert load_recipe(str(path)) == replace(BASELINE, name="mine", tau=0.02)
    path.write_text('{"tau": 0.02}')
    assert load_recipe(str(path)) == replace(BASELINE, tau=0.02)


@pytest.mark.parametrize(
    "content",
    [
        '{"temperature": 1}',
        "[1]",
        "{",
        '{"lr": "fast"}',
        '{"seed": 9223372036854775808}',  # more than torch takes
        '{"lr": 1' + "0" * 400 + "}",
        '{"name": "../elsewhere"}',
        '{"name": "a\\u0000"}',
        '{"name": "a\\ud800"}',
    ],
    ids=lambda content: content[:30],
)
def test_a_json_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.json"):
        load_recipe(str(path))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="baseline, strong"):
        load_recipe("best")
