"""The challenge's NPZ: what NumPy writes is read, what is written NumPy reads; every fault is named; the dense label
matrix is never held; a cache is used only while it tells the truth."""

import io
import json
import mmap
import os
import pickle
import resource
import tracemalloc
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from src.common.files import InputError
from src.data.cache import cache_path
from src.data.npz import BLOCK_BYTES
from src.data.pairs import (
    Pairs,
    TestCaptions,
    embedding_dims,
    fingerprint,
    open_pairs,
    open_test_captions,
    save_pairs,
    save_test_captions,
)

N, M, T, V = 7, 4, 5, 3
LABEL = np.array([2, 0, 0, 3, 2, 2, 0])  # the second image has no caption
SCHEMA = {
    "metadata/num_captions": ((1,), "i"),
    "metadata/num_images": ((1,), "i"),
    "metadata/embedding_dim_text": ((1,), "i"),
    "metadata/embedding_dim_image": ((1,), "i"),
    "captions/ids": ((N,), "i"),
    "captions/text": ((N,), "U"),
    "captions/embeddings": ((N, T), "f"),
    "captions/label": ((N, M), "b"),
    "images/names": ((M,), "U"),
    "images/embeddings": ((M, V), "f"),
}


def challenge_arrays():
    """The arrays of a tiny train.npz, by key."""
    rng = np.random.default_rng(0)
    texts = ["A red star.", "", "two lines\nof text", "Ein Stück Käse", "日本語 🙂", 'says "no", twice', "a" * 300]
    return {
        "metadata/num_captions": np.array([N]),
        "metadata/num_images": np.array([M]),
        "metadata/embedding_dim_text": np.array([T]),
        "metadata/embedding_dim_image": np.array([V]),
        "captions/ids": np.array([30, -1, 7, 2**40, 5, 6, 0]),
        "captions/text": np.array(texts),
        "captions/embeddings": rng.standard_normal((N, T)).astype(np.float32),
        "captions/label": np.eye(M, dtype=bool)[LABEL],
        "images/names": np.array(["d.jpg", "c.jpg", "b.jpg", "ä.jpg"]),
        "images/embeddings": rng.standard_normal((M, V)).astype(np.float32),
    }


@pytest.fixture
def arrays():
    return challenge_arrays()


@pytest.fixture
def write(tmp_path):
    """Write arrays as NumPy does and return the path."""

    def start(arrays, name="train.npz", save=np.savez):
        save(tmp_path / name, **arrays)
        return tmp_path / name

    return start


def assert_holds(pairs, arrays):
    """Pairs are what the file's arrays say, in the documented dtypes."""
    assert pairs.caption_ids.dtype == np.int64
    assert pairs.caption_ids.tolist() == arrays["captions/ids"].tolist()
    for texts, key in ((pairs.caption_texts, "captions/text"), (pairs.image_names, "images/names")):
        assert texts.dtype == object
        assert texts.tolist() == arrays[key].tolist()
    for embeddings, key in (
        (pairs.text_embeddings, "captions/embeddings"),
        (pairs.image_embeddings, "images/embeddings"),
    ):
        assert embeddings.dtype == np.dtype("=f4")
        assert embeddings.flags.c_contiguous
        assert embeddings.tobytes() == np.ascontiguousarray(arrays[key], np.float32).tobytes()
    assert pairs.image_of_caption.dtype == np.int32
    assert pairs.image_of_caption.tolist() == arrays["captions/label"].argmax(axis=1).tolist()


def assert_same(ours, theirs):
    for field in fields(ours):
        if field.name != "source":
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert a.dtype == b.dtype
            assert np.array_equal(a, b), field.name


def many_pairs(num_captions, num_images, width=4):
    """Random pairs of any size with narrow embeddings, so that the label matrix is what is large."""
    rng = np.random.default_rng(0)
    return Pairs(
        caption_ids=np.arange(num_captions),
        caption_texts=np.array([f"caption {i}" for i in range(num_captions)], object),
        text_embeddings=rng.standard_normal((num_captions, width)).astype(np.float32),
        image_of_caption=rng.integers(0, num_images, num_captions).astype(np.int32),
        image_names=np.array([f"{i}.jpg" for i in range(num_images)], object),
        image_embeddings=rng.standard_normal((num_images, width)).astype(np.float32),
    )


# ------------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(arrays, write, save):
    path = write(arrays, save=save)
    pairs = open_pairs(path)
    assert_holds(pairs, arrays)
    assert (len(pairs), pairs.num_images, pairs.source) == (N, M, path)


