"""Thirteen images with sixty awkward captions, and a translator that has learnt nothing, in the folder of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.data.pairs import Pairs, fingerprint, open_pairs, save_pairs
from src.training.model import ResidualMLP, save_translator
from src.training.recipe import BASELINE
from src.training.runs import BEST_MRR, DataRecord, Results, RunRecord, State, write_run
from tests.filters.conftest import IMAGE, TEXT, make_pairs

RECIPE = replace(BASELINE, val_fraction=0.4, seed=5)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """pairs.npz, and run/ in models/ with a record of what it was trained on. Leave it as it is."""
    folder = tmp_path_factory.mktemp("retrieval")
    save_pairs(make_pairs(captions=60), folder / "pairs.npz")
    torch.manual_seed(0)
    translator = ResidualMLP(TEXT, IMAGE, 5)
    run = folder / "models/run"
    save_translator(translator.state_dict(), translator.dims, run / BEST_MRR)
    data = DataRecord(train_npz=str(folder / "pairs.npz"), train_fingerprint=fingerprint(folder / "pairs.npz"))
    results = Results(measures={"mrr": 0.5})
    write_run(run, RunRecord(run_name="run", status=State.FINISHED, recipe=RECIPE, data=data, results=results))
    return folder


@pytest.fixture
def pairs(project) -> Pairs:
    return open_pairs(project / "pairs.npz")


@pytest.fixture
def weights(project) -> Path:
    return project / "models/run" / BEST_MRR
