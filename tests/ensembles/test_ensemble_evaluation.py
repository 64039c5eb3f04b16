"""Measuring ensembles: only on captions that no member trained on, equal to brute force, with honest intervals."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from src.common.files import InputError
from src.data.pairs import Pairs, fingerprint, open_pairs, save_pairs
from src.data.splits import validation_images
from src.ensembles.evaluation import Measurer, measure_runs, paired_difference
from src.ensembles.held_out import common_images, finished_runs
from src.ensembles.selection import forward_selection
from src.training.inputs import in_turns
from src.training.metrics import mrr, retrieval_ranks
from src.training.model import Translator, load_translator, save_translator
from src.training.recipe import BASELINE
from src.training.runs import BEST_MRR, write_run

CPU = torch.device("cpu")
TEXT, IMAGE = 8, 12


def make_pairs(images: int, prefix: str = "") -> Pairs:
    rng = np.random.default_rng(images)
    image_of_caption = np.repeat(np.arange(images, dtype=np.int32), 3)
    return Pairs(
        caption_ids=np.arange(3 * images),
        caption_texts=np.array([f"caption {i}" for i in range(3 * images)], object),
        text_embeddings=rng.standard_normal((3 * images, TEXT)).astype(np.float32),
        image_of_caption=image_of_caption,
        image_names=np.array([f"{prefix}{i}.jpg" for i in range(images)], object),
        image_embeddings=rng.standard_normal((images, IMAGE)).astype(np.float32),
    )


@pytest.fixture
def train_npz(tmp_path):
    save_pairs(make_pairs(60), tmp_path / "train.npz")
    return tmp_path / "train.npz"


@pytest.fixture
def make_run(tmp_path, train_npz):
    """Record a finished run with random weights, as if it had been trained; its folder."""

    def make(seed, *, split_seed=None, val_fraction=0.25, train_npz=train_npz, val_npz=None, status="finished"):
        folder = tmp_path / f"models/seed{seed}"
        recipe = replace(BASELINE, seed=seed, split_seed=split_seed, val_fraction=val_fraction)
        data = {"train_npz": str(train_npz), "train_fingerprint": fingerprint(train_npz)}
        if val_npz:
            data |= {"val_npz": str(val_npz), "val_fingerprint": fingerprint(val_npz)}
        results = {"mrr": seed / 10}
        record = {"run_name": folder.name, "status": status, "recipe": asdict(recipe), "data": data}
        write_run(folder, record | {"results": results})
        torch.manual_seed(seed)
        translator = Translator(TEXT, IMAGE, 6)
        save_translator(translator.state_dict(), translator.dims, folder / BEST_MRR)
        return folder

    return make


def brute_force_mrr(predictions, captions) -> float:
    """One caption and one image at a time, in float64."""
    reciprocal = []
    for prediction, own in zip(np.float64(predictions), captions.image_of_caption, strict=True):
        cosines = [prediction @ image / np.linalg.norm(prediction) / np.linalg.norm(image)
                   for image in np.float64(captions.image_embeddings)]  # fmt: skip
        reciprocal.append(1 / (1 + sum(cosine > cosines[own] for cosine in cosines)))
    return float(np.mean(reciprocal))


def predictions_of(folders, captions) -> list[np.ndarray]:
    with torch.no_grad():
        return [load_translator(folder / BEST_MRR)(torch.from_numpy(captions.text_embeddings)).numpy()
                for folder in folders]  # fmt: skip


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class TestWhatARunDidNotSee:
    def test_it_is_the_validation_images_of_its_split(self, make_run, train_npz):
        on = open_pairs(train_npz)
        (own,), (given,) = finished_runs([make_run(1)]), finished_runs([make_run(2, split_seed=9)])
        np.testing.assert_array_equal(own.held_out(on), validation_images(on.image_names, 0.25, 1))
        np.testing.assert_array_equal(given.held_out(on), validation_images(on.image_names, 0.25, 9))

    def test_a_filtered_file_has_the_same_split(self, make_run, train_npz, tmp_path):
        on = open_pairs(train_npz)
        save_pairs(on.select(np.arange(len(on)) % 4 > 0), tmp_path / "filtered.npz")
        runs = finished_runs(
            [make_run(1, split_seed=0), make_run(2, split_seed=0, train_npz=tmp_path / "filtered.npz")]
        )
        np.testing.assert_array_equal(runs[0].held_out(on), runs[1].held_out(on))
        np.testing.assert_array_equal(common_images(runs, on), runs[0].held_out(on))

    def test_with_a_validation_set_of_its_own_it_is_nothing(self, make_run, train_npz, tmp_path):
        save_pairs(make_pairs(20, "other"), tmp_path / "val.npz")
        (run,) = finished_runs([make_run(1, val_npz=tmp_path / "val.npz")])
        assert not run.held_out(open_pairs(train_npz)).any()
        assert run.held_out(open_pairs(tmp_path / "val.npz")).all()
        with pytest.raises(InputError, match="seed1: trained on 60 of the 60 images"):
            common_images([run], open_pairs(train_npz))

    def test_it_cannot_be_told_once_the_training_file_has_changed(self, make_run, train_npz, tmp_path):
        (run,) = finished_runs([make_run(1)])
        save_pairs(make_pairs(50), tmp_path / "other.npz")
        on = open_pairs(tmp_path / "other.npz")
        assert run.held_out(on).sum() == 15 - sum(
            int(name.split(".")[0]) >= 50
            for name in open_pairs(train_npz).image_names[validation_images(make_pairs(60).image_names, 0.25, 1)]
        )
        save_pairs(make_pairs(40), train_npz)
        with pytest.raises(InputError, match=r"train\.npz is gone or has changed"):
            run.held_out(on)

    def test_runs_that_trained_on_each_others_images_are_refused(self, make_run, train_npz):
        on = open_pairs(train_npz)
        runs = finished_runs([make_run(1), make_run(2)])
        validates = [validation_images(on.image_names, 0.25, seed) for seed in (1, 2)]
        seen = (validates[0] & ~validates[1]).sum()
        with pytest.raises(InputError, match=f"seed2: trained on {seen} of the 15 images.*--split-seed.*--out-of-fold"):
            common_images(runs, on)

    def test_the_smallest_common_part_is_measured_when_one_held_out_more(self, make_run, train_npz):
        on = open_pairs(train_npz)
        runs = finished_runs([make_run(1, split_seed=0, val_fraction=0.5), make_run(2, split_seed=0)])
        np.testing.assert_array_equal(common_images(runs, on), validation_images(on.image_names, 0.25, 0))


class TestMeasuring:
    def test_the_mean_of_runs_is_that_of_brute_force(self, make_run, train_npz):
        folders = [make_run(seed, split_seed=0) for seed in (1, 2, 3)]
        runs = finished_runs(folders)
        on = open_pairs(train_npz)
        captions = in_turns(on.select_images(common_images(runs, on)))
        singles, (average, mean, weighted, normalised) = measure_runs(
            runs, np.ones((3, len(captions)), bool), Measurer(captions, CPU)
        )
        predictions = predictions_of(folders, captions)
        for row, prediction in zip(singles, predictions, strict=True):
            assert row.mrr == pytest.approx(brute_force_mrr(prediction, captions), abs=1e-12)
        assert mean.mrr == pytest.approx(brute_force_mrr(np.mean(predictions, axis=0), captions), abs=1e-12)
        assert normalised.mrr == pytest.approx(brute_force_mrr(np.mean(unit(np.array(predictions)), 0), captions))
        by_mrr = np.average(predictions, axis=0, weights=[1, 2, 3])
        assert weighted.mrr == pytest.approx(brute_force_mrr(by_mrr, captions), abs=1e-12)
        assert average.mrr == pytest.approx(np.mean([row.mrr for row in singles]))
        assert (mean.n, singles[0].n) == ("3", "1")

    def test_out_of_fold_uses_only_runs_that_never_saw_the_image(self, make_run, train_npz):
        folders = [make_run(seed) for seed in (1, 2, 3)]
        on = open_pairs(train_npz)
        held = [validation_images(on.image_names, 0.25, seed) for seed in (1, 2, 3)]
        captions = in_turns(on.select_images(np.any(held, axis=0)))
        names = [set(on.image_names[mask]) for mask in held]
        predictions = predictions_of(folders, captions)
        expected, covered, singles = [], [], []
        for caption, image in enumerate(captions.image_of_caption):
            members = [run for run in range(3) if captions.image_names[image] in names[run]]
            expected.append(np.mean([predictions[run][caption] for run in members], axis=0))
            covered.append(len(members))
        held_RN = np.array(held)[:, np.any(held, axis=0)][:, captions.image_of_caption]
        rows, (average, mean, *_) = measure_runs(finished_runs(folders), held_RN, Measurer(captions, CPU))
        assert set(covered) >= {1, 2}  # the case is one where it matters
        assert mean.n == f"1-{max(covered)}"
        assert mean.mrr == pytest.approx(brute_force_mrr(expected, captions), abs=1e-12)
        for row, prediction, mask in zip(rows, predictions, held_RN, strict=True):
            own = captions.select(mask)
            assert row.mrr == pytest.approx(brute_force_mrr(prediction[mask], own), abs=1e-12)
            singles.append([row.measures[caption, 0] if mask[caption] else np.nan for caption in range(len(captions))])
        assert average.mrr == pytest.approx(np.nanmean(singles, axis=0).mean())


class TestDifferences:
    def test_of_a_run_with_itself_is_nothing(self):
        ranks = np.random.default_rng(0).random(30)
        assert paired_difference(ranks, ranks, np.repeat(np.arange(10), 3)) == (0, 0, 0)

    def test_it_is_the_mean_over_captions(self):
        ours, theirs = np.array([1.0, 0.5, 0.25, 1.0]), np.array([0.5, 0.5, 0.5, 0.2])
        difference, low, high = paired_difference(ours, theirs, np.array([0, 0, 0, 1]))
        assert difference == pytest.approx((0.5 + 0 - 0.25 + 0.8) / 4)
        # Two images: a resample is the first twice (0.25 / 3), the second twice (0.8), or both.
        assert (low, high) == pytest.approx((0.25 / 3, 0.8))

    def test_captions_of_an_image_do_not_count_as_independent(self):
        rng = np.random.default_rng(1)
        ours, theirs = rng.random((2, 100))
        once = paired_difference(ours, theirs, np.arange(100))
        repeated = paired_difference(ours.repeat(5), theirs.repeat(5), np.arange(100).repeat(5))
        assert repeated == pytest.approx(once)

    def test_the_interval_is_the_one_of_the_normal_approximation(self):
        gain = np.random.default_rng(2).normal(0.05, 0.3, 2000)
        difference, low, high = paired_difference(gain, np.zeros(2000), np.arange(2000))
        half = 1.96 * gain.std() / np.sqrt(2000)
        assert difference == pytest.approx(gain.mean())
        assert (low, high) == pytest.approx((difference - half, difference + half), abs=0.05 * half)

    def test_captions_that_one_side_does_not_predict_are_left_out(self):
        ours, theirs = np.array([1.0, np.nan, 0.5, 0.5]), np.array([0.5, 0.5, np.nan, 0.25])
        assert paired_difference(ours, theirs, np.arange(4))[0] == pytest.approx((0.5 + 0.25) / 2)
        with pytest.raises(InputError, match="1 image to measure on"):
            paired_difference(ours, theirs, np.zeros(4, int))


class TestSelection:
    def scores(self, predictions, gallery, target):
        return mrr(retrieval_ranks(sum(predictions), gallery, target))

    def test_every_step_adds_the_run_that_helps_most(self):
        torch.manual_seed(0)
        gallery, target = torch.randn(20, 6), torch.arange(20).repeat(2)
        predictions = [gallery[target] + spread * torch.randn(40, 6) for spread in (3.0, 2.0, 1.0, 2.0)]
        steps = forward_selection(predictions, gallery, target)
        assert sorted(run for run, _ in steps) == [0, 1, 2, 3]
        for n, (_, score) in enumerate(steps):
            before = [predictions[run] for run, _ in steps[:n]]
            others = [predictions[run] for run in {0, 1, 2, 3} - {run for run, _ in steps[:n]}]
            assert score == pytest.approx(max(self.scores([*before, other], gallery, target) for other in others))

    def test_runs_that_complete_each_other_come_before_a_good_copy(self):
        torch.manual_seed(1)
        gallery, target = torch.randn(60, 16), torch.arange(60)
        noise = 2 * torch.randn(60, 16)
        best, copy = gallery + 0.9 * noise, gallery + 0.91 * noise
        complement = gallery - noise  # worse alone; what it errs in cancels
        steps = forward_selection([copy, complement, best], gallery, target)
        assert [run for run, _ in steps] == [2, 1, 0]
        assert steps[1][1] > steps[0][1]