def test_fortran_order_other_byte_orders_and_narrow_integers_are_read(arrays, write):
    for key in ("captions/label", "captions/embeddings", "images/embeddings"):
        arrays[key] = np.asfortranarray(arrays[key])
    arrays["images/embeddings"] = arrays["images/embeddings"].astype(">f4", order="F")
    arrays["captions/text"] = arrays["captions/text"].astype(arrays["captions/text"].dtype.newbyteorder(">"))
    arrays["captions/ids"] = np.array([9, 8, 7, 255, 1, 0, 3], np.uint8)
    arrays["metadata/num_captions"] = np.array(N, ">i2")  # one number, of shape ()
    assert_holds(open_pairs(write(arrays)), arrays)


def test_what_is_written_is_the_challenges_layout(arrays, write, tmp_path):
    save_pairs(open_pairs(write(arrays)), tmp_path / "copy.npz")
    with np.load(tmp_path / "copy.npz", allow_pickle=False) as archive:
        assert set(archive) == set(SCHEMA)
        for key, (shape, kind) in SCHEMA.items():
            assert (archive[key].shape, archive[key].dtype.kind) == (shape, kind), key
            assert np.array_equal(archive[key], arrays[key]), key
        assert archive["captions/embeddings"].dtype == archive["images/embeddings"].dtype == np.float32


def test_equal_pairs_give_equal_files(arrays, write, tmp_path):
    pairs = open_pairs(write(arrays))
    for name in ("first.npz", "second.npz"):
        save_pairs(pairs, tmp_path / name)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    assert_same(open_pairs(tmp_path / "first.npz"), pairs)


@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_that_take_many_blocks_are_read_and_written(order, write, tmp_path):
    pairs = many_pairs(3001, 1201)
    assert len(pairs) * pairs.num_images > 3 * BLOCK_BYTES
    save_pairs(pairs, tmp_path / "first.npz")
    with np.load(tmp_path / "first.npz") as archive:
        arrays = dict(archive)
    assert arrays["captions/label"].sum() == len(pairs)
    assert (arrays["captions/label"].argmax(axis=1) == pairs.image_of_caption).all()
    arrays["captions/label"] = arrays["captions/label"].copy(order=order)
    assert_same(open_pairs(write(arrays)), pairs)


def test_an_interrupted_save_leaves_the_old_file(arrays, write):
    path = write(arrays)
    pairs = open_pairs(path)
    impossible = replace(pairs, image_of_caption=pairs.image_of_caption + M)
    with pytest.raises(IndexError):
        save_pairs(impossible, path)
    assert_same(open_pairs(path), pairs)
    assert list(path.parent.iterdir()) == [path]


def test_captions_are_selected_by_mask_or_index_and_all_images_stay(arrays, write, tmp_path):
    pairs = open_pairs(write(arrays))
    kept = np.array([0, 1, 0, 1, 0, 0, 1], bool)
    filtered = pairs.select(kept)
    assert filtered.caption_ids.tolist() == [-1, 2**40, 0]
    assert filtered.image_of_caption.tolist() == [0, 3, 0]
    assert filtered.image_names is pairs.image_names
    assert pairs.select(np.array([6, 3])).caption_texts.tolist() == ["a" * 300, "Ein Stück Käse"]
    save_pairs(filtered, tmp_path / "filtered.npz")
    again = open_pairs(tmp_path / "filtered.npz")
    assert_same(again, filtered)
    assert (len(again), again.num_images) == (3, M)


TEST_KEYS = [
    "metadata/num_captions",
    "metadata/embedding_dim_text",
    "captions/ids",
    "captions/text",
    "captions/embeddings",
]


def test_test_captions_come_back(arrays, write, tmp_path):
    path = write({key: arrays[key] for key in TEST_KEYS}, "test.clean.npz")
    captions = open_test_captions(path)
    assert isinstance(captions, TestCaptions)
    assert (len(captions), captions.source) == (N, path)
    assert captions.caption_ids.tolist() == arrays["captions/ids"].tolist()
    assert captions.caption_texts.tolist() == arrays["captions/text"].tolist()
    assert (captions.text_embeddings == arrays["captions/embeddings"]).all()
    save_test_captions(captions, tmp_path / "copy.npz")
    assert_same(open_test_captions(tmp_path / "copy.npz"), captions)
    with np.load(tmp_path / "copy.npz", allow_pickle=False) as archive:
        assert sorted(archive) == sorted(TEST_KEYS)


