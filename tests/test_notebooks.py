"""The notebook for Kaggle and Colab, on a folder that is laid out as theirs are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from src.training.runs import read_run
from tests.conftest import REPO

NOTEBOOK = REPO / "notebooks/kaggle_and_colab.ipynb"


@pytest.fixture
def kaggle(tmp_path, sample) -> Path:
    """input/ with the data and the project's files, where nothing may be written; working/."""
    project = tmp_path / "input/our-project"
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if not name.startswith(("tests/", "visualize")) and (REPO / name).exists():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, project / name)
    shutil.copytree(sample, tmp_path / "input/competitions/a-challenge")
    for path in [tmp_path / "input", *(tmp_path / "input").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "working").mkdir()
    yield tmp_path
    for path in [tmp_path / "input", *(tmp_path / "input").rglob("*")]:
        path.chmod(0o755)


@pytest.mark.slow
def test_it_trains_on_the_data_that_it_finds_and_leaves_a_submission(kaggle):
    def files() -> dict[str, float]:
        return {str(path): path.lstat().st_mtime for path in (kaggle / "input").rglob("*")}

    before, cache = files(), kaggle / "cache"
    parameters = {"INPUT": kaggle / "input", "OUTPUT": kaggle / "working", "CACHE": cache}
    parameters |= {"FLAGS": "--epochs 2 --hidden-dim 32 --precision float32"}
    words = [word for name, value in parameters.items() for word in ("-r", name, str(value))]
    command = [sys.executable, "-m", "papermill", "--log-output", str(NOTEBOOK), str(kaggle / "done.ipynb"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}  # all that is wanted is there
    done = subprocess.run(command, cwd=kaggle, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files() == before
    (run,) = (kaggle / "working/models").iterdir()
    record = read_run(run)
    assert record.data.train_captions == 460, "not the sample's own size, which setup would have made"
    assert record.submission.sha256
    assert (kaggle / "working/submission.csv").read_bytes() == (run / "submission.csv").read_bytes()
    outputs = json.dumps(nbformat.read(kaggle / "done.ipynb", 4))
    assert "image/png" in outputs
    assert "there already, left as it is" in outputs


def test_it_is_short_and_committed_without_outputs():
    book = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(book)
    assert len(book.cells) == 10
    assert not [cell for cell in book.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]
