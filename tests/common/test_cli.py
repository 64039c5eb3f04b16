"""What scripts share: one line and an exit status for every end, help as it was typed, the opening lines."""

import argparse

import pytest
import torch

from src.common.cli import Parser, positive_int, print_settings, run_main
from src.common.files import InputError


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raising(InputError("train.npz: has no\n   key")), 2, "error: train.npz: has no key\n"),
        (raising(PermissionError(13, "Permission denied", "out.csv")), 2, "error: out.csv: Permission denied\n"),
        (raising(OSError("cannot")), 2, "error: cannot\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_every_end_has_its_status_and_at_most_one_line(main, status, line, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(main)
    assert end.value.code == status
    assert capsys.readouterr().err == line


def test_a_full_gpu_ends_with_advice(capsys):
    with pytest.raises(SystemExit) as end:
        run_main(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nof details")))
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: CUDA out of memory.")
    assert "--batch-size" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("a bug")])
def test_our_own_mistakes_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_main(raising(error))


def test_settings_are_printed_in_a_column(capsys):
    print_settings("Training", {"data": "train.npz", "batch size": 4096})
    assert capsys.readouterr().out == "Training\n  data        train.npz\n  batch size  4096\n"


def test_help_keeps_the_docstring_as_it_was_typed_in_commands_too():
    parser = Parser("One line.\n\n    a command\n")
    assert "One line.\n\n    a command\n" in parser.format_help()
    command = parser.add_subparsers().add_parser("check", description="Check it.\n\n    python check\n")
    assert "Check it.\n\n    python check\n" in command.format_help()


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