@pytest.mark.parametrize("key", [key for key in TEST_KEYS if not key.startswith("metadata/")])
def test_test_captions_are_checked_as_pairs_are(arrays, write, key):
    kept = {name: arrays[name] for name in TEST_KEYS if name != key}
    with pytest.raises(InputError, match=rf"test\.npz: has no key '{key}'"):
        open_test_captions(write(kept, "test.npz"))
    assert_holds(open_pairs(write(arrays)), arrays)  # a train.npz has all that a test file needs


def test_widths_and_fingerprint_need_no_arrays(arrays, write, tmp_path):
    path = write(arrays)
    assert embedding_dims(path) == {"text": T, "image": V}
    assert embedding_dims(write({key: arrays[key] for key in TEST_KEYS}, "test.npz")) == {"text": T}
    (tmp_path / "moved.npz").write_bytes(path.read_bytes())
    assert fingerprint(path) == fingerprint(tmp_path / "moved.npz")
    arrays["captions/embeddings"][3, 2] += 1e-3
    assert fingerprint(path) != fingerprint(write(arrays, "changed.npz"))


# ---------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("key", [key for key in SCHEMA if not key.startswith("metadata/")])
def test_a_missing_key_is_named(arrays, write, key):
    del arrays[key]
    with pytest.raises(InputError, match=rf"train\.npz: has no key '{key}'"):
        open_pairs(write(arrays))


@pytest.mark.parametrize("key", SCHEMA)
def test_a_wrong_rank_is_named(arrays, write, key):
    arrays[key] = arrays[key][None].repeat(2, axis=0)
    wanted = {1: "1 dimension$", 2: "2 dimensions"}[len(SCHEMA[key][0])]
    wanted = "one number" if key.startswith("metadata/") else wanted
    wanted = "1 dimension or 2 dimensions" if key == "captions/label" else wanted
    with pytest.raises(InputError, match=rf"{key} has shape \(2, .*\); expected {wanted}"):
        open_pairs(write(arrays))


@pytest.mark.parametrize(
    ("key", "dtype", "wanted"),
    [
        ("metadata/num_captions", np.complex64, "int64"),
        ("captions/ids", np.bool_, "int64"),
        ("captions/ids", "M8[s]", "int64"),
        ("captions/text", np.float32, "unicode text"),
        ("captions/embeddings", "U3", "float32"),
        ("captions/embeddings", np.complex64, "float32"),
        ("captions/label", "S3", "bool"),
        ("images/names", np.int64, "unicode text"),
        ("images/embeddings", "m8[s]", "float32"),
    ],
)
def test_a_wrong_dtype_is_named(arrays, write, key, dtype, wanted):
    arrays[key] = np.zeros(arrays[key].shape, dtype)
    with pytest.raises(InputError, match=rf"{key} has dtype .*; expected {wanted}"):
        open_pairs(write(arrays))


@pytest.mark.parametrize(
    ("key", "rows", "message"),
    [
        ("captions/ids", N - 1, r"\(6,\); expected \(7,\), by metadata/num_captions"),
        ("captions/text", N - 1, r"\(6,\); expected \(7,\), by metadata/num_captions"),
        (
            "captions/embeddings",
            0,
            r"\(0, 5\); expected \(7, 5\), by metadata/num_captions, metadata/embedding_dim_text",
        ),
        ("captions/label", N - 1, r"\(6, 4\); expected \(7, 4\), by metadata/num_captions, metadata/num_images"),
        ("images/names", M - 1, r"\(3,\); expected \(4,\), by metadata/num_images"),
        (
            "images/embeddings",
            M - 1,
            r"\(3, 3\); expected \(4, 3\), by metadata/num_images, metadata/embedding_dim_ima",
        ),
    ],
)
def test_lengths_that_disagree_are_named(arrays, write, key, rows, message):
    arrays[key] = arrays[key][:rows]
    with pytest.raises(InputError, match=rf"{key} has shape {message}"):
        open_pairs(write(arrays))


def test_what_is_empty_is_named(arrays, write):
    arrays["captions/embeddings"], arrays["metadata/embedding_dim_text"] = np.empty((N, 0), np.float32), np.array([0])
    with pytest.raises(InputError, match=r"captions/embeddings is empty, shape \(7, 0\)"):
        open_pairs(write(arrays))


def test_a_label_matrix_of_another_width_is_named(arrays, write):
    arrays["captions/label"] = np.eye(M + 1, dtype=bool)[LABEL]
    with pytest.raises(InputError, match=r"captions/label has shape \(7, 5\); expected \(7, 4\), by .*/num_images"):
        open_pairs(write(arrays))


