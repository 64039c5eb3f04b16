"""The ablation compares like with like: the same images validate, and a table tells the differences."""

from dataclasses import replace

import pytest
import torch

from src.training.inputs import TrainingData
from src.training.recipe import AUTO, BASELINE, STRONG, sized
from tests.benchmarks.ablation import CHANGES, OTHERS, recipe_of, tabulate, with_fewer_images
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
        strong = sized(AUTO, captions)
        recipes = [recipe_of(name, strong) for name in (*CHANGES, *OTHERS)]
        assert len({recipe for recipe in recipes if recipe != strong}) == sum(recipe != strong for recipe in recipes)


def test_the_table_tells_means_spreads_and_paired_differences():
    mrrs = {"strong": [0.5, 0.6], "tau": [0.52, 0.64], "linear": [0.3, 0.3]}
    recipes = {"strong": STRONG, "tau": replace(STRONG, tau=0.5), "linear": OTHERS["linear"]}
    header, *rows = tabulate(mrrs, recipes, STRONG)
    assert rows == [
        ["strong", "0.5500 ± 0.0500", "+0.0000 ± 0.0000"],
        ["tau=0.5", "0.5800 ± 0.0600", "+0.0300 ± 0.0100"],
        ["linear", "0.3000 ± 0.0000", "-0.2500 ± 0.0500"],
    ]
    assert header == ["recipe", "MRR", "difference"]
    assert tabulate({"strong": [0.5]}, recipes, STRONG)[1][2] == "+0.0000 ± nan"  # one seed tells no error
