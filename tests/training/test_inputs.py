"""What a job reads: splits are indices over data uploaded once, and mean what copies of the data would."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.files import InputError
from src.data.keep_lists import KeepList, save_filtered, save_keep_list
from src.data.pairs import TestCaptions, fingerprint, open_pairs, open_test_captions, save_pairs, save_test_captions
from src.data.splits import validation_images
from src.training.inputs import (
    OWN,
    DataPaths,
    OnDevice,
    TrainingData,
    dataset_tag,
    fits,
    free_memory,
    one_ahead,
    open_training_data,
)
from src.training.job import describe_data
from src.training.runs import DataRecord
from src.training.trainer import Trainer
from tests.conftest import select_images
from tests.training.conftest import CPU, MACHINE, TINY, tiny_pairs, whole


@pytest.fixture
def pairs():
    """60 images, 240 captions; some images have none."""
    return tiny_pairs(1, 60)


def assert_is_a_copy(part, expected):
    """A part shows what `expected`, pairs of its own, holds."""
    torch.testing.assert_close(part.text_nT, torch.from_numpy(expected.text_embeddings), rtol=0, atol=0)
    torch.testing.assert_close(part.gallery_mV, torch.from_numpy(expected.image_embeddings), rtol=0, atol=0)
    assert part.target_n.tolist() == expected.image_of_caption.tolist()
    assert len(part) == len(expected)


def test_a_part_is_some_images_with_all_of_their_captions(pairs):
    chosen = np.random.default_rng(0).random(60) < 0.4
    assert_is_a_copy(OnDevice(pairs, CPU).part(chosen), select_images(pairs, chosen))


def test_in_turns_the_first_captions_of_all_images_come_first(pairs):
    part = OnDevice(pairs, CPU).part(np.ones(60, bool), turns=True)
    targets, captions = part.target_n.tolist(), part.captions.tolist()
    turn = [targets[:place].count(image) for place, image in enumerate(targets)]
    assert list(zip(turn, targets, strict=True)) == sorted(zip(turn, targets, strict=True))
    for image in set(targets):
        own = [caption for caption, target in zip(captions, targets, strict=True) if target == image]
        assert own == sorted(own), "those of one image in the order of the file"


def test_on_the_cpu_nothing_is_copied(pairs):
    data = OnDevice(pairs, CPU)
    assert np.shares_memory(data.text_NT.numpy(), pairs.text_embeddings)
    assert np.shares_memory(data.image_MV.numpy(), pairs.image_embeddings)


@pytest.fixture
def on_host(pairs, monkeypatch):
    """The pairs' data for a device that has no room for their embeddings."""
    with monkeypatch.context() as patch:
        patch.setattr("src.training.inputs.free_memory", lambda device: 0)
        return OnDevice(pairs, CPU)


@pytest.mark.parametrize(("needed", "free", "fit"), [(8, 16, True), (9, 16, False), (8, math.inf, True), (8, 0, False)])
def test_embeddings_take_at_most_half_of_what_is_free(needed, free, fit):
    assert fits(needed, free) is fit


def test_where_all_memory_is_one_nothing_stays_behind():
    assert {free_memory(torch.device(name)) for name in ("cpu", "mps")} == {math.inf}


def test_captions_on_the_host_are_the_same_rows(pairs, on_host):
    device = OnDevice(pairs, CPU)
    assert (str(device), str(on_host)) == ("on the device", "captions' on the host, 0.00 GB")
    some, more = torch.tensor([7, 0, 239, 7]), torch.tensor([3])
    for data in (device, on_host):
        assert torch.equal(data.text(some), torch.from_numpy(pairs.text_embeddings[[7, 0, 239, 7]]))
        assert torch.equal(data.text(some, slice(2, 5)), data.text(some)[:, 2:5])
        batches = list(data.texts(iter([some, more, some])))
        assert list(map(torch.equal, batches, map(data.text, (some, more, some)))) == 3 * [True]
        assert len(batches) == 3