@pytest.mark.parametrize("key", [key for key in SCHEMA if key.startswith("metadata/")])
def test_metadata_that_disagree_are_named(arrays, write, key):
    actual = arrays[key].item()
    arrays[key] = arrays[key] + 1
    with pytest.raises(InputError, match=rf"has shape .*{actual}.*; expected .*{actual + 1}.*, by .*{key}"):
        open_pairs(write(arrays))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("images", [0, 2, M])
def test_a_caption_with_no_or_several_images_is_named(arrays, write, order, images):
    label = arrays["captions/label"].copy(order)
    label[4] = np.arange(M) < images
    label[6] = True
    arrays["captions/label"] = label
    with pytest.raises(InputError, match=f"captions/label gives caption 4 {images} images; expected one"):
        open_pairs(write(arrays))


def test_bytes_that_are_no_booleans_are_refused(arrays, write):
    arrays["captions/label"] = (2 * arrays["captions/label"].astype(np.uint8)).view(bool)
    with pytest.raises(InputError, match="captions/label has bytes other than 0 and 1"):
        open_pairs(write(arrays))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["captions/embeddings", "images/embeddings"])
def test_embeddings_that_are_not_finite_are_counted_and_the_first_row_named(arrays, write, key, value):
    arrays[key][[1, 3, 3], [0, 1, 2]] = [value, value, -value]
    with pytest.raises(InputError, match=rf"{key} has NaN or infinite numbers in 2 rows, the first is row 1"):
        open_pairs(write(arrays))


@pytest.mark.parametrize("length", [1e-30, 1e-13, 1e25, 3e38])
@pytest.mark.parametrize("key", ["captions/embeddings", "images/embeddings"])
def test_embeddings_whose_length_float32_cannot_tell_are_named(arrays, write, key, length):
    arrays[key][1], arrays[key][2] = 0, length
    with pytest.raises(InputError, match=rf"{key} has numbers so large or small .* in 1 rows, the first is row 2"):
        open_pairs(write(arrays))


@pytest.mark.parametrize("length", [0, 1e-11, 1e18])
def test_embeddings_of_other_lengths_are_read(arrays, write, length):
    arrays["captions/embeddings"][:] = length
    assert_holds(open_pairs(write(arrays)), arrays)


def test_ids_and_names_that_repeat_are_named(arrays, write):
    repeated = arrays | {"captions/ids": np.array([4, 5, 6, 5, 5, 1, 0])}
    with pytest.raises(InputError, match=r"captions/ids repeats 5 \(2 repeats in all\)"):
        open_pairs(write(repeated))
    repeated = arrays | {"images/names": np.array(["a.jpg", "b.jpg", "b.jpg", "c.jpg"])}
    with pytest.raises(InputError, match=r"images/names repeats b\.jpg"):
        open_pairs(write(repeated))


@pytest.mark.parametrize("character", [0x110000, 0x14000000])
def test_characters_that_are_none_are_refused(arrays, write, character):
    codes = np.ascontiguousarray(arrays["captions/text"]).view(np.uint32)
    codes[1] = character
    with pytest.raises(InputError, match=r"train\.npz: captions/text has .* \(there are no such characters\)"):
        open_pairs(write(arrays | {"captions/text": codes.view(arrays["captions/text"].dtype)}))


# ------------------------------------------------------------------------------------- the same values otherwise


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("captions/ids", lambda ids: ids.astype(np.float64)),
        ("captions/ids", lambda ids: ids.astype(str)),
        ("captions/ids", lambda ids: ids.astype("S")),
        ("captions/text", lambda texts: np.char.encode(texts, "utf-8")),
        ("captions/embeddings", lambda embeddings: embeddings.astype(np.float64)),
        ("captions/embeddings", lambda embeddings: np.asfortranarray(embeddings.astype(">f8"))),
        ("captions/label", lambda labels: labels.astype(np.uint8)),
        ("captions/label", lambda labels: np.asfortranarray(labels.astype(np.float16))),
        ("images/names", lambda names: np.char.encode(names, "utf-8")),
        ("images/embeddings", lambda embeddings: embeddings.astype(np.longdouble)),
    ],
)
def test_other_dtypes_that_hold_the_same_values_are_read_and_said(arrays, write, caplog, key, change):
    other = change(arrays[key])
    assert_holds(open_pairs(write(arrays | {key: other})), arrays)
    (line,) = caplog.messages
    assert f"train.npz: {key} has dtype {other.dtype}; read as " in line


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, str])
def test_metadata_of_other_dtypes_are_not_worth_a_line(arrays, write, caplog, dtype):
    others = {key: array.astype(dtype).squeeze() for key, array in arrays.items() if key.startswith("metadata/")}
    assert_holds(open_pairs(write(arrays | others)), arrays)
    assert not caplog.messages


