"""Keep-lists: what is written is read, only for the data that it was made for, and nothing in it is executed."""

import json
import re

import numpy as np
import pytest

from src.common.files import InputError
from src.data.keep_lists import KeepList, apply_keep_list, check_output, open_keep_list, save_filtered, save_keep_list
from src.data.pairs import Pairs, Source, fingerprint, open_pairs, read_source, save_pairs

IDS = np.array([7, 3, 11, 5, 2])
KEEP = np.array([True, False, True, False, True])
SCORES = np.array([0.25, -0.125, np.nan, 0.0, 0.75], np.float32)


@pytest.fixture
def raw(tmp_path) -> Pairs:
    """Five captions of three images, as they are opened from raw.npz."""
    rng = np.random.default_rng(0)
    pairs = Pairs(
        caption_ids=IDS,
        caption_texts=np.array(list("abcde"), object),
        text_embeddings=rng.standard_normal((5, 4), np.float32),
        image_of_caption=np.array([2, 0, 0, 1, 2], np.int32),
        image_names=np.array(["x.jpg", "y.jpg", "z.jpg"], object),
        image_embeddings=rng.standard_normal((3, 6), np.float32),
    )
    save_pairs(pairs, tmp_path / "raw.npz")
    return open_pairs(tmp_path / "raw.npz")


def made_for(pairs: Pairs, **changes) -> KeepList:
    provenance = {"input_fingerprint": fingerprint(pairs.source), "higher_is_better": True, "cut": {"share": 0.4}}
    fields = {"caption_ids": IDS, "scores": SCORES, "keep": KEEP, "provenance": provenance}
    return KeepList(**fields | changes)


def test_a_keep_list_reads_back_as_it_was_written(raw, tmp_path):
    save_keep_list(made_for(raw), tmp_path / "a.keep.npz")
    opened = open_keep_list(tmp_path / "a.keep.npz")
    np.testing.assert_array_equal(opened.caption_ids, IDS)
    np.testing.assert_array_equal(opened.scores, SCORES)
    np.testing.assert_array_equal(opened.keep, KEEP)
    assert opened.provenance == made_for(raw).provenance


def test_the_file_is_a_plain_npz_of_the_documented_arrays(raw, tmp_path):
    save_keep_list(made_for(raw, scores=SCORES.astype(np.float64)), tmp_path / "a.keep.npz")
    with np.load(tmp_path / "a.keep.npz", allow_pickle=False) as archive:
        kinds = {key: (archive[key].dtype.kind, archive[key].dtype.itemsize, archive[key].shape) for key in archive}
        provenance = json.loads(archive["provenance"].item())
    assert kinds.pop("provenance")[::2] == ("U", (1,))
    assert kinds == {
        "captions/ids": ("i", 8, (5,)),
        "captions/scores": ("f", 4, (5,)),
        "captions/keep": ("b", 1, (5,)),
    }
    assert provenance["input_fingerprint"] == fingerprint(raw.source)


def test_the_kept_captions_stand_as_in_the_filtered_file_beside_which_the_list_is_written(raw, tmp_path):
    list_path = save_filtered(raw, made_for(raw), tmp_path / "out/train_q0.40.npz")
    assert list_path == tmp_path / "out/train_q0.40.keep.npz"
    filtered, applied = open_pairs(tmp_path / "out/train_q0.40.npz"), apply_keep_list(raw, list_path)
    assert filtered.caption_ids.tolist() == applied.caption_ids.tolist() == [7, 11, 2]
    assert filtered.caption_texts.tolist() == applied.caption_texts.tolist() == ["a", "c", "e"]
    assert filtered.image_of_caption.tolist() == applied.image_of_caption.tolist() == [2, 0, 2]
    assert filtered.image_names.tolist() == applied.image_names.tolist() == ["x.jpg", "y.jpg", "z.jpg"]
    np.testing.assert_array_equal(filtered.text_embeddings, applied.text_embeddings)
    np.testing.assert_array_equal(filtered.image_embeddings, applied.image_embeddings)


def test_the_filtered_file_records_the_unfiltered_one_and_is_the_same_pairs_without(raw, tmp_path):
    save_filtered(raw, made_for(raw), tmp_path / "filtered.npz")
    assert read_source(tmp_path / "filtered.npz") == Source.at(raw.source, fingerprint(raw.source))
    save_pairs(raw.select(KEEP), tmp_path / "plain.npz")
    assert read_source(tmp_path / "plain.npz") is None
    assert fingerprint(tmp_path / "filtered.npz") == fingerprint(tmp_path / "plain.npz")


