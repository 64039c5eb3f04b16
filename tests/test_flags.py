"""Flags become values: those of a recipe, of its data."""

from dataclasses import replace
from pathlib import Path

import pytest

from src.common.cli import Parser
from src.flags import add_job_arguments, add_recipe_arguments, data_paths, override, recipe_changes
from src.training.inputs import DataPaths
from src.training.recipe import BASELINE, OPTIONS, STRONG, difference


def test_every_field_is_a_flag_with_help_and_its_default():
    parser = Parser()
    add_recipe_arguments(parser, BASELINE)
    text = " ".join(parser.format_help().split())
    for option in OPTIONS:
        assert "--" + option.name.replace("_", "-") in text
        assert option.metadata["help"] in text
    assert "(default: 0.0003)" in text
    assert "--name" not in text


def test_flags_override_the_recipe_and_nothing_else():
    parser = Parser()
    parser.add_argument("--device", default="auto")
    add_recipe_arguments(parser, BASELINE, without=("seed",))
    args = parser.parse_args(["--lr", "1e-4", "--split-seed", "7", "--negatives", "all"])
    recipe = override(STRONG, args)
    assert recipe == replace(STRONG, lr=1e-4, split_seed=7, negatives="all")
    assert difference(recipe, STRONG) == "split_seed=7,lr=0.0001"
    assert recipe_changes(args) == {"lr": 1e-4, "split_seed": 7, "negatives": "all"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", "1"])


def test_a_search_takes_several_values_of_what_it_searches():
    parser = Parser()
    add_recipe_arguments(parser, BASELINE, choices={"lr": (1e-3, 3e-3)})
    args = parser.parse_args(["--lr", "1", "2", "--seed", "3"])
    assert recipe_changes(args) == {"lr": [1.0, 2.0], "seed": 3}
    assert "(default: 0.001 0.003)" in " ".join(parser.format_help().split())


def test_the_files_of_a_job():
    parser = Parser()
    add_job_arguments(parser)
    assert data_paths(parser.parse_args([])) == DataPaths()
    given = parser.parse_args(["--train-npz", "a/b.npz", "--keep-list", "k.keep.npz", "--val-npz", "v.npz"])
    paths = data_paths(given, with_test=False)
    assert paths == DataPaths(
        train_npz=Path("a/b.npz"), keep_list=Path("k.keep.npz"), val_npz=Path("v.npz"), test_npz=None
    )
    assert (paths.tag, replace(paths, keep_list=None).tag) == ("k.keep", "a-b")
