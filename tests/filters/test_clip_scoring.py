"""Scores by a CLIP: those of a plain loop, each image encoded once, the same after an interruption, unreadable images
told apart, and files that say what they are of."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import src.filters.clip_scoring
import src.filters.pictures
from src.common.files import InputError
from src.data.pairs import open_pairs, save_pairs
from src.filters.clip_model import load_clip
from src.filters.clip_scoring import Scores, open_scores, save_scores, score_pairs
from src.training.machine import Machine
from tests.filters.conftest import CPU, MACHINE, make_pairs


def score(model, data: Path, progress: Path, **changes):
    options = {"machine": MACHINE, "batch_sizes": (7, 13), "workers": 0} | changes
    clip, pairs = load_clip(*map(str, model)), open_pairs(data / "train.npz")
    return score_pairs(clip, pairs, data / "Images", progress, **options)


@pytest.fixture(scope="module")
def train(sample) -> Path:
    return sample / "train"


@pytest.fixture(scope="module")
def scores(untrained, train, tmp_path_factory) -> np.ndarray:
    """Of the sample's 460 captions, in one run."""
    scores = score(untrained, train, tmp_path_factory.mktemp("scores") / "progress")
    assert (scores.unreadable, scores.odd) == ({}, {})
    return scores.values


@pytest.fixture
def copied(train, tmp_path) -> Path:
    """A copy of the train folder whose images are links, to be put wrong."""
    (tmp_path / "train/Images").mkdir(parents=True)
    shutil.copy(train / "train.npz", tmp_path / "train")
    for path in (train / "Images").iterdir():
        (tmp_path / "train/Images" / path.name).symlink_to(path)
    return tmp_path / "train"


def test_scores_are_the_cosine_similarities_of_a_plain_loop(untrained, train, scores):
    assert (scores.shape, scores.dtype) == ((460,), np.float32)
    open_clip.add_model_config(untrained[0])
    model, _, preprocess = open_clip.create_model_and_transforms("tiny_clip", pretrained=str(untrained[1]))
    tokenize, pairs = open_clip.get_tokenizer("tiny_clip"), open_pairs(train / "train.npz")
    model.eval().requires_grad_(False)
    for i in range(0, 460, 37):
        name = pairs.image_names[pairs.image_of_caption[i]]
        image = model.encode_image(preprocess(Image.open(train / "Images" / name))[None])[0]
        text = model.encode_text(tokenize([pairs.caption_texts[i]]))[0]
        assert scores[i] == pytest.approx(float(image @ text / image.norm() / text.norm()), abs=1e-5)


def test_every_image_file_is_encoded_once(untrained, copied, tmp_path, monkeypatch):
    images = sorted((copied / "Images").iterdir())
    for first, second in zip(images[::2], images[1::2], strict=True):  # pairs of images share a file
        second.unlink()
        second.symlink_to(first.name)
    encoded, encode = [], open_clip.CLIP.encode_image
    monkeypatch.setattr(open_clip.CLIP, "encode_image", lambda self, x: encoded.append(len(x)) or encode(self, x))
    score(untrained, copied, tmp_path / "progress")
    assert sum(encoded) == len(images) // 2


def test_a_worker_that_dies_is_one_error_and_the_next_run_continues(untrained, train, scores, tmp_path, monkeypatch):
    read, ours = src.filters.pictures.read_image, os.getpid()

    def die(path, odd):
        if os.getpid() != ours and path.name == "train_00050.jpg":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, odd)

    monkeypatch.setattr(src.filters.pictures, "read_image", die)
    with pytest.raises(InputError, match=r"has died, .*--workers 0.*--shm-size"):
        score(untrained, train, tmp_path / "progress", workers=2)
    continued = score(untrained, train, tmp_path / "progress", workers=0)
    np.testing.assert_array_equal(continued.values, scores)


def test_low_precision_changes_scores_little(untrained, train, scores, tmp_path):
    rounded = score(untrained, train, tmp_path / "progress", machine=Machine(CPU, "bfloat16"))
    assert 0 < np.abs(scores - rounded.values).max() < 0.03


def test_a_model_that_gives_nan_is_an_error(untrained, train, tmp_path):
    weights = load_file(untrained[1])
    weights["text_projection"][:] = float("nan")
    save_file(weights, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="tiny_clip: gives NaN for readable images; try --precision float32"):
        score((untrained[0], tmp_path / "broken.safetensors"), train, tmp_path / "progress", batch_sizes=(92, 13))


# ------------------------------------------------------------------------------------------- interrupted runs


