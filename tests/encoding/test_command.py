"""A user's own pictures and captions, from the folder to the trainer: `python -m src.encode` as it is typed."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from src import encode
from src.common.files import InputError, read_json
from src.data.pairs import open_pairs, open_test_captions
from src.encoding import embedding
from src.sample.dataset import make_sample
from tests.conftest import REPO, assert_input_error
from tests.encoding.conftest import STAND_IN
from tests.encoding.stand_in.sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.usefixtures("stand_in")
ENCODE = ("-m", "src.encode")
CAPTIONS = (
    "captions.txt",
    "image,caption\n1.jpg,a dog\n1.jpg,a brown dog\n2.jpg,a cat\n3.jpg,a red bird\n3.jpg,a bird\n",
)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of four pictures, and captions of three."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for name in "1234":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{name}.jpg")
    (folder / CAPTIONS[0]).write_text(CAPTIONS[1])
    return folder


@pytest.fixture
def arguments(photos, text_model, image_weights, tmp_path):
    """A function that gives the command line for `photos`, with changes."""

    def of(**changes):
        values = {
            "images_root": photos,
            "captions": photos / "captions.txt",
            "output_dir": tmp_path / "out",
            "text_encoder": text_model,
            "image_encoder": "timm:test_vit",
            "image_weights": image_weights,
            "test_fraction": 0,
            "image_batch_size": 2,
            "device": "cpu",
            "precision": "float32",
            "workers": 0,
        } | changes
        return [
            word
            for key, value in values.items()
            if value is not None
            for word in (f"--{key.replace('_', '-')}", str(value))
        ]

    return of


def embed_one(photos, text_model, image_weights, image, text):
    """An image and a caption, each embedded alone."""
    network = timm.create_model("test_vit", pretrained=False).eval()
    network.load_state_dict(load_file(image_weights))
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode(), Image.open(photos / image) as picture:
        tokens = network.forward_features(prepare(picture)[None])[0]
    sentence = SentenceTransformer(str(text_model), "cpu")
    how = {"batch_size": 1, "convert_to_tensor": True, "show_progress_bar": False}
    return tokens[1:].mean(dim=0).numpy(), sentence.encode([text], **how)[0].numpy()


def test_each_caption_and_its_image_are_as_if_embedded_alone(
    photos, arguments, text_model, image_weights, tmp_path, capsys
):
    encode.main(arguments())
    pairs = open_pairs(tmp_path / "out/train.npz")
    assert pairs.image_names[pairs.image_of_caption].tolist() == ["1.jpg", "1.jpg", "2.jpg", "3.jpg", "3.jpg"]
    assert pairs.caption_texts.tolist() == ["a dog", "a brown dog", "a cat", "a red bird", "a bird"]
    assert pairs.caption_ids.tolist() == [0, 1, 2, 3, 4]
    image, text = embed_one(photos, text_model, image_weights, "3.jpg", "a red bird")
    np.testing.assert_allclose(pairs.image_embeddings[2], image, atol=1e-5)
    np.testing.assert_allclose(pairs.text_embeddings[3], text, atol=1e-6)
    out = capsys.readouterr().out
    assert "5 captions, 3 images, 24 and 64 wide" in out
    assert "1 pictures that no caption is of" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.npz", "encode.json", "left_out.csv"}
    assert (tmp_path / "out/left_out.csv").read_text().splitlines()[1:] == [
        "picture without captions,4.jpg,no caption is of it"
    ]
    made = read_json(tmp_path / "out/encode.json")
    assert made["image_encoder"]["encoder"] == "timm:test_vit"
    assert made["text_encoder"]["modules"] == ["Embedding"]


def test_images_are_held_out_with_their_captions_in_turns(arguments, tmp_path):
    encode.main(arguments(test_fraction=0.67))
    train, test = (open_pairs(tmp_path / f"out/{name}.npz") for name in ("train", "test.pairs"))
    assert (train.num_images, test.num_images) == (1, 2)
    assert not set(train.image_names) & set(test.image_names)
    assert sorted([*train.caption_ids, *test.caption_ids]) == [0, 1, 2, 3, 4]
    assert test.image_of_caption[:2].tolist() == [0, 1]
    captions = open_test_captions(tmp_path / "out/test.clean.npz")
    assert captions.caption_texts.tolist() == test.caption_texts.tolist()
    np.testing.assert_array_equal(captions.text_embeddings, test.text_embeddings)


def test_captions_to_predict_may_come_from_a_file_of_their_own(photos, arguments, tmp_path):
    (photos / "test.csv").write_text("image,caption\n4.jpg,a fish\ngone.jpg,nothing\n")
    test = {"test_captions": photos / "test.csv", "test_fraction": None}
    encode.main(arguments(**test))
    assert open_test_captions(tmp_path / "out/test.clean.npz").caption_texts.tolist() == ["a fish", "nothing"]
    pairs = open_pairs(tmp_path / "out/test.pairs.npz")
    assert (pairs.image_names.tolist(), pairs.caption_ids.tolist()) == (["4.jpg"], [0])
    assert len(open_pairs(tmp_path / "out/train.npz")) == 5
    (photos / "test.csv").write_text("caption\na fish\n")
    encode.main(arguments(**test))
    assert len(open_test_captions(tmp_path / "out/test.clean.npz")) == 1
    assert not (tmp_path / "out/test.pairs.npz").exists(), "the earlier run's"


def test_what_is_left_out_is_counted_and_listed(photos, arguments, tmp_path, capsys):
    (photos / "captions.txt").write_text(
        CAPTIONS[1] + "only a name\ngone.jpg,a fish\n../2.jpg,a cat\n2.JPG,a cat, too\n"
    )
    (photos / "3.jpg").write_bytes(b"no picture")
    with pytest.raises(
        InputError, match=r"1 images \(3\.jpg\) cannot be read, see .*left_out\.csv.*--on-bad-image drop"
    ):
        encode.main(arguments())
    assert not (tmp_path / "out/train.npz").exists()
    encode.main(arguments(on_bad_image="drop"))
    pairs, out = open_pairs(tmp_path / "out/train.npz"), capsys.readouterr().out
    assert pairs.caption_texts.tolist() == ["a dog", "a brown dog", "a cat", "a cat, too"]
    assert pairs.image_names[pairs.image_of_caption].tolist() == ["1.jpg", "1.jpg", "2.JPG", "2.JPG"]
    listed = (tmp_path / "out/left_out.csv").read_text()
    for line, told in (
        ("captions.txt line 7,1 columns; the header has 2", "broken lines    1 left out"),
        ("missing image,gone.jpg,no such file", "missing images  2, with 2 captions"),
        ("missing image,../2.jpg,its name leads out of the folder", "missing images  2"),
        ("unreadable image,3.jpg,UnidentifiedImageError", "bad images      1 that cannot be read, with 2 captions"),
        ("picture without captions,4.jpg", "no captions     1 pictures"),
    ):
        assert line in listed
        assert told in out
    assert "odd lines       1 read all the same" in out
    assert "found as 2.jpg" in (tmp_path / "out/odd_images.csv").read_text()


def test_pairs_of_no_image_that_can_be_read_are_not_written(photos, arguments, tmp_path):
    for name in "123":
        (photos / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of its captions has an image that can be read"):
        encode.main(arguments(on_bad_image="drop"))
    shutil.rmtree(photos)
    photos.mkdir()
    (photos / "captions.txt").write_text(CAPTIONS[1])
    with pytest.raises(InputError, match=r"none of its 5 captions has an image; as 1\.jpg: no such file"):
        encode.main(arguments())
    assert not (tmp_path / "out/train.npz").exists()


def test_lines_of_both_captions_files_are_told_though_these_are_called_the_same(photos, arguments, tmp_path, capsys):
    for folder in (photos, tmp_path):
        (folder / "captions.txt").write_text(CAPTIONS[1] + "only a name\n")
    encode.main(arguments(test_captions=tmp_path / "captions.txt", test_fraction=None))
    assert "broken lines  2 left out" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["image", "caption"])
def test_a_run_that_was_stopped_goes_on_where_it_was(part, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embedding, "CAPTIONS_A_SHARD", 2)
    encode.main(arguments(output_dir=tmp_path / "whole"))
    write, written = embedding.Shards.write, []

    def stop_at_the_second(shards, *rest):
        if shards.folder.name == f"{part}s" and len(written) == 1:
            raise KeyboardInterrupt
        written.extend([1] * (shards.folder.name == f"{part}s"))
        write(shards, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(embedding.Shards, "write", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            encode.main(arguments())
    with pytest.raises(InputError, match=r"of another run \(another batch_size\); repeat that run's arguments"):
        encode.main(arguments(image_batch_size=1) if part == "image" else arguments(text_batch_size=3))
    capsys.readouterr()
    encode.main(arguments())
    assert f"2 of {3 if part == 'image' else 5} {part}s are done" in capsys.readouterr().out
    assert (tmp_path / "out/train.npz").read_bytes() == (tmp_path / "whole/train.npz").read_bytes()
    assert not (tmp_path / "out/encode.partial").exists()


def test_damaged_shards_are_made_again(arguments, tmp_path, monkeypatch):
    encode.main(arguments(output_dir=tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(encode, "_save", None)
        with pytest.raises(TypeError):
            encode.main(arguments())
    first, second = sorted((tmp_path / "out/encode.partial/images").glob("*.npy"))
    first.write_bytes(first.read_bytes()[:-7])
    np.save(second, np.full((1, 64), np.nan, np.float32))
    encode.main(arguments())
    assert (tmp_path / "out/train.npz").read_bytes() == (tmp_path / "whole/train.npz").read_bytes()


def test_data_that_it_did_not_make_are_not_overwritten(arguments, tmp_path):
    encode.main(arguments())
    encode.main(arguments(seed=1))
    before = (tmp_path / "out/train.npz").read_bytes()
    for foreign in (tmp_path / "out/test.clean.npz", tmp_path / "out/train.npz"):
        foreign.write_bytes(b"mine")
        with pytest.raises(InputError, match=f"{foreign.name}: exists and was not made by this command.*--overwrite"):
            encode.main(arguments())
        assert foreign.read_bytes() == b"mine"
    (tmp_path / "out/encode.json").write_text("[]")
    with pytest.raises(InputError, match="was not made by this command"):
        encode.main(arguments())
    encode.main([*arguments(), "--overwrite"])
    assert (tmp_path / "out/train.npz").read_bytes() == before


# ------------------------------------------------------------------------------------------------ arrays of one's own


@pytest.fixture
def arrays(photos, tmp_path):
    """The changes of a command line that has arrays instead of encoders, and the arrays."""
    rng = np.random.default_rng(1)
    text, image = rng.normal(size=(5, 7)), rng.normal(size=(3, 9)).astype(np.float16)
    np.save(tmp_path / "X.npy", text)
    np.save(tmp_path / "Y.npy", image)
    files = {"text_embeddings": tmp_path / "X.npy", "image_embeddings": tmp_path / "Y.npy"}
    nothing = {"images_root": None, "image_weights": None, "text_encoder": "none", "image_encoder": "none"}
    return files | nothing, text, image


def test_embeddings_that_one_has_are_taken_in_the_order_of_names(photos, arrays, arguments, tmp_path):
    changes, text, image = arrays
    encode.main(arguments(**changes))
    pairs = open_pairs(tmp_path / "out/train.npz")
    np.testing.assert_array_equal(pairs.text_embeddings, text.astype(np.float32))
    np.testing.assert_array_equal(pairs.image_embeddings, image.astype(np.float32))
    assert pairs.image_names.tolist() == ["1.jpg", "2.jpg", "3.jpg"]

    (photos / "names.txt").write_text("3.jpg\n9.jpg\n1.jpg\n")
    encode.main(arguments(**changes, image_names=photos / "names.txt"))
    pairs = open_pairs(tmp_path / "out/train.npz")
    assert pairs.image_names.tolist() == ["3.jpg", "1.jpg"]
    np.testing.assert_array_equal(pairs.image_embeddings, image[[0, 2]].astype(np.float32))
    np.testing.assert_array_equal(pairs.text_embeddings, text[[0, 1, 3, 4]].astype(np.float32))

    np.save(tmp_path / "Y.npy", np.arange(4, dtype=float)[:, None])  # of all pictures in the folder
    encode.main(arguments(**changes | {"images_root": photos}))
    assert open_pairs(tmp_path / "out/train.npz").image_embeddings.ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((4, 9)), "has 4 rows; there are 3 images"),
        (np.ones((3, 9), int), "int64 of shape .*; expected floats"),
        (np.ones(3), "expected floats of two dimensions"),
        (np.array([[1.0], [np.nan], [1e39]]), "in 2 rows, from row 1"),
        (np.array([{}], object), "not an array that NumPy saved"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(array, reason, arrays, arguments, tmp_path):
    np.save(tmp_path / "Y.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=rf"Y\.npy: .*{reason}"):
        encode.main(arguments(**arrays[0]))


# ------------------------------------------------------------------------------------------------ as it is typed


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--images-root", "nowhere"], "--images-root nowhere: no such folder"),
        (["--captions", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--text-encoder", "models/none/of/these"], "models/none/of/these"),
    ],
)
def test_what_cannot_be_used_is_one_line(more, reason, arguments, run_script):
    environment = {"PYTHONPATH": f"{REPO}:{STAND_IN}", "HF_HUB_OFFLINE": "1"}
    assert_input_error(run_script(*ENCODE, *arguments(), *more, env=environment), reason)


def test_a_missing_package_is_named_by_its_installation(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"needs sentence-transformers, .*: pip install sentence-transformers"):
        encode.main(arguments())


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_trained_translator(text_model, image_weights, run_script, tmp_path):
    make_sample(tmp_path / "data", scale=0.1)
    train, out = tmp_path / "data/train", tmp_path / "mine"
    encoders = ("--text-encoder", text_model, "--image-encoder", "timm:test_vit", "--image-weights", image_weights)
    files = ("--images-root", train / "Images", "--captions", train / "captions.txt", "--output-dir", out)
    environment = {"PYTHONPATH": f"{REPO}:{STAND_IN}"}
    result = run_script(*ENCODE, *files, *encoders, "--device", "cpu", env=environment)
    assert result.returncode == 0, result.stderr
    files = f"--train-npz {out}/train.npz --test-npz {out}/test.clean.npz"
    assert result.stdout.splitlines()[-1] == f"next: python train_mrr.py --recipe auto {files}"
    test = open_pairs(out / "test.pairs.npz")
    assert (len(open_pairs(out / "train.npz")), len(test), test.num_images) == (430, 30, 6)
    shutil.rmtree(tmp_path / "data")
    data = ("--train-npz", out / "train.npz", "--val-npz", out / "test.pairs.npz", "--test-npz", out / "test.clean.npz")
    result = run_script("train_mrr.py", *data, "--epochs", 2, "--device", "cpu", "--batch-size", 128, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "models").rglob("run.json")
    assert json.loads(run.read_text())["results"]["mrr"] > 0
    assert list(tmp_path.rglob("submission*.csv"))
