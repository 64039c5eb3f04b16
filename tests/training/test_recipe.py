"""Recipes: the named ones are what DESIGN says, bad values are refused, the command line comes from the fields."""

import argparse
import json
from dataclasses import asdict, fields, replace

import pytest

from src.common.files import InputError
from src.training.recipe import (
    BASELINE,
    COMPACT,
    ENSEMBLE_CLIP,
    ENSEMBLE_CLIP_ADAMW,
    ENSEMBLE_RAW,
    RECIPES,
    Recipe,
    add_recipe_arguments,
    difference,
    load_recipe,
    override,
)


def test_the_baseline_is_the_one_to_reproduce():
    assert (BASELINE.hidden_dim, BASELINE.dropout, BASELINE.tau) == (3072, 0.1, 0.01)
    assert (BASELINE.optimizer, BASELINE.lr, BASELINE.batch_size) == ("adam", 3e-4, 4096)
    assert (BASELINE.val_fraction, BASELINE.seed, BASELINE.epochs) == (0.1, 43, 500)
    assert BASELINE.effective_split_seed == 43


def test_the_ensemble_recipes_state_only_their_difference():
    assert difference(ENSEMBLE_RAW, BASELINE) == "epochs=300"
    assert difference(ENSEMBLE_CLIP, ENSEMBLE_RAW) == ""
    assert difference(ENSEMBLE_CLIP_ADAMW, ENSEMBLE_CLIP) == "batch_size=5000,optimizer=adamw,weight_decay=0.01"


def test_the_compact_recipe_is_small_and_regularised():
    assert COMPACT.hidden_dim < BASELINE.hidden_dim
    assert (COMPACT.negatives, COMPACT.optimizer, COMPACT.lr_schedule) == ("all", "adamw", "cosine")
    assert COMPACT.patience == 0  # else the schedule would not come to its end


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
        ("optimizer", "sgd"),
        ("negatives", None),
        ("infonce_weight", 0.0),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_flag(field, value):
    with pytest.raises(InputError, match="--" + field.replace("_", "-") if field != "infonce_weight" else "weights"):
        replace(BASELINE, **{field: value})


def test_every_field_is_a_flag_with_help_and_its_default():
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, BASELINE)
    text = " ".join(parser.format_help().split())
    for option in fields(Recipe):
        if option.name != "name":
            assert "--" + option.name.replace("_", "-") in text
            assert option.metadata["help"]
    assert "(default: 0.0003)" in text


def test_flags_override_the_recipe_and_nothing_else():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="auto")
    add_recipe_arguments(parser, BASELINE, without=("seed",))
    args = parser.parse_args(["--lr", "1e-3", "--split-seed", "7", "--negatives", "all"])
    recipe = override(ENSEMBLE_RAW, args)
    assert recipe == replace(ENSEMBLE_RAW, lr=1e-3, split_seed=7, negatives="all")
    assert difference(recipe, ENSEMBLE_RAW) == "split_seed=7,negatives=all,lr=0.001"
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", "1"])


def test_recipes_load_by_name_and_from_json(tmp_path):
    for name, recipe in RECIPES.items():
        assert load_recipe(name) is recipe
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(asdict(replace(BASELINE, name="mine", tau=0.02))))
    assert load_recipe(str(path)) == replace(BASELINE, name="mine", tau=0.02)
    path.write_text('{"tau": 0.02}')
    assert load_recipe(str(path)) == replace(BASELINE, tau=0.02)


@pytest.mark.parametrize("content", ['{"temperature": 1}', "[1]", "{", '{"lr": "fast"}'])
def test_a_json_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError):
        load_recipe(str(path))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="ensemble_clip_adamw"):
        load_recipe("best")
