"""The ablation compares like with like: the same images validate, and a table tells the differences."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from src.training.inputs import TrainingData
from src.training.recipe import AUTO, BASELINE, STRONG, sized
from tests.benchmarks.ablation import ADDED, CHANGES, OTHERS, recipe_of, tabulate, with_fewer_images
from tests.training.conftest import tiny_pairs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_fewer_images_the_same_validate(seed):
    data = TrainingData.of(tiny_pairs(1, 60), torch.device("cpu"))
    recipe = replace(BASELINE, seed=seed)
    fewer_recipe, fewer = with_fewer_images(recipe, data)
    whole, part = (d.split(r.val_fraction, seed) for d, r in ((data, recipe), (fewer, fewer_recipe)))
    assert torch.equal(whole.validation.images, part.validation.images)
    assert len(whole.train.images) == 54
    assert len(part.train.images) == 54 - 5  # a tenth: what refitting adds to the 54
    assert set(part.train.images.tolist()) < set(whole.train.images.tolist())


def test_every_row_is_a_recipe_of_its_own():
    for captions in (3_000, 10_000, 100_000):
        auto = sized(AUTO, captions)
        strong = recipe_of("", auto)
        assert (strong.copies, strong.kernel_share, strong.predict_with) == (1, 0.0, "best")
        assert recipe_of("copies and kernel share", auto) == replace(auto, predict_with="best")
        recipes = [recipe_of(name, auto) for name in (*ADDED, *CHANGES, *OTHERS)]
        assert len({recipe for recipe in recipes if recipe != strong}) == sum(recipe != strong for recipe in recipes)


def history(mrrs, seconds=2.0):
    return pd.DataFrame({"mrr": mrrs, "seconds": seconds})


def test_the_table_tells_means_spreads_paired_differences_and_costs():
    histories = {
        "strong": [history([0.4, 0.5, 0.5]), history([0.6, 0.5, 0.4])],
        "tau": [history([0.52, 0.2, 0.3]), history([0.1, 0.2, 0.64])],
        "baseline": [history([0.3], 100.0), history([0.3], 110.0)],
        "linear": [history([0.2]), history([0.4])],
    }
    others = {name: OTHERS[name] for name in ("baseline", "linear")}
    recipes = {"strong": STRONG, "tau": replace(STRONG, tau=0.5)} | others
    header, *rows = tabulate(histories, recipes, STRONG)
    assert header == ["recipe", "MRR", "difference", "s to the baseline's best", "s to its best"]
    assert rows == [
        ["strong", "0.5500 ± 0.0500", "+0.0000 ± 0.0000", "2", "3"],  # after epoch 2 and epoch 1
        ["tau=0.5", "0.5800 ± 0.0600", "+0.0300 ± 0.0100", "4", "4"],
        ["baseline", "0.3000 ± 0.0000", "-0.2500 ± 0.0500", "105", "105"],
        ["linear", "0.3000 ± 0.1000", "-0.2500 ± 0.0500", "–", "2"],
    ]
    one = tabulate({"strong": [history([0.5])]}, recipes, STRONG)[1]
    assert one[2:] == ["+0.0000 ± nan", "–", "2"]  # one seed tells no error, and there is no baseline