def test_a_list_for_other_data_is_refused(raw, tmp_path):
    list_path = save_filtered(raw, made_for(raw), tmp_path / "filtered.npz")
    other = open_pairs(tmp_path / "filtered.npz")
    with pytest.raises(InputError, match="other data") as error:
        apply_keep_list(other, list_path)
    assert fingerprint(raw.source) in str(error.value)
    assert fingerprint(other.source) in str(error.value)


def test_pairs_that_are_no_longer_the_whole_file_are_refused(raw, tmp_path):
    save_keep_list(made_for(raw), tmp_path / "a.keep.npz")
    with pytest.raises(InputError, match="other data"):
        apply_keep_list(raw.select(KEEP), tmp_path / "a.keep.npz")


def test_a_filter_that_keeps_nothing_writes_nothing(raw, tmp_path):
    with pytest.raises(InputError, match="none of the 5 captions"):
        save_filtered(raw, made_for(raw, keep=np.zeros(5, bool)), tmp_path / "out/filtered.npz")
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_overwritten(tmp_path):
    (tmp_path / "raw.npz").touch()
    (tmp_path / "link.npz").symlink_to(tmp_path / "raw.npz")
    check_output(tmp_path / "raw.npz", tmp_path / "filtered.npz")
    for output in ("raw.npz", "link.npz", "filtered.npy", "filtered"):
        with pytest.raises(InputError, match=re.escape(f"--output-npz {tmp_path / output}")):
            check_output(tmp_path / "raw.npz", tmp_path / output)


PROVENANCE = np.array('{"input_fingerprint": "0", "higher_is_better": true}')
GOOD = {"captions/ids": IDS, "captions/scores": SCORES, "captions/keep": KEEP, "provenance": PROVENANCE}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"captions/keep": None}, "captions/keep"),
        ({"captions/keep": KEEP[:4]}, "5 ids, 5 scores and 4 choices"),
        ({"captions/keep": KEEP.astype("U5")}, "captions/keep has dtype <U5; expected bool"),
        ({"captions/keep": 2 * KEEP}, "captions/keep has dtype int64; expected bool, which cannot hold"),
        ({"captions/ids": IDS + 0.5}, "captions/ids has dtype float64; expected int64, which cannot hold"),
        ({"captions/scores": SCORES[None]}, "captions/scores has shape \\(1, 5\\); expected 1 dimension"),
        ({"provenance": np.array("{")}, "provenance is not JSON"),
        ({"provenance": np.array("[1]")}, "does not say for which pairs"),
        ({"provenance": np.array('{"model": "x"}')}, "does not say for which pairs"),
        ({"provenance": np.array('{"input_fingerprint": 0, "higher_is_better": true}')}, "does not say for which"),
        ({"provenance": np.array("[" * 100_000)}, "provenance is not JSON"),
        ({"captions/scores": np.full(5, np.inf, np.float32)}, "captions/scores has infinite numbers"),
        ({"captions/keep": np.full(5, 2, np.uint8).view(bool)}, "bytes other than 0 and 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, changes, reason):
    path = tmp_path / "bad.keep.npz"
    np.savez(path, **{key: array for key, array in (GOOD | changes).items() if array is not None})
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{reason}"):
        open_keep_list(path)


def test_ids_of_another_width_are_read(tmp_path):
    np.savez(tmp_path / "a.keep.npz", **GOOD | {"captions/ids": IDS.astype(np.int32)})
    found = open_keep_list(tmp_path / "a.keep.npz").caption_ids
    assert found.dtype == np.int64
    assert found.tolist() == IDS.tolist()


def test_damaged_missing_and_foreign_files_are_refused(raw, tmp_path):
    path = tmp_path / "a.keep.npz"
    save_keep_list(made_for(raw), path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"captions/scores.npy") + 60] ^= 0xFF  # a byte of the compressed scores
    np.save(tmp_path / "one.npy", SCORES)
    for damaged in (whole[: len(whole) // 2], bytes(flipped), b"", b"text", (tmp_path / "one.npy").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.keep\.npz"):
            open_keep_list(path)
    with pytest.raises(InputError, match="no such file"):
        open_keep_list(tmp_path / "absent.keep.npz")
    with pytest.raises(InputError, match=r"raw\.npz: has no key 'captions/keep'"):
        open_keep_list(raw.source)