def test_training_and_measuring_are_the_same_from_the_host(pairs, on_host):
    recipe, images = replace(TINY, input_noise=0.1, copies=2, kernel_share=0.3), np.ones(60, bool)
    rows = []
    for data in (OnDevice(pairs, CPU), on_host):
        trainer = Trainer(recipe, data.part(images), MACHINE)
        history = [trainer.train_epoch(epoch, lambda: None)["train_loss"] for epoch in (1, 2)]
        rows.append((history, trainer.train.measure(trainer.translator)))
    assert rows[0] == rows[1]


def test_one_ahead_is_made_while_one_is_in_use():
    made = []

    def make():
        for number in range(5):
            made.append(number)
            yield torch.tensor(number)

    for number, item in enumerate(one_ahead(make())):
        assert item == number
        assert number + 1 <= len(made) <= number + 2
    assert made == [0, 1, 2, 3, 4]


def test_what_fails_ahead_fails_here(on_host):
    with pytest.raises(IndexError):
        list(on_host.texts([torch.tensor([0]), torch.tensor([240])]))


@pytest.mark.parametrize("width", [5, 128, 300])
@pytest.mark.parametrize("measure", [lambda text: text.mean(dim=0), lambda text: text.std(dim=0)])
def test_features_are_measured_to_the_last_digit_without_a_copy_of_all(width, measure):
    text = 3 + np.random.default_rng(0).standard_normal((1200, width), np.float32)
    many = replace(tiny_pairs(1, 300), text_embeddings=text)
    part = OnDevice(many, CPU).part(np.arange(300) % 3 > 0)
    assert torch.equal(part.of_features(measure), measure(part.text_nT))
    assert torch.equal(torch.cat(list(part.text_blocks(100))), part.text_nT)


def test_a_split_trains_and_validates_on_different_images_of_one_upload(pairs):
    data = TrainingData.of(pairs, CPU)
    split = data.split(0.2, 7)
    validates = validation_images(pairs.image_names, 0.2, 7)
    assert_is_a_copy(split.train, select_images(pairs, ~validates))
    assert split.validation.images.tolist() == np.flatnonzero(validates).tolist()
    assert sorted(split.validation.captions.tolist()) == np.flatnonzero(validates[pairs.image_of_caption]).tolist()
    assert split.own_validation is None
    assert split.train.of is split.validation.of is data.train


def test_a_filtered_file_validates_on_all_captions_of_its_validation_images(pairs):
    filtered = pairs.select(np.arange(240) % 3 > 0)
    data = replace(TrainingData.of(filtered, CPU), validation=OnDevice(pairs, CPU))
    split = data.split(0.2, 7)
    unfiltered = TrainingData.of(pairs, CPU).split(0.2, 7)
    assert split.validation.captions.tolist() == unfiltered.validation.captions.tolist()
    assert split.own_validation.images.tolist() == split.validation.images.tolist()
    assert len(split.own_validation) < len(split.validation)
    assert_is_a_copy(split.train, select_images(filtered, ~validation_images(pairs.image_names, 0.2, 7)))


def test_with_a_validation_set_of_its_own_every_image_trains(pairs):
    others = replace(tiny_pairs(2, 20), image_names=np.array([f"other {i}" for i in range(20)], object))
    split = replace(TrainingData.of(pairs, CPU), validation=OnDevice(others, CPU)).split(0.2, 7)
    assert_is_a_copy(split.train, pairs)
    assert sorted(split.validation.captions.tolist()) == list(range(80))
    assert split.own_validation is None


