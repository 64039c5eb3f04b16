"""The benchmark's reference does the same work as ours, and its command prints the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src.common.files import InputError
from src.data.pairs import open_pairs
from src.data.submissions import read_submission, write_submission
from src.ensembles.averaging import average
from src.training.loss import multi_positive_infonce
from src.training.machine import Machine
from src.training.metrics import retrieval_ranks
from src.training.model import ResidualMLP
from src.training.recipe import BASELINE
from src.training.trainer import Trainer
from tests.benchmarks import reference_files, reference_training
from tests.benchmarks.__main__ import HEADER, TINY, main
from tests.benchmarks.measuring import Cost, Row, in_own_process
from tests.benchmarks.opening import lack_of_memory, make_train_npz
from tests.benchmarks.time_to_mrr import measure_time_to_mrr
from tests.benchmarks.training import random_pairs, reference_trainer, split_of, whole

CPU = torch.device("cpu")
SMALL = replace(BASELINE, hidden_dim=16, batch_size=500, epochs=3)


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower on more threads, many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_loss_and_its_gradient_are_ours():
    torch.manual_seed(0)
    counts = torch.tensor([5, 1, 3, 5])
    target = torch.repeat_interleave(torch.arange(4), counts)
    text, images = torch.randn(14, 12).double(), torch.randn(4, 16).double()
    ours, plain = ResidualMLP(12, 16, 24).double(), reference_training.ResidualMLP(12, 16, 24, dropout=0.0).double()
    plain.load_state_dict(ours.state_dict())
    losses = (
        multi_positive_infonce(ours(text), F.normalize(images, dim=1), target, counts, 0.05),
        reference_training.infonce(plain(text), images[target], target, 0.05),
    )
    gradients = [
        torch.autograd.grad(loss, list(model.parameters())) for loss, model in zip(losses, (ours, plain), strict=True)
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_the_reference_trains_as_we_do():
    recipe = replace(SMALL, dropout=0.0, batch_size=100, lr=1e-3, tau=0.1)  # all in one batch: its order is no matter
    train = whole(random_pairs(100, 20, TINY), CPU)
    ours, plain = Trainer(recipe, train, Machine(CPU)), reference_trainer(train, recipe, CPU)
    plain.model.load_state_dict(ours.translator.state_dict())
    losses = [ours.train_epoch(epoch, lambda: None)["train_loss"] for epoch in range(1, 6)]
    assert [plain.train_epoch() for _ in losses] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]


def test_its_batches_are_whole_image_groups():
    pairs = random_pairs(97, 20, TINY)
    batches = list(reference_training.ImageGroupSampler(pairs.image_of_caption, 50))
    assert sorted(np.concatenate(batches)) == list(range(97))
    assert [len(set(pairs.image_of_caption[batch])) for batch in batches] == [10, 10]


def test_the_ranks_are_ours():
    generator = torch.Generator().manual_seed(0)
    prediction, gallery = torch.randn(60, 16, generator=generator), torch.randn(30, 16, generator=generator)
    target = torch.randint(30, (60,), generator=generator)
    ranks = reference_training.ranks(prediction, gallery, target)
    assert ranks.tolist() == retrieval_ranks(prediction, gallery, target).tolist()
    assert len(ranks.unique()) > 10


def test_the_csvs_and_their_mean_are_ours(tmp_path):
    files = [tmp_path / f"{number}.csv" for number in range(3)]
    embeddings = np.random.default_rng(0).standard_normal((3, 7, 16), np.float32)
    for file, rows in zip(files, embeddings, strict=True):
        write_submission(file, np.arange(7), rows)
    np.testing.assert_array_equal(reference_files.read_csv(files[0]).astype(np.float32), embeddings[0])
    np.testing.assert_allclose(reference_files.average_csvs(files), average(files, [1.0] * 3)[1], rtol=1e-6)
    reference_files.write_csv(files[0], np.arange(7), embeddings[1])
    np.testing.assert_array_equal(read_submission(files[0]).embeddings, embeddings[1])


def test_the_file_that_is_opened_has_the_challenges_layout(tmp_path):
    path = make_train_npz(tmp_path / "train.npz", TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["train.npz"]
    pairs = open_pairs(path)
    assert (len(pairs), pairs.num_images) == (TINY.captions, TINY.images)
    for dtype in ("float32", "bool"):
        text, images, image_of_caption = reference_files.open_train(path, dtype)
        np.testing.assert_array_equal(text, pairs.text_embeddings)
        np.testing.assert_array_equal(images, pairs.image_embeddings)
        np.testing.assert_array_equal(image_of_caption, pairs.image_of_caption)


def test_the_peak_of_a_process_is_its_own():
    ballast = np.ones(50_000_000)  # what this process holds is not the other's
    small, large = (in_own_process("numpy:ones", size).peak for size in (1, 20_000_000))
    assert 150e6 < large - small < 200e6
    assert small < ballast.nbytes / 2
    with pytest.raises(RuntimeError, match="no attribute 'nothing'"):
        in_own_process("numpy:nothing")


def test_the_reference_is_left_out_where_memory_lacks(monkeypatch):
    monkeypatch.setattr("tests.benchmarks.opening.available_memory", lambda: 10e9)
    full = replace(TINY, captions=125_000, images=25_000)
    assert lack_of_memory(full, "bool") == ""
    assert "needs 18 GB of memory, 10 GB are free" in lack_of_memory(full, "float32")


def test_the_time_to_the_baselines_mrr(sample):
    train_npz = sample / "train/train.npz"
    baseline = replace(BASELINE, hidden_dim=64, batch_size=100, epochs=6, lr=3e-3, tau=0.05)
    longer = replace(baseline, name="longer", epochs=60)
    hopeless = replace(baseline, name="hopeless", epochs=2, lr=1e-12)
    for recipe, ending in ((longer, "recipe longer, float32, reached"), (hopeless, "NOT reached in 2 epochs")):
        (row,) = measure_time_to_mrr(train_npz, baseline, recipe, Machine(CPU))
        assert ending in row.note
        assert (row.ours.seconds is None) == (recipe is hopeless)
        assert row.reference.seconds > 0


def test_patience_ends_the_reference(sample):
    patient = replace(SMALL, lr=1e-12, epochs=9, patience=2)  # nothing changes: the first epoch stays the best
    split = split_of(open_pairs(sample / "train/train.npz"), patient, CPU)
    trainer = reference_trainer(split.train, patient, CPU)
    assert len(reference_training.mrr_by_time(trainer, split.validation, patient)) == 3


def test_a_row_states_ratio_and_floor():
    row = Row(work="open", size="1 MB", reference=Cost(6.0, 17 * 10**9), ours=Cost(0.5, 10**9), floor=0.25)
    assert row.cells() == ["open", "1 MB", "6 s, 17.00 GB", "500 ms, 1.00 GB", "12×", "250 ms (2×)"]
    assert Row(work="open", ours=Cost(0.5)).cells()[2:] == ["–", "500 ms", "–", "–"]


@pytest.mark.slow
def test_the_command_prints_one_table(run_script):
    result = run_script("-m", "tests.benchmarks", "--tiny")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert header == HEADER
    works = [row[0] for row in rows]
    assert works[:3] == ["open train.npz, cold", "the same, bool", "open it again"]
    assert works[-4:] == ["exact ranks", "average CSVs", "write a CSV", "epoch on a GPU"]
    assert "training step, float32" in works
    for work, size, *costs in rows:
        if work == "epoch on a GPU" and not torch.cuda.is_available():
            assert size == "needs a GPU"
        else:
            assert costs[2].endswith("×"), work
    assert f"torch {torch.__version__}" in result.stdout


def test_what_was_measured_is_printed_whatever_ends_it(monkeypatch, capsys):
    monkeypatch.setattr("tests.benchmarks.__main__.measure_gpu", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["--tiny", "--only", "csv", "gpu"])
    assert "| write a CSV" in capsys.readouterr().out


def test_missing_data_end_it_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match=r"no\.npz: no such file"):
        main(["--time-to-mrr", str(tmp_path / "no.npz"), "--only", "csv", "time-to-mrr"])