def test_an_interrupted_run_continues_and_scores_of_another_model_or_data_are_never_mixed_in(
    untrained, train, copied, scores, tmp_path, monkeypatch
):
    progress, encoded, encode = tmp_path / "progress", [], open_clip.CLIP.encode_image

    def encode_twice(self, x):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(x))
        return encode(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(open_clip.CLIP, "encode_image", encode_twice)
        with pytest.raises(KeyboardInterrupt):
            score(untrained, train, progress)
    before = progress.read_bytes()
    assert before.count(b"\n") == 3, "what they are of, and two batches"
    weights = load_file(untrained[1])
    save_file(weights | {"logit_scale": weights["logit_scale"] + 1}, tmp_path / "other.safetensors")
    save_pairs(open_pairs(copied / "train.npz").select(np.arange(459)), copied / "train.npz")
    for model, data, changes, named in (
        ((untrained[0], tmp_path / "other.safetensors"), train, {}, "weights_sha256"),
        (untrained, copied, {}, "input_fingerprint, images_root"),
        (untrained, train, {"machine": Machine(CPU, "bfloat16")}, "precision"),
        (untrained, train, {"batch_sizes": (8, 13)}, "batches"),
    ):
        with pytest.raises(InputError, match=f"progress: .*another {named}\\)"):
            score(model, data, progress, **changes)
    assert progress.read_bytes() == before
    with progress.open("a") as file:
        for odd in (
            {"batch": 7, "scores": [0.5]},
            {"batch": 2, "scores": []},
            {"batch": "2", "scores": "x"},
            [2],
            None,
        ):
            file.write(json.dumps(odd) + "\n")
        file.write('{"batch": 2, "sco')  # as a line looks that was cut off
    np.testing.assert_array_equal(score(untrained, train, progress).values, scores)


@pytest.mark.parametrize("odd", [None, "a line", {"other": "run"}])
def test_a_progress_file_without_a_single_score_is_begun_anew(untrained, train, copied, scores, tmp_path, odd):
    for path in (copied / "Images").iterdir():
        path.unlink()
    assert np.isnan(score(untrained, copied, tmp_path / "progress", batch_sizes=(3, 13)).values).all()
    with (tmp_path / "progress").open("a") as file:
        file.write(json.dumps(odd) + "\n")
    np.testing.assert_array_equal(score(untrained, train, tmp_path / "progress").values, scores)


def test_progress_of_several_processes_is_merged_and_refused_as_one(untrained, train, scores, tmp_path, monkeypatch):
    own, encode = tmp_path / "scores.partial.jsonl", open_clip.CLIP.encode_image
    score(untrained, train, own)
    identity, *batches = own.read_text().splitlines(keepends=True)
    assert len(batches) == 14
    others = [tmp_path / f"scores.partial.{rank}.jsonl" for rank in (1, 12)]
    own.unlink()
    others[0].write_text("".join((identity, *batches[1:9:2], '{"batch": 0, "sco')))
    others[1].write_text("".join((identity, *batches[5:14])))
    left = {name: tmp_path / name for name in ("scores.partial.1.jsonl.old", "scores.partial.x.jsonl", "other.1.jsonl")}
    for path in left.values():
        path.write_text("of something else")
    foreign = tmp_path / "scores.partial.2.jsonl"
    foreign.write_text(identity.replace("float32", "bfloat16") + batches[0])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"scores\.partial\.2\.jsonl: .*another precision\)"):
        score(untrained, train, own)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    foreign.write_text(identity.replace("float32", "bfloat16"))  # without a score it does not count

    encoded = []
    monkeypatch.setattr(open_clip.CLIP, "encode_image", lambda self, x: encoded.append(len(x)) or encode(self, x))
    np.testing.assert_array_equal(score(untrained, train, own).values, scores)
    np.testing.assert_array_equal(score(untrained, train, own).values, scores)
    assert encoded == [7, 7, 7], "batches 0, 2 and 4, once"
    assert set(tmp_path.iterdir()) == {own, *left.values()}
    assert sorted(own.read_text().splitlines(keepends=True)) == sorted((identity, *batches))


# --------------------------------------------------------------------------------------------- unreadable images


def test_captions_of_unreadable_images_have_no_score_until_these_are_put_right(
    untrained, train, copied, scores, tmp_path
):
    missing, cut = (copied / "Images" / f"train_{i:05}.jpg" for i in (3, 50))
    missing.unlink()
    whole = cut.read_bytes()
    cut.unlink()
    cut.write_bytes(whole[:500])
    lost = [*range(15, 20), *range(250, 255)]
    found = score(untrained, copied, tmp_path / "progress")
    assert np.flatnonzero(np.isnan(found.values)).tolist() == sorted(found.unreadable) == lost
    assert {found.unreadable[caption] for caption in lost[:5]} == {"no such file"}
    assert all("truncated" in found.unreadable[caption].lower() for caption in lost[5:])
    others = ~np.isnan(found.values)
    np.testing.assert_array_equal(found.values[others], scores[others])

    save_scores(tmp_path / "scores.npy", open_pairs(copied / "train.npz"), found, {})
    table = pd.read_csv(tmp_path / "scores.bad_images.csv")
    assert table.caption_id.tolist() == lost
    assert table.image.tolist() == [missing.name] * 5 + [cut.name] * 5
    assert table.reason[0] == "no such file"

    shutil.copy(train / "Images" / missing.name, missing)
    cut.write_bytes(whole)
    found = score(untrained, copied, tmp_path / "progress")
    np.testing.assert_array_equal(found.values, scores)
    save_scores(tmp_path / "scores.npy", open_pairs(copied / "train.npz"), found, {})
    assert not (tmp_path / "scores.bad_images.csv").exists()