def test_data_without_some_images_split_as_if_these_had_never_been_there(pairs):
    record = DataRecord(train_npz="a.npz", train_fingerprint="0123")
    fold = np.arange(60) % 3 == 0
    rest = TrainingData.of(pairs, CPU, record).without(fold, "fold 1 of 3")
    copied = select_images(pairs, ~fold)
    split, expected = rest.split(0.2, 7), TrainingData.of(copied, CPU).split(0.2, 7)
    for part, alone in ((split.train, expected.train), (split.validation, expected.validation)):
        torch.testing.assert_close(part.text_nT, alone.text_nT, rtol=0, atol=0)
        assert part.target_n.tolist() == alone.target_n.tolist()
    assert rest.record.train_fingerprint == "0123 without fold 1 of 3"
    assert (rest.record.train_captions, rest.record.train_images) == (len(copied), 40)


def test_a_split_that_leaves_nothing_to_train_on_is_refused(pairs):
    validates = validation_images(pairs.image_names, 0.5, 0)
    only_validating = pairs.select(validates[pairs.image_of_caption])
    with pytest.raises(InputError, match="no captions to train or to validate"):
        TrainingData.of(only_validating, CPU).split(0.5, 0)


@pytest.fixture
def files(pairs, tmp_path):
    save_pairs(pairs, tmp_path / "train.npz")
    test = TestCaptions(
        caption_ids=np.arange(3),
        caption_texts=np.array(["a", "b", "c"], object),
        text_embeddings=np.ones((3, 8), np.float32),
    )
    save_test_captions(test, tmp_path / "test.npz")
    return DataPaths(train_npz=tmp_path / "train.npz", test_npz=tmp_path / "test.npz")


def test_all_files_of_a_job_are_opened_and_recorded(pairs, files, tmp_path):
    keep = np.arange(240) % 2 == 0
    origin = {"input_fingerprint": fingerprint(files.train_npz), "higher_is_better": True}
    keep_list = KeepList(caption_ids=pairs.caption_ids, scores=np.zeros(240), keep=keep, provenance=origin)
    save_keep_list(keep_list, tmp_path / "half.keep.npz")
    paths = replace(files, keep_list=tmp_path / "half.keep.npz", val_npz=files.train_npz)
    data = open_training_data(paths, CPU)
    assert (len(data.train.pairs), len(data.validation.pairs), len(data.test)) == (120, 240, 3)
    record = data.record
    assert (record.train_captions, record.train_images) == (120, 60)
    assert record.train_fingerprint == record.val_fingerprint == fingerprint(files.train_npz)
    assert record.keep_list_fingerprint == fingerprint(paths.keep_list)
    assert record.test_npz == str(files.test_npz)
    assert describe_data(paths, data)["embeddings"] == "on the device"
    assert open_training_data(replace(files, test_npz=None), CPU).test is None


