"""The sample's files and those of other data are told apart, wherever they lie and however the pairs were filtered."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from src.common.files import InputError
from src.data.keep_lists import save_selected
from src.data.origins import MARKER, PAIR, are_of_sample, embedded_alike, require_one_origin
from src.data.pairs import fingerprint, open_pairs, open_test_captions, save_pairs, save_test_captions

NULLS = json.dumps({"pair": dict.fromkeys(PAIR)})


@pytest.fixture
def data(sample, tmp_path):
    """train.npz and test.clean.npz of the sample, in a data folder of its own."""
    folder = shutil.copytree(sample, tmp_path / "data")
    return [folder / name for name in PAIR]


@pytest.fixture
def own(sample, tmp_path):
    """The same of other data, as wide."""
    pairs, test = open_pairs(sample / PAIR[0]), open_test_captions(sample / PAIR[1])
    save_pairs(replace(pairs, text_embeddings=-pairs.text_embeddings), tmp_path / "own/train.npz")
    save_test_captions(replace(test, text_embeddings=-test.text_embeddings), tmp_path / "own/test.npz")
    return [tmp_path / "own/train.npz", tmp_path / "own/test.npz"]


def test_files_of_one_origin_belong_together(data, own):
    assert are_of_sample(*data) == (True, True)
    assert are_of_sample(*own) == (False, False)
    for pair in (data, own):
        require_one_origin(*pair)


@pytest.mark.parametrize("stays", [0, 1], ids=PAIR)
@pytest.mark.parametrize("place", ["elsewhere", "over the sample's"])
def test_one_of_the_sample_and_one_of_other_data_do_not(data, own, stays, place):
    pair = list(data)
    if place == "elsewhere":
        pair[1 - stays] = own[1 - stays]
    else:
        shutil.copy(own[1 - stays], data[1 - stays])
    assert are_of_sample(*pair) == (stays == 0, stays == 1)
    with pytest.raises(InputError) as error:
        require_one_origin(*pair)
    assert str(error.value).startswith(f"{pair[stays]}: is the embedded sample's, but {pair[1 - stays]} is not")
    assert str(error.value).endswith(f"{('--train-npz', '--test-npz')[stays]} names one elsewhere")


def test_other_data_over_the_whole_sample_belong_together(data, own):
    for ours, theirs in zip(data, own, strict=True):
        shutil.copy(theirs, ours)
    assert are_of_sample(*data) == (False, False)


def test_copies_and_links_of_the_sample_are_the_sample(data, own, tmp_path):
    shutil.copy(data[0], tmp_path / "copy.npz")
    (tmp_path / "link.npz").symlink_to(data[1])
    require_one_origin(tmp_path / "copy.npz", data[1])
    require_one_origin(data[0], tmp_path / "link.npz")
    with pytest.raises(InputError, match=r"link\.npz: is the embedded sample's"):
        require_one_origin(own[0], tmp_path / "link.npz")


@pytest.mark.parametrize("seed", range(5))
def test_a_part_of_the_sample_that_was_saved_anew_belongs_to_it(data, own, tmp_path, seed):
    """Of any captions, be it a single one, and in another dtype."""
    for place in range(2):
        with np.load(data[place]) as archive:
            arrays = dict(archive)
        rows = np.random.default_rng(seed).permutation(len(arrays["captions/ids"]))[: 1 + 5 * seed]
        captions = {key: array[rows] for key, array in arrays.items() if key.startswith("captions/")}
        captions["captions/embeddings"] = captions["captions/embeddings"].astype(np.float64)
        arrays |= captions | {"metadata/num_captions": np.array([len(rows)])}
        np.savez(tmp_path / "part.npz", **arrays)
        pair = [*data]
        pair[place] = tmp_path / "part.npz"
        assert are_of_sample(*pair) == (place == 1, place == 0)
        require_one_origin(*pair)
        other = [*own]
        other[1 - place] = data[1 - place]
        with pytest.raises(InputError, match="is the embedded sample's"):
            require_one_origin(*other)


@pytest.mark.parametrize("kind", ["centred", "of positive numbers", "of one large number", "narrow"])
def test_embeddings_of_other_encoders_are_not_alike(data, tmp_path, kind):
    rng = np.random.default_rng(0)
    with np.load(data[1]) as archive:
        arrays = dict(archive)
    embeddings = rng.standard_normal(arrays["captions/embeddings"].shape, np.float32)
    embeddings = np.abs(embeddings) if kind == "of positive numbers" else embeddings
    embeddings[:, 100] += 99 * (kind == "of one large number")
    embeddings = embeddings[:, :8] if kind == "narrow" else embeddings
    arrays |= {"captions/embeddings": embeddings, "metadata/embedding_dim_text": np.array([embeddings.shape[1]])}
    np.savez(tmp_path / "other.npz", **arrays)
    assert not embedded_alike(data[0], tmp_path / "other.npz")


def test_what_was_filtered_is_what_it_was_filtered_from(data, own, tmp_path):
    for (train, test), others in ((data, own[1]), (own, data[1])):
        pairs = open_pairs(train)
        save_selected(pairs, np.arange(len(pairs)) % 2 == 0, tmp_path / "half.npz")
        half = open_pairs(tmp_path / "half.npz")
        save_selected(half, np.arange(len(half)) % 2 == 0, data[0].parents[1] / "filtered/quarter.npz")
        for filtered in (tmp_path / "half.npz", data[0].parents[1] / "filtered/quarter.npz"):
            require_one_origin(filtered, test)
            with pytest.raises(InputError, match="is the embedded sample's"):
                require_one_origin(filtered, others)


def test_two_samples_belong_together(data, own, tmp_path):
    """Their encoders are the same."""
    second = tmp_path / "second"
    shutil.copytree(data[0].parents[1], second)
    for name, path in zip(PAIR, own, strict=True):
        shutil.copy(path, second / name)
    pair = {name: fingerprint(second / name) for name in PAIR}
    (second / MARKER).write_text(json.dumps({"pair": pair}))
    require_one_origin(data[0], second / PAIR[1])
    require_one_origin(second / PAIR[0], data[1])


@pytest.mark.parametrize("marker", [None, "", "[]", "{}", '{"pair": 1}', '{"pair": {"train": 1}}', NULLS, "\0"])
def test_without_a_marker_that_says_so_nothing_is_the_samples(data, own, marker):
    path = data[0].parents[1] / MARKER
    path.unlink() if marker is None else path.write_text(marker)
    require_one_origin(own[0], data[1])
    require_one_origin(data[0], own[1])
