"""What command lines share: help as it was typed, wrong ones told in two lines, the opening lines."""

import argparse

import numpy as np
import pandas as pd
import pytest

from src.common.cli import Parser, positive_int, print_settings, print_table


def test_settings_are_printed_in_a_column(capsys):
    print_settings("Training", {"data": "train.npz", "batch size": 4096})
    assert capsys.readouterr().out == "Training\n  data        train.npz\n  batch size  4096\n"


def test_help_keeps_the_docstring_as_it_was_typed_in_commands_too():
    parser = Parser("One line.\n\n    a command\n")
    assert "One line.\n\n    a command\n" in parser.format_help()
    command = parser.add_subparsers().add_parser("check", description="Check it.\n\n    python check\n")
    assert "Check it.\n\n    python check\n" in command.format_help()


def make_parser():
    parser = Parser(prog="tool")
    parser.add_argument("--verbose", action="store_true")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train").add_argument("--seeds", type=int)
    commands.add_parser("check").add_argument("--data")
    return parser


@pytest.mark.parametrize(
    ("words", "reason", "prog"),
    [
        ("train --seed 5", "unrecognized arguments: --seed 5; did you mean --seeds?", "tool"),
        ("train --seed=5", "unrecognized arguments: --seed=5; did you mean --seeds?", "tool"),
        ("--verbos train", "unrecognized arguments: --verbos; did you mean --verbose?", "tool"),
        ("train --seed 5 --dat x", "unrecognized arguments: --seed 5 --dat x; did you mean --seeds, --data?", "tool"),
        ("check --seeds 5", "unrecognized arguments: --seeds 5", "tool"),  # a flag, but of another command
        ("check --zzz more", "unrecognized arguments: --zzz more", "tool"),
        ("train --seeds many", "argument --seeds: invalid int value: 'many'", "tool train"),
        ("tran", "argument {train,check}: invalid choice: 'tran' (choose from ", "tool"),
    ],
)
def test_a_wrong_command_line_ends_with_two_lines(words, reason, prog, capsys):
    with pytest.raises(SystemExit) as end:
        make_parser().parse_args(words.split())
    assert end.value.code == 2
    told, see = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {reason}")
    assert told == f"error: {reason}" or reason.endswith("(choose from ")
    assert see == f"see: {prog} --help"


def test_a_reason_of_several_lines_is_told_in_one(capsys):
    with pytest.raises(SystemExit):
        Parser(prog="tool").error("this\n  and that")
    assert capsys.readouterr().err == "error: this and that\nsee: tool --help\n"


def test_help_tells_every_default_once():
    parser = Parser()
    parser.add_argument("--lr", default=0.5, help="rate")
    parser.add_argument("--seed", help="(default: the recipe's)")
    parser.add_argument("--path", help="optional")
    text = parser.format_help()
    assert text.count("(default: ") == 2
    assert "rate (default: 0.5)" in text
    assert "None" not in text


def test_a_positive_integer():
    assert positive_int("3") == 3
    for text in ("0", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="not at least 1"):
            positive_int(text)
    with pytest.raises(ValueError, match="invalid literal"):
        positive_int("many")


def test_a_table_wider_than_a_screen_goes_on_below_beside_its_key(capsys):
    table = pd.DataFrame({"n": [1, 2], "run": ["a" * 30, "b"], **{f"measure {i}": [0.5, np.nan] for i in range(9)}})
    print_table(table, key="run")
    first, second = capsys.readouterr().out.split("\n\n")
    assert max(map(len, (first + "\n" + second).splitlines())) <= 100
    assert first.split("\n")[0].split() == f"n run {' '.join(f'measure {i}' for i in range(6))}".split()
    assert second.split("\n")[0].split() == ["run", "measure", "6", "measure", "7", "measure", "8"]
    assert second.split("\n")[1].split() == ["a" * 30, "0.5000", "0.5000", "0.5000"]
    assert second.split("\n")[2].split() == ["b", "-", "-", "-"]
    print_table(table[["n", "run"]], key="run")
    assert len(capsys.readouterr().out.splitlines()) == 3
