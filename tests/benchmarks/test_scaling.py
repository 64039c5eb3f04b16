"""The table of several processes against one, and what is started for it."""

import os
from pathlib import Path

import pytest

from src.common.files import InputError
from tests.benchmarks import scaling


def test_ratios_are_to_the_first_number_of_processes(tmp_path, monkeypatch, capsys):
    def start(processes, script, *arguments):
        words = list(map(str, arguments))
        if script == "train_mrr.py":
            run_dir = Path(words[words.index("--models-dir") + 1]) / "model"
            run_dir.mkdir()
            rates = [1.0, *[1000 * processes + change for change in (-500, 0, 7)]]  # the first epoch warms up
            (run_dir / "history.csv").write_text("\n".join(["captions_per_second", *map(str, rates)]))
        return 60 / processes**0.5

    monkeypatch.setattr(scaling, "start", start)
    (tmp_path / "pairs.npz").touch()
    scaling.main(["--train-npz", str(tmp_path / "pairs.npz"), "--device", "cpu", "--processes", "1", "4"])
    *_, one, four = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in one.split("|")[1:-1]] == ["1", "1,000", "1.00", "60", "1.00"]
    assert [cell.strip() for cell in four.split("|")[1:-1]] == ["4", "4,000", "4.00", "30", "2.00"]


def test_processes_share_the_cores_and_a_failing_one_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "REPO", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    (tmp_path / "tells.py").write_text("import os; open('told', 'w').write(os.environ['OMP_NUM_THREADS'])")
    monkeypatch.chdir(tmp_path)
    assert scaling.start(1, "tells.py") > 0
    assert (tmp_path / "told").read_text() == "6"
    (tmp_path / "fails.py").write_text("raise SystemExit('no such thing')")
    with pytest.raises(InputError, match=r"fails\.py in 1 processes failed: no such thing"):
        scaling.start(1, "fails.py")