# ---------------------------------------------------------------------------------------------------- the files


def test_no_record_stands_beside_scores_that_it_is_not_of(tmp_path, monkeypatch):
    def die(path, value):
        raise KeyboardInterrupt

    path, values, pairs = tmp_path / "scores.npy", np.array([0.5], np.float32), make_pairs(1)
    save_scores(path, pairs, Scores(values=values), {"input_fingerprint": "0123", "clip": "one"})
    monkeypatch.setattr(src.filters.clip_scoring, "write_json", die)  # killed between the two files
    with pytest.raises(KeyboardInterrupt):
        save_scores(path, pairs, Scores(values=values + 1), {"input_fingerprint": "0123", "clip": "another"})
    read, made = open_scores(path, "0123")
    np.testing.assert_array_equal(read, values + 1)
    assert made == {}


def test_scores_read_back_with_their_record(tmp_path):
    values = np.array([0.25, np.nan, -1], np.float32)
    save_scores(tmp_path / "scores.npy", make_pairs(3), Scores(values=values), {"input_fingerprint": "0123"})
    found, made = open_scores(tmp_path / "scores.npy", "0123")
    np.testing.assert_array_equal(found, values)
    assert made == {"input_fingerprint": "0123"}
    with pytest.raises(InputError, match=r"scores\.npy: scores of other pairs than these \(4567\)"):
        open_scores(tmp_path / "scores.npy", "4567")
    (tmp_path / "scores.json").write_text('["0123"]')
    with pytest.raises(InputError, match=r"scores\.npy: scores of other pairs"):
        open_scores(tmp_path / "scores.npy", "0123")
    (tmp_path / "scores.json").unlink()
    assert open_scores(tmp_path / "scores.npy", "4567")[1] == {}, "of which pairs is not recorded"


@pytest.mark.parametrize(
    "array", [np.array(["a", "b"]), np.zeros((2, 2)), np.arange(3), np.array([0.1, np.inf])], ids=str
)
def test_what_is_no_array_of_scores_is_refused(tmp_path, array):
    np.save(tmp_path / "scores.npy", array)
    with pytest.raises(InputError, match=r"scores\.npy: not an array of scores"):
        open_scores(tmp_path / "scores.npy", "0123")
    header = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }  \n"
    for damaged in (b"no array", b"", b"PK\x03\x04", header, header.replace(b"{", b"(")):
        (tmp_path / "scores.npy").write_bytes(damaged)
        with pytest.raises(InputError, match=r"scores\.npy: not an array of scores"):
            open_scores(tmp_path / "scores.npy", "0123")


# ----------------------------------------------------------------------------------------------------- odd images


def test_what_is_odd_is_kept_through_an_interruption_and_written_beside_the_scores(
    untrained, copied, scores, tmp_path, monkeypatch
):
    spelt = copied / "Images/train_00003.jpg"
    spelt.rename(copied / "Images/Train_00003.JPG")
    broken = copied / "Images/train_00050.jpg"
    with Image.open(broken) as image:
        broken.unlink()
        image.save(broken, "PNG", exif=b"Exif\0\0no exif")
    encode = open_clip.CLIP.encode_image

    def stop_at_the_last(self, x):
        if len(x) == 92 % 7:
            raise KeyboardInterrupt
        return encode(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(open_clip.CLIP, "encode_image", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            score(untrained, copied, tmp_path / "progress")
    found = score(untrained, copied, tmp_path / "progress", workers=1)
    np.testing.assert_array_equal(found.values, scores)
    assert found.odd.keys() == {spelt.name, broken.name}
    pairs = open_pairs(copied / "train.npz")
    save_scores(tmp_path / "scores.npy", pairs, found, {})
    table = pd.read_csv(tmp_path / "scores.odd_images.csv", index_col="image")
    assert table.what[spelt.name] == "found as Train_00003.JPG"
    assert "EXIF" in table.what[broken.name]
    save_scores(tmp_path / "scores.npy", pairs, Scores(values=scores), {})
    assert not (tmp_path / "scores.odd_images.csv").exists()


def test_reasons_that_utf_8_cannot_hold_are_written(tmp_path):
    found = Scores(values=np.full(3, np.nan, np.float32), unreadable={1: "half \ud83d"}, odd={"001": "half \ud83d"})
    save_scores(tmp_path / "scores.npy", make_pairs(3), found, {})
    assert pd.read_csv(tmp_path / "scores.bad_images.csv").reason.tolist() == [r"half \ud83d"]
    assert pd.read_csv(tmp_path / "scores.odd_images.csv").what.tolist() == [r"half \ud83d"]
