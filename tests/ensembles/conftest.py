"""A project folder in miniature, and finished runs with random weights where training proves nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.common.paths import CLIP_NPZ, TEST_NPZ, TRAIN_NPZ
from src.data.keep_lists import save_selected
from src.data.pairs import TestCaptions, fingerprint, open_pairs, save_pairs, save_test_captions
from src.training.model import ResidualMLP, save_translator
from src.training.recipe import BASELINE
from src.training.runs import BEST_MRR, DataRecord, Results, RunRecord, write_run
from tests.training.conftest import tiny_pairs

QUICK = ("--hidden-dim", "8", "--epochs", "2", "--device", "cpu", "--precision", "float32")


def make_project(folder):
    """Write raw pairs of 60 images, filtered ones and 10 test captions to where a project, `folder`, has them."""
    raw = tiny_pairs(1, 60)
    save_pairs(raw, folder / TRAIN_NPZ)
    save_selected(open_pairs(folder / TRAIN_NPZ), np.arange(len(raw)) % 5 > 0, folder / CLIP_NPZ)
    save_test_captions(make_test_captions(10), folder / TEST_NPZ)


def make_test_captions(count: int) -> TestCaptions:
    pairs = tiny_pairs(2, count)
    return TestCaptions(
        caption_ids=pairs.caption_ids[:count] + 1000,
        caption_texts=pairs.caption_texts[:count],
        text_embeddings=pairs.text_embeddings[:count],
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder without runs as the working directory."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_run(project):
    """Record a finished run with random weights, as if it had been trained on the raw pairs; its folder."""

    def make(seed, *, split_seed=None, val_fraction=0.25, train_npz=TRAIN_NPZ, val_npz=None):
        folder = project / f"models/seed{seed}"
        data = DataRecord(train_npz=str(train_npz), train_fingerprint=fingerprint(train_npz))
        if val_npz:
            data = replace(data, val_npz=str(val_npz), val_fingerprint=fingerprint(val_npz))
        record = RunRecord(
            run_name=folder.name,
            status="finished",
            recipe=replace(BASELINE, seed=seed, split_seed=split_seed, val_fraction=val_fraction),
            data=data,
            results=Results(measures={"mrr": seed / 10}),
        )
        write_run(folder, record)
        torch.manual_seed(seed)
        translator = ResidualMLP(8, 12, 6)
        save_translator(translator.state_dict(), translator.dims, folder / BEST_MRR)
        return folder

    return make
