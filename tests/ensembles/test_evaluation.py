"""Measuring ensembles: only on captions that no member trained on, equal to brute force, with honest intervals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.common.files import InputError, read_json, write_json
from src.common.paths import TRAIN_NPZ
from src.data.pairs import open_pairs, save_pairs
from src.data.splits import validation_images
from src.ensembles.evaluation import comparison, measure_runs, paired_difference
from src.ensembles.held_out import common_images, finished_runs, held_out_part, unseen_captions
from src.training.inputs import OnDevice
from src.training.model import load_translator
from src.training.runs import BEST_MRR
from tests.ensembles.test_expansion import brute_force_expansion
from tests.training.conftest import CPU, tiny_pairs


def brute_force_mrr(predictions, part) -> float:
    """One caption and one image at a time, in float64."""
    gallery, reciprocal = np.float64(part.gallery_mV), []
    for prediction, own in zip(np.float64(predictions), part.target_n.tolist(), strict=True):
        cosines = [prediction @ image / np.linalg.norm(prediction) / np.linalg.norm(image) for image in gallery]
        reciprocal.append(1 / (1 + sum(cosine > cosines[own] for cosine in cosines)))
    return float(np.mean(reciprocal))


def predictions_of(folders, part) -> list[np.ndarray]:
    with torch.no_grad():
        return [load_translator(folder / BEST_MRR)(part.text_nT).numpy() for folder in folders]


def taken(folders):
    return finished_runs(folders, open_pairs(TRAIN_NPZ))[0]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class TestWhatARunDidNotSee:
    def test_it_is_the_validation_images_of_its_split(self, make_run):
        on = open_pairs(TRAIN_NPZ)
        (own,), (given,) = taken([make_run(1)]), taken([make_run(2, split_seed=9)])
        np.testing.assert_array_equal(own.held_out(on), validation_images(on.image_names, 0.25, 1))
        np.testing.assert_array_equal(given.held_out(on), validation_images(on.image_names, 0.25, 9))

    def test_a_filtered_file_has_the_same_split(self, make_run, tmp_path):
        on = open_pairs(TRAIN_NPZ)
        save_pairs(on.select(np.arange(len(on)) % 4 > 0), tmp_path / "filtered.npz")
        runs = taken([make_run(1, split_seed=0), make_run(2, split_seed=0, train_npz=tmp_path / "filtered.npz")])
        np.testing.assert_array_equal(runs[0].held_out(on), runs[1].held_out(on))
        np.testing.assert_array_equal(common_images(runs, on), runs[0].held_out(on))

    def test_with_a_validation_set_of_its_own_it_is_nothing(self, make_run, tmp_path):
        others = tiny_pairs(3, 20)
        save_pairs(replace(others, image_names="other" + others.image_names), tmp_path / "val.npz")
        (run,) = taken([make_run(1, val_npz=tmp_path / "val.npz")])
        assert not run.held_out(open_pairs(TRAIN_NPZ)).any()
        assert run.held_out(open_pairs(tmp_path / "val.npz")).all()
        with pytest.raises(InputError, match="seed1: trained on 60 of the 60 images"):
            common_images([run], open_pairs(TRAIN_NPZ))

    def test_it_cannot_be_told_once_the_training_file_has_changed(self, make_run, tmp_path):
        (run,) = taken([make_run(1)])
        names = open_pairs(TRAIN_NPZ).image_names
        save_pairs(tiny_pairs(1, 50), tmp_path / "other.npz")  # the first 50 of the 60 images
        on = open_pairs(tmp_path / "other.npz")
        assert set(on.image_names[run.held_out(on)]) == set(names[validation_images(names, 0.25, 1)]) & set(names[:50])
        save_pairs(tiny_pairs(1, 40), TRAIN_NPZ)
        with pytest.raises(InputError, match=r"train\.npz is gone or has changed"):
            run.held_out(on)

    def test_records_of_other_versions_tell_it_too(self, make_run):
        path = make_run(1) / "run.json"
        record = read_json(path)
        del record["recipe"]["negatives"]
        record["recipe"]["momentum"] = 0.9
        write_json(path, record)
        (run,) = taken([path.parent])
        assert run.held_out(open_pairs(TRAIN_NPZ)).sum() == 15

    def test_runs_that_trained_on_each_others_images_are_refused(self, make_run):
        on = open_pairs(TRAIN_NPZ)
        runs = taken([make_run(1), make_run(2)])
        validates = [validation_images(on.image_names, 0.25, seed) for seed in (1, 2)]
        seen = (validates[0] & ~validates[1]).sum()
        with pytest.raises(InputError, match=f"seed2: trained on {seen} of the 15 images.*--split-seed.*--out-of-fold"):
            common_images(runs, on)

    def test_the_smallest_common_part_is_measured_when_one_held_out_more(self, make_run):
        on = open_pairs(TRAIN_NPZ)
        runs = taken([make_run(1, split_seed=0, val_fraction=0.5), make_run(2, split_seed=0)])
        np.testing.assert_array_equal(common_images(runs, on), validation_images(on.image_names, 0.25, 0))


class TestMeasuring:
    def test_the_mean_of_runs_is_that_of_brute_force(self, make_run):
        folders = [make_run(seed, split_seed=0) for seed in (1, 2, 3)]
        runs = taken(folders)
        part = held_out_part(open_pairs(TRAIN_NPZ), runs, CPU)
        singles, (average, mean, weighted, normalised), expanded = measure_runs(runs, part, unseen_captions(runs, part))
        predictions = predictions_of(folders, part)
        for single, prediction in zip(singles, predictions, strict=True):
            assert single.mrr == pytest.approx(brute_force_mrr(prediction, part), abs=1e-12)
        assert mean.mrr == pytest.approx(brute_force_mrr(np.mean(predictions, axis=0), part), abs=1e-12)
        assert normalised.mrr == pytest.approx(brute_force_mrr(np.mean(unit(np.array(predictions)), 0), part))
        by_mrr = np.average(predictions, axis=0, weights=[1, 2, 3])
        assert weighted.mrr == pytest.approx(brute_force_mrr(by_mrr, part), abs=1e-12)
        assert average.mrr == pytest.approx(np.mean([single.mrr for single in singles]))
        assert (mean.count, singles[0].count) == ("3", "1")
        assert expanded == []

    def test_the_best_run_and_the_means_are_expanded_among_the_captions_measured(self, make_run):
        folders = [make_run(seed, split_seed=0) for seed in (1, 2, 3)]
        runs = taken(folders)
        part = held_out_part(open_pairs(TRAIN_NPZ), runs, CPU)
        unseen = unseen_captions(runs, part)
        plain_singles, plain_means, _ = measure_runs(runs, part, unseen)
        singles, means, expanded = measure_runs(runs, part, unseen, neighbours=2)
        assert [each.mrr for each in (*singles, *means)] == [each.mrr for each in (*plain_singles, *plain_means)]
        best = max(range(3), key=lambda run: singles[run].mrr)
        plain = [singles[best], *means[1:]]
        assert [each.label for each in expanded] == [f"{each.label}, expanded by 2" for each in plain]
        assert [each.count for each in expanded] == ["1", "3", "3", "3"]
        predictions = np.array(predictions_of(folders, part))
        by_mrr = np.average(predictions, axis=0, weights=[1, 2, 3])
        of_plain = [predictions[best], predictions.mean(axis=0), by_mrr, unit(predictions).mean(axis=0)]
        for each, prediction in zip(expanded, of_plain, strict=True):
            assert each.mrr == pytest.approx(brute_force_mrr(brute_force_expansion(prediction, 2), part), abs=1e-12)
        assert measure_runs(runs[:1], part, unseen[:1], neighbours=2)[2][0].label == f"{folders[0]}, expanded by 2"

    def test_captions_that_different_runs_predict_are_not_expanded(self, make_run):
        runs = taken([make_run(1), make_run(2)])
        part = held_out_part(open_pairs(TRAIN_NPZ), runs, CPU, out_of_fold=True)
        with pytest.raises(InputError, match=r"--expand: runs with splits of their own cannot tell .* --split-seed"):
            measure_runs(runs, part, unseen_captions(runs, part), neighbours=2)

    def test_out_of_fold_uses_only_runs_that_never_saw_the_image(self, make_run):
        folders = [make_run(seed) for seed in (1, 2, 3)]
        runs, names = taken(folders), open_pairs(TRAIN_NPZ).image_names
        part = held_out_part(open_pairs(TRAIN_NPZ), runs, CPU, out_of_fold=True)
        held = [set(names[validation_images(names, 0.25, seed)]) for seed in (1, 2, 3)]
        name_of_caption = names[part.of.pairs.image_of_caption[part.captions]]
        assert set(name_of_caption) <= set.union(*held)
        predictions = predictions_of(folders, part)
        members = [[run for run in range(3) if name in held[run]] for name in name_of_caption]
        expected = [np.mean([predictions[run][n] for run in some], axis=0) for n, some in enumerate(members)]
        singles, (average, mean, *_), _ = measure_runs(runs, part, unseen_captions(runs, part))
        assert {1, 2} <= {len(some) for some in members}  # the case is one where it matters
        assert mean.count == f"1-{max(map(len, members))}"
        assert mean.mrr == pytest.approx(brute_force_mrr(expected, part), abs=1e-12)
        for run, single in enumerate(singles):
            mask = np.array([run in some for some in members])
            own = replace(part, captions=part.captions[mask])
            assert single.mrr == pytest.approx(brute_force_mrr(predictions[run][mask], own), abs=1e-12)
            np.testing.assert_array_equal(np.isfinite(single.per_caption[:, 0]), mask)
        of_each = [np.mean([singles[run].per_caption[n, 0] for run in some]) for n, some in enumerate(members)]
        assert average.mrr == pytest.approx(np.mean(of_each))
        assert [each.partial for each in (*singles, average, mean)] == [True] * 3 + [False] * 2
        best_first = sorted(singles, key=lambda single: -single.mrr)
        table = comparison(singles)
        assert list(table["runs"]) == [single.label for single in best_first]
        assert list(table["captions"]) == [np.isfinite(single.per_caption[:, 0]).sum() for single in best_first]

    def test_a_run_that_saw_all_images_is_named(self, make_run):
        runs = taken([make_run(1), make_run(2)])
        on = OnDevice(open_pairs(TRAIN_NPZ), CPU)
        seen_by_2 = on.part(~runs[1].held_out(on.pairs))
        with pytest.raises(InputError, match=r"seed2: trained on all images of .*train\.npz; leave it out"):
            unseen_captions(runs, seen_by_2)

    def test_other_widths_are_refused(self, make_run, tmp_path):
        pairs = tiny_pairs(1, 60)
        save_pairs(replace(pairs, image_embeddings=pairs.image_embeddings[:, 1:]), tmp_path / "narrow.npz")
        runs = taken([make_run(1)])
        part = held_out_part(open_pairs(tmp_path / "narrow.npz"), runs, CPU)
        with pytest.raises(InputError, match=r"translates widths \(8, 12\)"):
            measure_runs(runs, part, unseen_captions(runs, part))


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
