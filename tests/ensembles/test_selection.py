"""Weights of runs: by forward selection with replacement, measured out of fold, equal ones where they are as good."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.paths import TRAIN_NPZ
from src.data.pairs import open_pairs
from src.ensembles.held_out import held_out_part
from src.ensembles.selection import OUT_OF_FOLD, RunScores, equal_weights, first_half, forward_selection, select
from src.training.inputs import Part
from tests.ensembles.test_evaluation import predictions_of, taken, unit
from tests.training.conftest import CPU, tiny_pairs, whole


def two_images(*margins_Rn: list[float]) -> RunScores:
    """RunScores of captions for two images, by how much each run prefers the right one."""
    scores = [torch.tensor([[margin, 0.0] for margin in margins_n]) for margins_n in margins_Rn]
    return RunScores(scores, torch.zeros(len(margins_Rn[0]), dtype=torch.int64))


class TestForwardSelection:
    # Alone the first finds three of four, the second two; the sum two, twice the first and the second all.
    BOTH = two_images([2, -1, 1, 1], [-3, 3, 1, -1.5])

    def test_a_run_that_is_added_twice_weighs_twice(self):
        added = forward_selection(self.BOTH, members=2)
        assert added.order[:3] == [0, 0, 1]
        assert added.mrrs[:3] == [3.5 / 4, 3.5 / 4, 1]
        assert len(added.order) == 6  # three a run
        assert (added.best, added.weights(), added.weights(2)) == (3, [2, 1], [2, 0])
        assert self.BOTH.reciprocal([1, 1]).tolist() == [0.5, 1, 1, 0.5]

    def test_no_more_runs_than_wanted_are_added(self):
        assert set(forward_selection(self.BOTH, members=1).order) == {0}
        three = two_images([2, -1, 1, 1], [-1, -1, -1, -1], [-3, 3, 1, -1.5])
        assert set(forward_selection(three, members=2).order) == {0, 2}

    def test_every_step_adds_the_run_that_helps_most(self):
        generator = torch.Generator().manual_seed(0)
        scores = [torch.randn(40, 20, generator=generator) for _ in range(4)]
        added = forward_selection(RunScores(scores, torch.arange(20).repeat(2)), members=4)
        for n, mrr in enumerate(added.mrrs):
            totals = [sum(scores[run] for run in [*added.order[:n], other]) for other in range(4)]
            ranks = [[1 + (row > row[i % 20]).sum() for i, row in enumerate(total)] for total in totals]
            expected = [np.mean([1 / rank for rank in each]) for each in ranks]
            assert added.order[n] == np.argmax(expected)
            assert mrr == pytest.approx(max(expected))

    def test_equal_runs_are_taken_in_their_order(self):
        same = two_images([1, -1], [1, -1], [1, -1])
        assert forward_selection(same, members=3).weights() == [1, 0, 0]
        assert equal_weights(same, members=2) == [1, 1, 0]

    def test_equal_weights_are_of_those_that_are_best_alone(self):
        assert equal_weights(two_images([1, -1], [-1, -1], [1, 1]), members=2) == [1, 0, 1]


@dataclass(frozen=True)
class Prepared:
    """A run whose predictions are known."""

    folder: Path
    prediction_nV: torch.Tensor
    part: Part

    def predict(self, part: Part) -> torch.Tensor:
        return self.prediction_nV[torch.searchsorted(self.part.captions, part.captions)]


def prepared(part: Part, *noise: tuple[float, int]) -> list[Prepared]:
    """Runs that predict each caption's image and noise of some size and seed."""
    right_nV, runs = part.gallery_mV[part.target_n], []
    for number, (size, seed) in enumerate(noise):
        noise_nV = torch.randn(right_nV.shape, generator=torch.Generator().manual_seed(seed))
        runs.append(Prepared(Path(f"run{number}"), right_nV + size * noise_nV, part))
    return runs


