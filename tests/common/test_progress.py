"""Bars on a terminal; in a file lines, few of them."""

import io

import pytest

import src.common.progress
from src.common.progress import Progress, about
from tests.conftest import REPO


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock.now` moves."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(src.common.progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_in_a_file_there_is_a_line_every_30_s_and_one_at_the_end(clock):
    file = io.StringIO()
    with Progress(total=1000, desc="scoring", unit="image", file=file, mininterval=0) as bar:
        for _ in range(1000):
            clock.now += 0.1
            bar.update()
            bar.set_postfix(a=1)
    lines = file.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("scoring:  30%")
    assert lines[-1].startswith("scoring: 100%")
    assert "1000/1000" in lines[-1]
    assert "\r" not in file.getvalue()


def test_an_iterable_is_gone_through_and_what_leaves_nothing_ends_without_a_line(clock):
    file = io.StringIO()
    assert list(Progress(range(5), desc="painting", leave=False, file=file)) == [0, 1, 2, 3, 4]
    assert file.getvalue() == ""


def test_what_is_told_stands_alone_in_a_file_and_not_on_a_terminal(clock):
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        with Progress(total=2, told=True, desc="fold 1", file=stream) as bar:
            for epoch in (1, 2):
                clock.now += 100
                bar.update()
                bar.tell(f"epoch {epoch} of 2")
    assert file.getvalue() == "fold 1: epoch 1 of 2\nfold 1: epoch 2 of 2\n"
    assert "epoch" not in terminal.getvalue()
    assert "\rfold 1: 100%" in terminal.getvalue()


@pytest.mark.parametrize("told", [True, False])
def test_a_disabled_one_says_nothing(told, run_script, tmp_path):
    file = io.StringIO()
    with Progress(range(3), told=told, disable=True, file=file) as bar:
        bar.tell("something")
        assert list(bar) == [0, 1, 2]
    assert file.getvalue() == ""
    (tmp_path / "bar.py").write_text(
        "from src.common.progress import Progress\n"
        f"with Progress(range(3), told={told}) as bar:\n    bar.tell('something')\n    assert list(bar) == [0, 1, 2]"
    )
    result = run_script(tmp_path / "bar.py", env={"TQDM_DISABLE": "1"})
    assert (result.returncode, result.stderr) == (0, "")
    assert run_script(tmp_path / "bar.py").stderr.count("\n") == (1 if told else 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (41.4, "41 s"), (99.4, "99 s"), (99.6, "2 min"), (361, "6 min"), (5969, "99 min"), (9000, "2.5 h")],
)
def test_durations_are_told_as_people_do(seconds, text):
    assert about(seconds) == text


def test_nothing_else_draws_bars():
    using = [path for path in REPO.rglob("src/**/*.py") if "import tqdm" in path.read_text(encoding="utf-8")]
    assert using == [REPO / "src/common/progress.py"]


def test_what_an_error_ends_says_nothing_more_in_a_file():
    file = io.StringIO()
    for number in range(3):
        with Progress(total=2, file=file) as bar:
            bar.update(number)
    assert file.getvalue().splitlines() == [line for line in file.getvalue().splitlines() if "2/2" in line]
    assert file.getvalue().count("\n") == 1
