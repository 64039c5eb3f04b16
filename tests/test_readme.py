"""The README: every command in it runs, its length, its links; the script that rewrites its figures."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.data.pairs import open_pairs
from tests.conftest import REPO
from tests.readme_figures import PAGES, rewritten
from tests.tiny_clip import make_tiny_clip

TEXTS = {page: (REPO / page).read_text(encoding="utf-8") for page in (*PAGES, "docs/faults.md")}
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXTS["README.md"], re.DOTALL)
QUICK = ["--hidden-dim", "16", "--epochs", "1"]
SMALL = {  # what makes a command quick on the tiny sample, after its own flags
    "train_mrr.py": QUICK,
    "train_mrr_hpp_tunning_RandSearch.py": ["--trials", "2", *QUICK],
    "train_mrr_Ensemble_old_dataset.py": QUICK,
    "train_mrr_Ensemble_new_dataset_CLIP.py": QUICK,
    "train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py": QUICK,
    "src.topk_filter_pairs": [*QUICK, "--copies", "1", "--kernel-share", "0"],
    "src.clip_filter_pairs": ["--model", "clip/tiny_clip.json", "--pretrained", "clip/tiny_clip.safetensors"],
    "src.ensemble train": ["--minutes", "0.1"],
    "src.encode": ["--text-embeddings", "text.npy", "--image-embeddings", "image.npy"],  # as from encoders
}
ELSEWHERE = ("jupyter", "#SBATCH", "srun", "bash setup.sh")  # tests/filters/test_review.py, a cluster, test_setup.py


def commands() -> list[str]:
    """Without comments, one a line; both sides of &&."""
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    without = [re.sub(r"(^|\s)# .*", "", line).strip() for line in lines]
    return [part.strip() for line in without for part in line.split("&&") if part.strip()]


def as_started(command: str) -> list[str]:
    """With the Python of the tests, two processes where it has eight, and what makes it quick."""
    words = shlex.split(command.replace(".venv/bin/python", "python").replace("<slug>", "a-challenge"))
    quick = next((flags for name, flags in SMALL.items() if f" {name}" in f" {command} "), [])
    if words[0] == "torchrun":
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words[2:]]
        words = [*words[:4], *(str(REPO / word) if word.endswith(".py") else word for word in words[4:])]
    else:
        assert words[0] == "python", command
        words = words[1:]
        words[0] = str(REPO / words[0]) if words[0].endswith(".py") else words[0]
    return [sys.executable, *words, *quick]


@pytest.fixture(scope="module")
def project(sample, tmp_path_factory) -> Path:
    """A folder with the sample in data/, own pictures and captions, a CLIP, and a Kaggle that takes anything."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(sample, folder / "data")
    pairs = open_pairs(sample / "train/train.npz")
    shutil.copytree(sample / "train/Images", folder / "pictures")
    rows = zip(pairs.image_names[pairs.image_of_caption], pairs.caption_texts, strict=True)
    (folder / "captions.txt").write_text("image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in rows))
    np.save(folder / "text.npy", pairs.text_embeddings)
    np.save(folder / "image.npy", pairs.image_embeddings[np.argsort(pairs.image_names)])
    make_tiny_clip(folder / "clip", steps=0)
    (folder / "bin").mkdir()
    (folder / "bin/kaggle").write_text("#!/bin/sh\necho Successfully submitted to the challenge\n")
    (folder / "bin/kaggle").chmod(0o755)
    return folder


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_page(project):
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{project / 'bin'}:{environment['PATH']}"
    ran = 0
    for command in commands():
        if command.startswith(ELSEWHERE) or command.endswith("pytest"):
            continue
        started = subprocess.run(as_started(command), cwd=project, env=environment, capture_output=True, text=True)
        assert started.returncode == 0, f"{command}: {started.stderr[-2000:]}"
        ran += 1
    assert ran > 20


def test_what_setup_is_told_is_what_it_knows():
    told = subprocess.run(["bash", REPO / "setup.sh", "--help"], capture_output=True, text=True, check=True).stdout
    for flag in re.findall(r"(--[a-z]+)", " ".join(c for c in commands() if c.startswith("bash setup.sh"))):
        assert flag in told


def test_it_is_read_in_five_minutes():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if not line.startswith("|")) <= 125


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", TEXTS[page]):
        assert not target or target.startswith("http") or ((REPO / page).parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]*)\)", TEXTS[page]):
        text = TEXTS[target] if target else TEXTS[page]
        heads = [
            re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-")
            for head in re.findall(r"^#+ (.*)", text, re.M)
        ]
        assert anchor in heads


def test_what_it_names_is_there():
    for text in TEXTS.values():
        for name in re.findall(r"`((?:tests|src|docs|notebooks)/[\w./]+?)(?:::\w+)?`", text):
            assert (REPO / name).exists(), name


def test_the_figures_of_the_sample_are_rewritten_by_the_heads_of_their_columns():
    page = "\n".join(
        [
            "| MRR | linear map | `baseline` | `--recipe auto` |",
            "| --- | ---: | ---: | ---: |",
            "| the embedded sample, 920 pictures | 0.1 | **0.9** | – |",
            "| other data | 0.1 | 0.2 | 0.3 |",
        ]
    )
    new = rewritten(page, {"baseline": 0.5, "auto": 0.7, "kernel": 0.6, "linear": 0.4})
    assert new.splitlines()[2] == "| the embedded sample, 920 pictures | 0.400 | 0.500 | – |"
    assert new.splitlines()[3] == page.splitlines()[3]