class TestSelect:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_every_figure_is_that_of_brute_force(self, make_run, normalize):
        folders = [make_run(seed, split_seed=0, val_fraction=0.5) for seed in (1, 2, 3)]
        part = held_out_part(open_pairs(TRAIN_NPZ), runs := taken(folders), CPU)
        predictions = np.array(predictions_of(folders, part))
        predictions = unit(predictions) if normalize else predictions
        first_n = first_half(part, 0).numpy()

        gallery, own = unit(np.float64(part.gallery_mV)), part.target_n.numpy()

        def measure(weights, mask=slice(None)):
            cosines = unit(np.average(np.float64(predictions), axis=0, weights=weights)) @ gallery.T
            ranks = 1 + (cosines > cosines[np.arange(len(own)), own][:, None]).sum(axis=1)
            return np.mean(1 / ranks[mask])

        def choose(mask):
            order, mrrs = [], []
            for _ in range(9):
                found = [measure(np.bincount([*order, run], minlength=3), mask) for run in range(3)]
                order.append(int(np.argmax(found)))
                mrrs.append(max(found))
            return np.bincount(order[: 1 + int(np.argmax(mrrs))], minlength=3)

        by_first, by_second = choose(first_n), choose(~first_n)
        assert list(by_first) != list(by_second)  # the case is one where it matters
        shares = first_n.mean(), (~first_n).mean()
        fitted = np.dot(shares, [measure(by_second, first_n), measure(by_first, ~first_n)])
        selection = select(runs, part, normalize=normalize)
        weights = list(choose(slice(None))) if fitted > measure([1, 1, 1]) else [1, 1, 1]
        assert selection.weights == weights
        assert selection.gain.value == pytest.approx(fitted - measure([1, 1, 1]))
        assert selection.mrr == pytest.approx(max(fitted, measure([1, 1, 1])))
        alone = [measure(only) for only in np.eye(3)]
        assert selection.over_best.value == pytest.approx(selection.mrr - max(alone))
        assert selection.alone == pytest.approx(alone)
        assert selection.mean_of_all == pytest.approx(measure([1, 1, 1]))
        curve = selection.curve
        assert (curve.low <= curve[OUT_OF_FOLD]).all()
        assert (curve[OUT_OF_FOLD] <= curve.high).all()
        table = selection.table.set_index("run")
        for number, run in enumerate(runs):
            row = table.loc[str(run.folder)]
            assert (row["weight"], row["MRR alone"]) == (weights[number], pytest.approx(alone[number]))
            rest = [weight * (other != number) for other, weight in enumerate(weights)]
            if weights[number] and any(rest):
                lost = float(row["MRR lost without it [95% interval]"].split()[0])
                assert lost == pytest.approx(measure(weights) - measure(rest), abs=1e-4)

    def test_the_halves_share_no_image(self):
        part = whole(tiny_pairs(1, 30))
        first_n = first_half(part, 0)
        first, second = (set(part.target_n[mask].tolist()) for mask in (first_n, ~first_n))
        assert first | second == set(part.target_n.tolist())
        assert not first & second
        assert abs(len(first) - len(second)) <= 2
        assert (first_n != first_half(part, 1)).any()

    def test_fitted_weights_are_used_where_they_are_better_out_of_fold(self):
        part = whole(tiny_pairs(1, 60))
        selection = select(prepared(part, (0.3, 0), (9.0, 1), (9.0, 2)), part)
        assert selection.weights == [1, 0, 0]
        assert selection.gain.low > 0
        assert list(selection.table["weight"]) == [1, 0, 0]
        assert selection.over_best == (0, 0, 0)

    def test_else_equal_ones_of_all_runs_or_of_the_best_so_many(self):
        part = whole(tiny_pairs(1, 60))
        runs = prepared(part, (3.0, 0), (2.0, 1), (2.0, 1))  # what is added to the second is a copy of it
        assert select(runs[1:], part).weights == [1, 1]
        assert select(runs[1:], part).gain == (0, 0, 0)
        assert select(runs, part, members=1).weights == [0, 1, 0]

    def test_unit_vectors_count_the_same_whatever_their_length(self):
        part = whole(tiny_pairs(1, 60))
        first, second = prepared(part, (1.0, 0), (1.0, 1))
        loud = replace(second, prediction_nV=1000 * second.prediction_nV)
        tables = [select([first, each], part, normalize=True).table for each in (second, loud)]
        assert tables[0].equals(tables[1])
        assert not select([first, loud], part).table.equals(tables[0])
