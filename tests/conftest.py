"""What the tests share: the embedded sample at a small scale, the real data if at hand, scripts started as users do."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.pairs import Pairs
from src.sample.dataset import make_sample

REPO = Path(__file__).resolve().parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells have their background processes ignore
torch.set_num_threads(1)  # models as small as these are slower on more, many times so on a busy machine


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """A data folder with the embedded sample: 92 training images, 460 captions, 30 test captions. Leave it as it is."""
    data_dir = tmp_path_factory.mktemp("sample") / "data"
    make_sample(data_dir, scale=0.1)
    return data_dir


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """The folder of the real data, `visual` and `language` in the challenge's layout."""
    folder = Path(os.environ.get("FLICKR8K", REPO.parent / "shared/flickr8k"))
    if not (folder / "visual/train.npz").exists():
        pytest.skip("the real data are not at hand; name their folder with FLICKR8K=")
    return folder


@pytest.fixture(scope="session")
def run_script():
    """A function that starts `script.py` or `-m module` of this repository, as a user would, from any folder."""

    return lambda *command, **how: _run(*_in_repo(command), **how)


@pytest.fixture(scope="session")
def run_torchrun():
    """A function that starts such a script in several processes: `run_torchrun(2, "train_mrr.py", "--resume")`."""
    return lambda processes, *command, **how: _run(*TORCHRUN, processes, *_in_repo(command), **how)


def kill_one_of(processes: int, rank: int, when: Callable[[], bool], *command, cwd=REPO, restarts: int = 0) -> None:
    """Start such a script in several processes, kill one as soon as `when()` says so, and wait until all are gone, or
    have ended well where torchrun may start them again."""
    words = map(str, (*TORCHRUN, processes, f"--max-restarts={restarts}", *_in_repo(command)))
    environment, nothing = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}, subprocess.DEVNULL
    with subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, stdout=nothing, stderr=nothing) as job:
        while not when():
            assert job.poll() is None, "it ended before one was killed"
            time.sleep(0.001)
        children = " ".join(path.read_text() for path in Path(f"/proc/{job.pid}/task").glob("*/children")).split()
        environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
        os.kill(next(pid for pid, its in environments.items() if b"RANK=%d" % rank in its), signal.SIGKILL)
    assert job.returncode == (0 if restarts else 1)


def _in_repo(command: tuple) -> tuple:
    return command if command[0] == "-m" else (REPO / command[0], *command[1:])


def _run(*words, cwd=REPO, env=None, timeout=600) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(command, cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True)


@pytest.fixture
def calling(capsys):
    """A function that turns a command's `main` into one that calls it as its command line would, and returns what it
    prints."""

    def of(main):
        def start(*arguments):
            main(list(arguments))
            return capsys.readouterr().out

        return start

    return of


def select_images(pairs: Pairs, images: np.ndarray) -> Pairs:
    """A copy with the images of a boolean mask (M,), and their captions."""
    kept = pairs.select(images[pairs.image_of_caption])
    return replace(
        kept,
        image_of_caption=(np.cumsum(images, dtype=np.int32) - 1)[kept.image_of_caption],
        image_names=pairs.image_names[images],
        image_embeddings=pairs.image_embeddings[images],
    )


def assert_input_error(result: subprocess.CompletedProcess, *fragments: str) -> None:
    """Status 2 and one clear line on stderr that says all `fragments`, besides those of progress: of epochs, and as a
    bar has them ("[00:01<00:02, ")."""
    lines = re.split(r"[\r\n]+", result.stderr.replace("\x1b[A", ""))  # nested bars move the cursor up
    lines = [line for line in lines if line.strip() and not re.search(r" \[\d\d:\d\d[<,]|epoch \d+ of \d+: loss", line)]
    assert result.returncode == 2, f"status {result.returncode}: {result.stderr}"
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), lines[0]
    for fragment in fragments:
        assert fragment in lines[0], lines[0]