@pytest.fixture
def filtered(files, tmp_path, monkeypatch):
    """The job on half of train.npz, which it names relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    filter_half("train.npz", tmp_path / "half.npz")
    return replace(files, train_npz=tmp_path / "half.npz")


def filter_half(input_npz, output_npz):
    pairs = open_pairs(input_npz)
    origin = {"input_npz": str(input_npz), "input_fingerprint": fingerprint(input_npz), "higher_is_better": True}
    keep = np.arange(len(pairs)) % 2 == 0
    keep_list = KeepList(caption_ids=pairs.caption_ids, scores=np.zeros(len(pairs)), keep=keep, provenance=origin)
    return save_filtered(pairs, keep_list, output_npz)


def test_a_filtered_file_validates_on_its_source_from_any_folder_and_filtered_again_too(
    filtered, tmp_path, monkeypatch
):
    filter_half("half.npz", tmp_path / "quarter.npz")
    for folder, found in ((tmp_path, "train.npz"), (tmp_path.parent, str(tmp_path / "train.npz"))):
        monkeypatch.chdir(folder)
        for name, captions in (("half", 120), ("quarter", 60)):
            paths = replace(filtered, train_npz=tmp_path / f"{name}.npz")
            data = open_training_data(paths, CPU)
            assert (len(data.train.pairs), len(data.validation.pairs)) == (captions, 240)
            assert (data.record.val_npz, data.record.val_fingerprint) == (found, fingerprint(tmp_path / "train.npz"))
            assert data.split(0.2, 7).own_validation is not None
            assert describe_data(paths, data)["validation from"] == f"{found} (240 captions, recorded as the source)"


def test_a_keep_list_validates_on_all_captions_of_the_unfiltered_file(files, filtered, tmp_path):
    on_raw = open_training_data(replace(files, keep_list=tmp_path / "half.keep.npz"), CPU)
    again = filter_half("half.npz", tmp_path / "quarter.npz")
    on_filtered = open_training_data(replace(filtered, keep_list=again), CPU)
    assert (len(on_raw.train.pairs), len(on_filtered.train.pairs)) == (120, 60)
    for data in (on_raw, on_filtered):
        assert len(data.validation.pairs) == 240
        assert data.record.val_fingerprint == fingerprint(files.train_npz)


def ranked(pairs, train_npz, path, **changes):
    """A keep-list of ranks 1, 2, 3, … that keeps the first four, but the review the sixth in place of the second."""
    keep = np.isin(np.arange(len(pairs)), (0, 2, 3, 5))
    origin = {"input_fingerprint": fingerprint(train_npz), "higher_is_better": False, "cut": {"cut": 4}} | changes
    ranks = np.arange(1, len(pairs) + 1)
    save_keep_list(KeepList(caption_ids=pairs.caption_ids, scores=ranks, keep=keep, provenance=origin), path)


def test_soft_trains_on_all_captions_by_their_ranks(pairs, files, tmp_path):
    ranked(pairs, files.train_npz, tmp_path / "r.keep.npz")
    paths = replace(files, keep_list=tmp_path / "r.keep.npz", soft=True)
    data = open_training_data(paths, CPU)
    expected = [1 / (1 + (1 / 4) ** 2), 0, 1 / (1 + (3 / 4) ** 2), 1 / 2, 1 / (1 + (5 / 4) ** 2), 1]
    np.testing.assert_allclose(data.train.weight_N[:6], expected, rtol=1e-6)
    assert data.train.weight_N[-1] == pytest.approx(1 / (1 + (240 / 4) ** 2))
    part = data.split(0.2, 7).train
    assert torch.equal(part.weight_n, data.train.weight_N[part.captions])
    assert (len(data.train.pairs), data.validation, paths.tag) == (240, None, "r.keep_soft")
    assert data.record.identity["caption_weights"] == "1 / (1 + (rank / 4)^2)"
    assert describe_data(paths, data)["captions weigh"] == data.record.caption_weights


@pytest.mark.parametrize(
    "changes",
    [{"higher_is_better": True}, {"cut": {}}, {"cut": None}, {"cut": {"cut": 0}}, {"cut": {"cut": "4"}}],
    ids=str,
)
def test_soft_needs_ranks_and_their_cut(pairs, files, tmp_path, changes):
    ranked(pairs, files.train_npz, tmp_path / "r.keep.npz", **changes)
    with pytest.raises(InputError, match=r"r\.keep\.npz: has no ranks to weigh captions by"):
        open_training_data(replace(files, keep_list=tmp_path / "r.keep.npz", soft=True), CPU)
    with pytest.raises(InputError, match="name it with --keep-list"):
        open_training_data(replace(files, soft=True), CPU)


def test_a_file_filtered_before_sources_were_recorded_is_known_by_the_keep_list_beside_it(pairs, filtered):
    save_pairs(pairs.select(np.arange(240) % 2 == 0), "half.npz")
    assert len(open_training_data(filtered, CPU).validation.pairs) == 240
    save_pairs(pairs.select(np.arange(240) % 2 == 1), "half.npz")  # the list is not of these
    assert open_training_data(filtered, CPU).validation is None


@pytest.mark.parametrize("change", [Path.unlink, lambda path: save_pairs(tiny_pairs(2, 60), path), Path.touch])
def test_a_source_that_is_gone_or_has_changed_is_missed_aloud(filtered, tmp_path, change):
    if change is Path.touch:
        (tmp_path / "train.npz").unlink()
    change(tmp_path / "train.npz")
    data = open_training_data(filtered, CPU)
    assert data.validation is data.record.val_npz is None
    assert describe_data(filtered, data)["validation from"] == (
        "its source train.npz is gone or has changed: validates on filtered captions, which flatters the MRR"
    )


def test_who_asks_for_it_validates_on_what_the_filter_left(files, filtered, tmp_path):
    kept = replace(files, keep_list=tmp_path / "half.keep.npz")
    for paths in (*(replace(filtered, val_npz=own) for own in (OWN, Path("half.npz"))), replace(kept, val_npz=OWN)):
        data = open_training_data(paths, CPU)
        assert data.validation is data.record.val_npz is data.lost_source is None
        assert "validation from" not in describe_data(paths, data)


def test_embeddings_of_other_widths_are_refused(pairs, files, tmp_path):
    save_pairs(replace(pairs, text_embeddings=pairs.text_embeddings[:, :5]), tmp_path / "narrow.npz")
    save_pairs(replace(pairs, image_embeddings=pairs.image_embeddings[:, :5]), tmp_path / "flat.npz")
    for changes, what in (
        ({"train_npz": tmp_path / "narrow.npz"}, r"test\.npz: its caption embeddings are 8 wide; .* 5"),
        ({"val_npz": tmp_path / "flat.npz"}, r"flat\.npz: its image embeddings are 5 wide; .* 12"),
    ):
        with pytest.raises(InputError, match=what):
            open_training_data(replace(files, **changes), CPU)


def test_nothing_is_trained_for_the_captions_of_other_data(pairs, sample, tmp_path):
    """Said before their widths, which differ here. A file that was filtered from the sample's is the sample's, also one
    that records it in its keep-list alone."""
    save_pairs(pairs, tmp_path / "own.npz")
    ours = DataPaths(train_npz=sample / "train/train.npz", test_npz=sample / "test/test.clean.npz")
    with pytest.raises(InputError, match=r"test\.clean\.npz: is the embedded sample's, but .*own\.npz is not"):
        open_training_data(replace(ours, train_npz=tmp_path / "own.npz"), CPU)
    assert open_training_data(replace(ours, train_npz=tmp_path / "own.npz", test_npz=None), CPU).test is None
    filter_half(ours.train_npz, tmp_path / "half.npz")
    open_training_data(replace(ours, train_npz=tmp_path / "half.npz"), CPU)
    whole = open_pairs(ours.train_npz)
    save_pairs(whole.select(np.arange(len(whole)) % 2 == 0), tmp_path / "half.npz")
    open_training_data(replace(ours, train_npz=tmp_path / "half.npz"), CPU)
    test = open_test_captions(ours.test_npz)
    save_test_captions(replace(test, text_embeddings=-test.text_embeddings), tmp_path / "test.npz")
    for train_npz in (ours.train_npz, tmp_path / "half.npz"):
        with pytest.raises(InputError, match=r"npz: is the embedded sample's, but .*/test\.npz is not"):
            open_training_data(replace(ours, train_npz=train_npz, test_npz=tmp_path / "test.npz"), CPU)


def test_a_dataset_is_called_after_its_file_and_folder():
    assert dataset_tag(Path("data/train/train.npz")) == "train"
    assert dataset_tag(Path("else/visual/train.npz")) == "visual-train"


def test_a_sample_is_always_the_same_and_takes_no_draw_from_what_trains():
    part = whole(tiny_pairs(1, 60))
    state = torch.get_rng_state()
    some, again = part.sample(30, 20), part.sample(30, 20)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(some.captions, again.captions)
    assert (len(some), len(some.images)) == (30, 20)
    assert torch.equal(some.images, some.images.unique())
    assert set(some.of.image_of_caption_N[some.captions].tolist()) <= set(some.images.tolist())
    everything = part.sample(1000, 1000)
    assert torch.equal(everything.captions, part.captions)
    assert torch.equal(everything.images, part.images)