def test_half_precision_and_integers_are_read_as_embeddings(arrays, write):
    arrays["captions/embeddings"] = arrays["captions/embeddings"].astype(np.float16)
    arrays["images/embeddings"] = np.array([[-128, 0, 127]] * M, np.int8)
    pairs = open_pairs(write(arrays))
    assert (pairs.text_embeddings == arrays["captions/embeddings"]).all()
    assert (pairs.image_embeddings == [-128, 0, 127]).all()
    assert pairs.text_embeddings.dtype == pairs.image_embeddings.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_labels_may_be_one_index_a_caption(arrays, write, caplog, dtype):
    assert_holds(open_pairs(write(arrays | {"captions/label": LABEL.astype(dtype)})), arrays)
    assert "captions/label has one image's index a caption" in caplog.text


@pytest.mark.parametrize("index", [-1, M])
def test_an_index_of_no_image_is_named(arrays, write, index):
    labels = LABEL.copy()
    labels[3] = index
    with pytest.raises(InputError, match=f"captions/label gives caption 3 image {index}; there are 4, counted from 0"):
        open_pairs(write(arrays | {"captions/label": labels}))


@pytest.mark.parametrize("keys", [["metadata/num_captions"], [key for key in SCHEMA if key.startswith("metadata/")]])
def test_metadata_may_be_missing(arrays, write, keys):
    assert_holds(open_pairs(write({key: array for key, array in arrays.items() if key not in keys})), arrays)
    kept = {key: array for key, array in arrays.items() if key not in keys} | {"captions/text": np.array(["one"])}
    with pytest.raises(InputError, match=r"captions/text has shape \(1,\); expected \(7,\)"):
        open_pairs(write(kept))


@pytest.mark.parametrize(
    ("key", "values", "named"),
    [
        ("metadata/num_captions", np.array([7.5]), "7.5"),
        ("captions/ids", np.arange(N) + 0.5, "0.5"),
        ("captions/ids", np.array([0, 1, 2, 3, 4, np.nan, 6]), "nan"),
        ("captions/ids", np.arange(N, dtype=np.uint64) + np.uint64(2**63 - 3), f"{2**63}"),
        ("captions/ids", np.arange(N) + 2.0**63, f"{2.0**63}"),
        ("captions/ids", np.array(["1", "02", "3", "4", "5", "6", "7"]), "'02'"),
        ("captions/ids", np.array(["1", "2", "3", "4", "5", "6", "seven"]), "seven"),
        ("captions/ids", np.array(["1", "2", "3", "4", "5", "6", "9" * 30]), "int64"),
        ("captions/text", np.array(["Käse".encode("latin-1")] * N), "0xe4"),
        ("captions/embeddings", np.full((N, T), 0.1), "0.1"),
        ("captions/embeddings", np.full((N, T), 2**24 + 1), f"{2**24 + 1}"),
        ("captions/embeddings", np.full((N, T), 1e300), "1e+300"),
        ("captions/label", 2 * np.eye(M, dtype=np.int8)[LABEL], "2"),
        ("captions/label", np.eye(M)[LABEL] * np.nan, "nan"),
    ],
)
def test_what_another_dtype_would_lose_is_refused(arrays, write, key, values, named):
    with pytest.raises(InputError, match=rf"{key} has dtype .*cannot hold all of its values \(") as raised:
        open_pairs(write(arrays | {key: values}))
    assert named in str(raised.value)


def test_halves_of_characters_become_replacement_characters_in_captions(arrays, write, caplog):
    texts = ["cut \ud83d", "\ud83d\ude42 whole", "\udc00\ud800", "caf\udce9", "", "é", "plain"]
    pairs = open_pairs(write(arrays | {"captions/text": np.array(texts)}))
    assert pairs.caption_texts.tolist() == ["cut \ufffd", "🙂 whole", "\ufffd\ufffd", "caf\ufffd", "", "é", "plain"]
    (line,) = caplog.messages
    assert "captions/text holds half characters in 4 rows; read as U+FFFD" in line


