"""Query expansion: equal to brute force, indifferent to order, length and chunks; `combine --expand`, end to end."""

import re

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from src.common.files import InputError
from src.data.submissions import read_submission, write_submission
from src.ensemble import main
from src.ensembles.expansion import expand_queries


def brute_force_expansion(predictions, neighbours: int) -> np.ndarray:
    """One prediction at a time, in float64."""
    units = np.float64(predictions) / np.linalg.norm(np.float64(predictions), axis=1, keepdims=True)
    expanded = units.copy()
    for number, unit in enumerate(units):
        others = sorted((j for j in range(len(units)) if j != number), key=lambda j: -(unit @ units[j]))
        for other in others[:neighbours]:
            expanded[number] += max(0, unit @ units[other]) * units[other]
    return expanded


def random_predictions(count=50, width=6, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("neighbours", "expected"),
    [
        (1, [[1.36, 0.48], [0.6, 1.6], [0.48, 1.64], [-1, 0]]),
        (2, [[1.36, 0.48], [1.2, 1.6], [0.48, 1.64], [-1, 0]]),  # at a right angle, or further, nothing is added
    ],
)
def test_the_nearest_count_by_their_cosine(neighbours, expected):
    predictions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 5.0], [-1.0, 0.0]])  # of any length
    torch.testing.assert_close(expand_queries(predictions, neighbours), torch.tensor(expected))


@pytest.mark.parametrize("neighbours", [1, 4, 49])
def test_it_is_brute_force(neighbours):
    predictions = random_predictions()
    expected = brute_force_expansion(predictions.numpy(), neighbours)
    np.testing.assert_allclose(expand_queries(predictions, neighbours), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 25, 1000])
def test_chunks_make_no_difference(chunk_size):
    predictions = random_predictions()
    torch.testing.assert_close(expand_queries(predictions, 4, chunk_size), expand_queries(predictions, 4))


def test_captions_in_another_order_are_expanded_alike():
    predictions = random_predictions()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(expand_queries(predictions[order], 4), expand_queries(predictions, 4)[order])


def test_equal_predictions_are_each_others_neighbours_and_none_is_its_own():
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    predictions = torch.stack([first, first, second])
    expected = torch.stack([2 * first, 2 * first, second + 0.6 * first])
    torch.testing.assert_close(expand_queries(predictions, 1), expected)
    torch.testing.assert_close(expand_queries(first.expand(5, 2), 3), (4 * first).expand(5, 2))


def test_zeros_stay_zeros_and_add_nothing():
    predictions = random_predictions()
    predictions[[3, 40]] = 0
    expanded = expand_queries(predictions, 49)
    others = [number for number in range(50) if number not in (3, 40)]
    assert not expanded[[3, 40]].any()
    torch.testing.assert_close(expanded[others], expand_queries(predictions[others], 47))


def test_lengths_do_not_count_up_to_the_bounds_of_float32():
    predictions = random_predictions() / 10
    lengths = torch.tensor([1e38, 1e-36, 1e20, 1e-20, 1.0]).repeat(10)[:, None]
    expected = expand_queries(predictions, 4)
    torch.testing.assert_close(expand_queries(lengths * predictions, 4), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "neighbours"), [(3, 3), (3, 5), (1, 1), (3, 0), (3, -1)])
def test_there_must_be_as_many_others(count, neighbours):
    reason = f"by {neighbours} neighbours: of {count} captions each has {count - 1} others"
    with pytest.raises(InputError, match=reason):
        expand_queries(random_predictions(count), neighbours)


class Largest(TorchFunctionMode):
    """Notes how many numbers the largest tensor held."""

    numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_more_than_a_chunk_of_cosines_is_held():
    with Largest() as largest:
        expand_queries(random_predictions(500), 4, chunk_size=20)
    assert largest.numbers == 20 * 500


IDS = np.array([30, 7, 12, -4, 5])


@pytest.fixture
def files(tmp_path):
    """Two submissions of the same captions."""
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for seed, path in enumerate(paths):
        write_submission(path, IDS, random_predictions(len(IDS), seed=seed))
    return paths


@pytest.mark.parametrize("count", [1, 2])
def test_the_command_expands_the_mean_or_one_file_alone(files, tmp_path, capsys, count):
    main(["combine", *map(str, files[:count]), "--expand", "2", "--output", str(tmp_path / "out.csv")])
    mean = np.mean([read_submission(file).embeddings for file in files[:count]], axis=0)
    expanded = read_submission(tmp_path / "out.csv")
    assert (expanded.caption_ids == IDS).all()
    np.testing.assert_allclose(expanded.embeddings, brute_force_expansion(mean, 2), rtol=1e-5, atol=1e-6)
    assert re.search(r"expanded by +2 nearest predictions\n", capsys.readouterr().out)


def test_without_the_flag_nothing_is_said_of_it(files, tmp_path, capsys):
    main(["combine", str(files[0]), "--output", str(tmp_path / "out.csv")])
    assert "expanded" not in capsys.readouterr().out


def test_more_neighbours_than_captions_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="by 5 neighbours: of 5 captions each has 4 others"):
        main(["combine", *map(str, files), "--expand", "5", "--output", str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("number", ["0", "-1", "2.5", "all"])
def test_the_number_is_checked_before_anything_is_read(number, capsys):
    with pytest.raises(SystemExit):
        main(["combine", "absent.csv", f"--expand={number}", "--output", "out.csv"])
    assert "--expand" in capsys.readouterr().err