@pytest.mark.parametrize(("name", "what"), [("caf\udce9.jpg", "half a character"), ("a\0b.jpg", "a NUL")])
def test_names_that_no_file_can_have_are_named(arrays, write, name, what):
    names = np.array(["d.jpg", "c.jpg", name, "ä.jpg"])
    with pytest.raises(InputError, match=rf"images/names holds {what}, which no .* in row 2") as raised:
        open_pairs(write(arrays | {"images/names": names}))
    str(raised.value).encode()  # can be printed


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", SCHEMA)
def test_pickled_objects_are_never_loaded(arrays, write, tmp_path, key):
    arrays[key] = np.full(arrays[key].shape, Payload(tmp_path / "executed"), object)
    path = write(arrays)
    with pytest.raises(InputError, match=rf"{key} holds Python objects, which are never loaded"):
        open_pairs(path)
    assert not (tmp_path / "executed").exists()
    with np.load(path, allow_pickle=True) as archive:  # it would have
        archive[key]
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"id,embedding\n", pickle.dumps({"a": 1}), b"\x00" * 5000],
    ids=["empty", "too short", "text", "pickle", "zeros"],
)
def test_what_is_no_zip_is_named(tmp_path, content):
    (tmp_path / "train.npz").write_bytes(content)
    for read in (open_pairs, open_test_captions, embedding_dims, fingerprint):
        with pytest.raises(InputError, match=r"train\.npz: not an NPZ file, or a truncated or damaged one"):
            read(tmp_path / "train.npz")


def test_a_missing_file_comes_with_advice(tmp_path):
    with pytest.raises(InputError, match=r"train\.npz: no such file; run `bash setup\.sh` to prepare data/"):
        open_pairs(tmp_path / "train.npz")
    with pytest.raises(InputError, match="is not a file"):
        open_pairs(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_file_is_named_wherever_it_ends(arrays, write, save):
    path = write(arrays, save=save)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"train\.npz: not an NPZ file, or a truncated or damaged one"):
            open_pairs(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_is_an_error_or_changes_nothing(arrays, write, save):
    path = write(arrays, save=save)
    whole = path.read_bytes()
    positions = range(0, len(whole), max(1, len(whole) // 200))
    refused = 0
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            pairs = open_pairs(path)
        except InputError:
            refused += 1
        else:
            assert_holds(pairs, arrays)
    assert len(positions) / 2 < refused < len(positions)  # dates and the like do not matter


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def write_members(tmp_path, arrays):
    """Write a zip whose members are as NumPy writes them, but for `changes`."""

    def start(compression=zipfile.ZIP_STORED, **changes):
        with zipfile.ZipFile(tmp_path / "train.npz", "w", compression) as archive:
            for key, array in arrays.items():
                archive.writestr(f"{key}.npy", changes.get(key) or as_npy(array))
        return tmp_path / "train.npz"

    return start


def npy_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"no array", "is damaged, encrypted or no NumPy array"),
        (npy_header((N, T)) + bytes(4 * N * T - 4), r"has shape \(7, 5\) and dtype float32 but holds 136 bytes"),
        (npy_header((N, T)) + bytes(4 * N * T + 4), r"has shape \(7, 5\) and dtype float32 but holds 144 bytes"),
        (npy_header((-N, -T)) + bytes(4 * N * T), r"has shape \(-7, -5\) and dtype float32 but holds 140 bytes"),
    ],
)
def test_a_member_that_is_not_what_it_says_is_named(write_members, member, message):
    with pytest.raises(InputError, match=f"captions/embeddings {message}"):
        open_pairs(write_members(**{"captions/embeddings": member}))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_read(write_members, arrays, compression):
    assert_holds(open_pairs(write_members(compression)), arrays)


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        (0x0001, b"captions/ids", r"captions/ids is damaged, encrypted or no NumPy array \(.* is encrypted"),
        (0x0800, b"captions/\xff\xff\xff", "not an NPZ file, or a truncated or damaged one"),  # no UTF-8
    ],
)
def test_encryption_and_unreadable_names_are_refused(write_members, flag, name, message):
    path = write_members()
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"captions/ids"))
    flags, name_at = entry + 8, entry + 46
    changed = bytearray(content)
    changed[flags : flags + 2] = flag.to_bytes(2, "little")
    changed[name_at : name_at + len(name)] = name
    path.write_bytes(changed)
    with pytest.raises(InputError, match=message):
        open_pairs(path)


# ----------------------------------------------------------------------------------------------------------- memory


def traced_peak(action):
    """The most bytes that Python and NumPy held at a time for an action, beyond what they held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_dense_label_matrix_is_never_held(tmp_path):
    pairs = many_pairs(10_000, 8_000)
    dense = len(pairs) * pairs.num_images
    path = tmp_path / "train.npz"
    assert traced_peak(lambda: save_pairs(pairs, path)) < dense / 8
    assert traced_peak(lambda: open_pairs(path)) < dense / 8
    with np.load(path) as archive:  # the way to hold it shows in this measure
        assert traced_peak(lambda: archive["captions/label"]) >= dense


# ------------------------------------------------------------------------------------------------------------ cache


def is_mapped(pairs):
    """Whether pairs come from the cache: only its arrays are memory maps."""
    base = pairs.text_embeddings
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


def assert_cached_anew(path, arrays):
    """The cache counts as none and is put right; it is what already the process reads that has written it."""
    cached = [cache_path(path).read_bytes() if cache_path(path).is_file() else b""]
    for _ in range(3):
        pairs = open_pairs(path, cache=True)
        assert_holds(pairs, arrays)
        assert pairs.source == path
        assert is_mapped(pairs)
        cached.append(cache_path(path).read_bytes())
    assert cached[0] != cached[1] == cached[2] == cached[3]


def test_the_pairs_are_those_of_the_cache_from_the_first_time(arrays, write):
    path = write(arrays)
    assert_cached_anew(path, arrays)
    assert {file.name for file in path.parent.iterdir()} == {"train.npz", "train.npz.cache"}


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: {},
        lambda arrays: {key: np.asfortranarray(arrays[key]) for key in arrays},
        lambda arrays: {"captions/embeddings": arrays["captions/embeddings"].astype(">f8")},
        lambda arrays: {"images/embeddings": np.arange(M * V).reshape(M, V)},
        lambda arrays: {"captions/label": LABEL},
    ],
    ids=["as it is", "Fortran order", "float64", "integers", "indices"],
)
def test_the_cache_holds_what_the_file_does(arrays, write, change):
    path = write(arrays | change(arrays))
    read, kept = open_pairs(path, cache=False), open_pairs(path, cache=True)
    assert is_mapped(kept)
    assert_same(kept, read)
    file = load_file(cache_path(path))  # by the library whose format it is
    for field in fields(read):
        expected = getattr(read, field.name)
        if field.name != "source":
            found = file[field.name]
            if expected.dtype == object:
                found = np.array(json.loads(found.tobytes()), object)
            assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


def test_embeddings_that_go_to_the_cache_are_never_held(tmp_path):
    pairs = many_pairs(5_000, 100, width=2_000)
    path = tmp_path / "train.npz"
    save_pairs(pairs, path)
    assert traced_peak(lambda: open_pairs(path, cache=False)) > pairs.text_embeddings.nbytes
    assert traced_peak(lambda: open_pairs(path, cache=True)) < pairs.text_embeddings.nbytes / 4
    assert_same(open_pairs(path), pairs)


@pytest.mark.parametrize("at", [-30, -2000, 700])
def test_what_is_damaged_leaves_no_cache(arrays, write, at):
    path = write(arrays)
    content = bytearray(path.read_bytes())
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    messages = []
    for cache in (False, True):
        with pytest.raises(InputError) as error:
            open_pairs(path, cache=cache)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert list(path.parent.iterdir()) == [path]


def test_wrong_numbers_leave_no_cache(arrays, write):
    arrays["captions/embeddings"][3, 2] = np.nan
    path = write(arrays)
    with pytest.raises(
        InputError, match="captions/embeddings has NaN or infinite numbers in 1 rows, the first is row 3"
    ):
        open_pairs(path, cache=True)
    assert list(path.parent.iterdir()) == [path]


def test_only_large_files_get_a_cache_unasked(arrays, write, monkeypatch):
    path = write(arrays)
    open_pairs(path)
    assert not cache_path(path).exists()
    monkeypatch.setattr("src.data.pairs.CACHE_FROM_BYTES", 1000)
    open_pairs(path, cache=False)
    assert not cache_path(path).exists()
    open_pairs(path)
    assert is_mapped(open_pairs(path))
    assert not is_mapped(open_pairs(path, cache=False))


def test_changing_opened_pairs_changes_no_file(arrays, write):
    path = write(arrays)
    for _ in range(3):
        pairs = open_pairs(path, cache=True)
        assert_holds(pairs, arrays)
        pairs.text_embeddings[:] = 0
        pairs.image_of_caption[:] = 0


def test_caches_have_a_folder_of_their_own_where_one_is_named(arrays, write, tmp_path, monkeypatch):
    path, another = write(arrays), tmp_path / "another/train.npz"
    another.parent.mkdir()
    another.write_bytes(path.read_bytes())
    monkeypatch.setenv("T2I_CACHE_DIR", str(tmp_path / "by environment"))
    for file in (path, another):
        assert is_mapped(open_pairs(file, cache=True))
    assert is_mapped(open_pairs(path, cache=True, cache_dir=tmp_path / "by flag"))
    assert len(list((tmp_path / "by environment").iterdir())) == 2, "files of one name are not taken for each other"
    assert len(list((tmp_path / "by flag").iterdir())) == 1
    assert not path.with_name("train.npz.cache").exists()


def test_a_cache_of_other_contents_is_not_used(arrays, write):
    path = write(arrays)
    open_pairs(path, cache=True)
    before = path.stat()
    arrays["captions/embeddings"][0, 0] += 1
    write(arrays)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert_cached_anew(path, arrays)


def test_a_cache_survives_what_leaves_the_contents_alone(arrays, write):
    open_pairs(write(arrays), cache=True)
    pairs = open_pairs(write(arrays, save=np.savez_compressed), cache=True)
    assert is_mapped(pairs)
    assert_holds(pairs, arrays)


def test_a_damaged_file_is_refused_in_spite_of_its_cache(arrays, write):
    path = write(arrays)
    open_pairs(path, cache=True)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not an NPZ file"):
        open_pairs(path, cache=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:4],
        lambda whole: whole[:-1],
        lambda whole: whole[:-60] + bytes(60),  # never reached the disk
        lambda whole: bytes(len(whole)),
        lambda whole: b"garbage!" * 99,  # claims a header of some 10^18 bytes
        lambda whole: b"\xff" * len(whole),
        lambda whole: (2).to_bytes(8, "little") + b"[]",
        lambda whole: whole.replace(b'"image_names"', b'"image_nomes"'),
        lambda whole: whole.replace(b'"F32"', b'"U32"'),
    ],
    ids=[
        "empty",
        "4 bytes",
        "cut",
        "zeros at the end",
        "zeros",
        "garbage",
        "ones",
        "a list",
        "another name",
        "another dtype",
    ],
)
def test_a_damaged_cache_counts_as_none(arrays, write, damage):
    path = write(arrays)
    open_pairs(path, cache=True)
    whole = cache_path(path).read_bytes()
    cache_path(path).write_bytes(damage(whole))
    assert cache_path(path).read_bytes() != whole
    assert_cached_anew(path, arrays)


def test_a_cache_of_another_version_counts_as_none(arrays, write, monkeypatch):
    path = write(arrays)
    open_pairs(path, cache=True)
    monkeypatch.setattr("src.data.cache.CACHE_VERSION", -1)
    assert_cached_anew(path, arrays)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_where_a_cache_cannot_be_written_there_is_none(arrays, write, monkeypatch, error):
    path = write(arrays)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("src.common.files.tempfile.mkstemp", fail)
    for _ in range(2):
        assert_holds(open_pairs(path, cache=True), arrays)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("room", [0, 4096, 4096 + 4 * N * T, 4096 + 4 * (N * T + M * V) + 8])
def test_where_there_is_too_little_room_for_a_cache_there_is_none(arrays, write, room):
    """The first array, the second and what follows do not fit: found before a map is written to, which would kill."""
    path, limits = write(arrays), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        pairs = open_pairs(path, cache=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not is_mapped(pairs)
    assert_holds(pairs, arrays)
    assert list(path.parent.iterdir()) == [path]


def test_where_room_cannot_be_reserved_it_is_written(arrays, write, monkeypatch):
    monkeypatch.delattr("os.posix_fallocate")  # as on macOS
    assert_cached_anew(write(arrays), arrays)


def test_a_folder_in_the_place_of_the_cache_is_left_alone(arrays, write):
    path = write(arrays)
    cache_path(path).mkdir()
    assert_holds(open_pairs(path, cache=True), arrays)
    assert {file.name for file in path.parent.iterdir()} == {"train.npz", "train.npz.cache"}


WITHOUT_ISAL = """
import sys
sys.modules["isal"] = None
from src.data.pairs import open_pairs
print(open_pairs(sys.argv[1]).text_embeddings.sum())
"""


def test_without_isal_the_standard_library_inflates(sample, tmp_path, run_script):
    (tmp_path / "open.py").write_text(WITHOUT_ISAL)
    result = run_script(tmp_path / "open.py", sample / "train/train.npz")
    assert result.stderr == ""
    assert float(result.stdout) == pytest.approx(open_pairs(sample / "train/train.npz").text_embeddings.sum(), rel=1e-6)
