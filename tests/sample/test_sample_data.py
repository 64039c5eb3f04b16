"""The embedded sample: the same bytes each time, the challenge's layout, noise as told, encoders that see words and
pixels alone; and never over data that it did not make."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.common.files import InputError
from src.data.pairs import open_pairs, open_test_captions
from src.sample import dataset as sample_data
from src.sample.dataset import FILES, MARKER, is_sample, make_sample, remove_sample
from src.sample.encoders import encode_captions, encode_images
from src.sample.prepare import main
from src.sample.scenes import describe, paint, random_scene
from tests.sample.conftest import SCALE, contents, make_quick


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_pixels(paths):
    return np.stack([np.asarray(Image.open(path)) for path in paths])


# -------------------------------------------------------------------------------------------------------- contents


def test_twice_the_same_bytes(made, tmp_path):
    make_sample(tmp_path, SCALE)
    assert contents(tmp_path) == contents(made)


def test_the_sample_is_the_one_of_all_figures(made):
    """Every draw goes before some caption. Another digest needs another SAMPLE_VERSION, and all figures anew."""
    digest = hashlib.sha256((made / "train/sample_noise.csv").read_bytes() + (made / "train/captions.txt").read_bytes())
    assert digest.hexdigest().startswith("5b3f57fdd568b09c")


@pytest.mark.slow
def test_another_process_makes_the_same(run_script, made, tmp_path):
    """But for the last bits of the embeddings, which depend on how many threads multiply."""
    command = ("-m", "src.sample.prepare", "--data-dir", tmp_path, "--scale", SCALE)
    env = {"KAGGLE_COMPETITION": "", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    result = run_script(*command, env=env)
    assert result.returncode == 0, result.stderr
    assert "28 training images with 140 captions, 14 of them swapped; 9 test captions" in result.stdout
    ours, theirs = contents(made), contents(tmp_path)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {MARKER}:
        if not name.endswith(".npz"):
            assert ours[name] == theirs[name], name
            continue
        with np.load(made / name) as a, np.load(tmp_path / name) as b:
            assert list(a) == list(b)
            for key in a:
                if a[key].dtype == np.float32:
                    np.testing.assert_allclose(a[key], b[key], atol=1e-5)
                else:
                    assert np.array_equal(a[key], b[key]), key


def test_the_layout_is_the_challenges(made):
    assert sorted(str(path.relative_to(made)) for path in made.glob("*/*")) == sorted(FILES)
    pairs, test = open_pairs(made / "train/train.npz"), open_test_captions(made / "test/test.clean.npz")
    assert (len(pairs), pairs.num_images, len(test)) == (140, 28, 9)
    assert pairs.text_embeddings.shape[1] == test.text_embeddings.shape[1] == 1024
    assert pairs.image_embeddings.shape[1] == 1536
    assert np.bincount(pairs.image_of_caption).tolist() == [5] * 28
    assert [path.name for path in sorted((made / "train/Images").iterdir())] == sorted(pairs.image_names)
    assert read_pixels((made / "train/Images").iterdir()).shape == (28, 96, 96, 3)
    shown = zip(pairs.image_names[pairs.image_of_caption], pairs.caption_texts, strict=True)
    assert [(row["image"], row["caption"]) for row in read_table(made / "train/captions.txt")] == list(shown)


def test_the_test_labels_tell_each_captions_image(made):
    test = open_test_captions(made / "test/test.clean.npz")
    with np.load(made / "test/sample_test_labels.npz", allow_pickle=False) as archive:
        image_of_caption, gallery = archive["image_of_caption"], archive["image_embeddings"]
    assert sorted(image_of_caption) == list(range(9))  # one caption an image, shuffled
    assert image_of_caption.tolist() != list(range(9))
    assert gallery.shape == (9, 1536)
    for text, image in zip(test.caption_texts, image_of_caption, strict=True):
        rng = np.random.default_rng((0, 1, image))
        scene = random_scene(rng)
        seen = encode_images(paint(scene, rng)[None])[0]
        assert np.linalg.norm(gallery - seen, axis=1).argmin() == image
        assert describe(scene, rng) == text


def test_no_image_of_the_test_is_one_of_the_training(made):
    with np.load(made / "test/sample_test_labels.npz") as labels:
        assert not set(labels["image_names"]) & set(open_pairs(made / "train/train.npz").image_names)


def test_a_tenth_of_the_captions_is_swapped_as_told(made, tmp_path, monkeypatch):
    pairs, noise = open_pairs(made / "train/train.npz"), read_table(made / "train/sample_noise.csv")
    assert [int(row["caption_id"]) for row in noise] == pairs.caption_ids.tolist()
    assert [row["shown_image"] for row in noise] == pairs.image_names[pairs.image_of_caption].tolist()
    swapped = np.array([row["swapped"] == "1" for row in noise])
    assert swapped.sum() == 14
    assert swapped.tolist() == [row["shown_image"] != row["true_image"] for row in noise]

    monkeypatch.setattr(sample_data, "SWAPPED_SHARE", 0)
    make_sample(tmp_path, SCALE)
    before = open_pairs(tmp_path / "train/train.npz")
    assert (before.caption_texts[~swapped] == pairs.caption_texts[~swapped]).all()
    written_for = {name: [] for name in pairs.image_names}
    for image, text in zip(before.image_of_caption, before.caption_texts, strict=True):
        written_for[before.image_names[image]].append(text)
    for row, text in zip(noise, pairs.caption_texts, strict=True):
        assert text in written_for[row["true_image"]]
    assert sorted(before.caption_texts) == sorted(pairs.caption_texts)  # none is lost, none twice


def test_a_larger_scale_adds_images_and_keeps_the_others(made, tmp_path):
    make_sample(tmp_path, 2 * SCALE)
    images, more = contents(made / "train/Images"), contents(tmp_path / "train/Images")
    assert (len(images), len(more)) == (28, 55)
    assert images.items() <= more.items()
    pairs = open_pairs(tmp_path / "train/train.npz")
    assert (len(pairs), pairs.num_images, len(open_test_captions(tmp_path / "test/test.clean.npz"))) == (275, 55, 18)


def test_another_seed_invents_another_sample(made, tmp_path):
    make_sample(tmp_path, SCALE, seed=1)
    assert not set(contents(made / "train/Images").values()) & set(contents(tmp_path / "train/Images").values())
    ours, theirs = (open_pairs(folder / "train/train.npz") for folder in (made, tmp_path))
    assert len(set(ours.caption_texts) & set(theirs.caption_texts)) < 14


def test_captions_are_peoples():
    """Several ways to say it, different ones for one image, none empty."""
    rng = np.random.default_rng(0)
    texts = [describe(scene, rng) for scene in [random_scene(rng) for _ in range(100)] for _ in range(5)]
    assert len(set(texts)) > 0.95 * len(texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 2
    assert max(lengths) <= 40
    assert len({text.split()[0] for text in texts}) > 10
    assert all(text[0].isupper() and text == text.strip() for text in texts)


# -------------------------------------------------------------------------------------------------------- encoders


def test_the_embeddings_are_those_of_the_words_and_pixels_in_the_files(made):
    pairs = open_pairs(made / "train/train.npz")
    texts = [row["caption"] for row in read_table(made / "train/captions.txt")]
    np.testing.assert_allclose(encode_captions(texts), pairs.text_embeddings, atol=1e-5)
    pixels = read_pixels(made / "train/Images" / name for name in pairs.image_names)
    np.testing.assert_allclose(encode_images(pixels), pairs.image_embeddings, atol=1e-5)


def test_the_encoders_are_those_of_all_figures():
    text = encode_captions(["Two red stars on a white background"])[0]
    np.testing.assert_allclose(text[[0, 200, 1000]], [-0.3168, 0.6615, 1.5704], atol=1e-3)
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[20:60, 30:70] = (200, 40, 40)
    image = encode_images(picture[None])[0]
    np.testing.assert_allclose(image[[0, 500, 1500]], [-0.6088, 0.5688, 1.2239], atol=1e-3)


def test_a_caption_is_embedded_by_its_words_and_their_order_alone():
    texts = ["A red star on white.", "two blue moons", "a RED, star! on white", "white star on a red"]
    together = encode_captions(texts)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[0], together[2], atol=1e-5)
    assert np.abs(together[0] - together[3]).max() > 0.1
    for text, embedding in zip(texts, together, strict=True):
        np.testing.assert_allclose(encode_captions([text])[0], embedding, atol=1e-5)
    assert np.isfinite(encode_captions(["", "12", "zyzzyva"])).all()


def test_a_picture_is_embedded_by_its_pixels_alone():
    rng = np.random.default_rng(0)
    picture = paint(random_scene(rng), rng)
    pixels = np.stack([np.roll(picture, shift, axis=1) for shift in range(66)])  # more than are looked at in one go
    together = encode_images(pixels)
    assert together.dtype == np.float32
    np.testing.assert_allclose(encode_images(pixels[::-1])[::-1], together, atol=1e-4)
    np.testing.assert_allclose(encode_images(pixels[:1]), together[:1], atol=1e-4)
    blank = np.full((1, 96, 96, 3), 200, np.uint8)
    assert np.isfinite(encode_images(blank)).all()


def test_pictures_and_captions_of_a_scene_vary():
    scene = random_scene(np.random.default_rng(3))
    rng = np.random.default_rng(0)
    first, second = paint(scene, rng), paint(scene, rng)
    assert (first != second).any()
    assert np.abs(first.astype(int) - second).mean() < 40  # the same scene
    assert len({describe(scene, rng) for _ in range(20)}) > 10


# --------------------------------------------------------------------------------------------- what is there already


@pytest.fixture(scope="module")
def quick_samples(tmp_path_factory) -> list[Path]:
    """Samples of the seeds 0 and 1, made the quick way. Leave them as they are."""
    folders = [tmp_path_factory.mktemp("quick") / "data" for _ in range(2)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_quick(monkeypatch)
        for seed, folder in enumerate(folders):
            make_sample(folder, SCALE, seed)
    return folders


@pytest.fixture
def there(quick, quick_samples, tmp_path) -> Path:
    """A data folder with the sample of seed 0."""
    return shutil.copytree(quick_samples[0], tmp_path / "there")


@pytest.fixture
def expected(there) -> dict[str, bytes]:
    """The contents of a whole sample."""
    return contents(there)


def test_a_second_call_touches_nothing(there, capsys):
    times = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    make_sample(there, SCALE)
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == times
    assert "the sample is there already (scale 0.03, seed 0: 28 training images" in capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
def test_data_that_were_not_made_here_are_never_touched(tmp_path, name):
    foreign = tmp_path / name / "mine.jpg" if name.endswith("Images") else tmp_path / name
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(InputError, match=f"{name}: exists and was not made by the sample; nothing was touched"):
        make_sample(tmp_path, SCALE)
    remove_sample(tmp_path)
    assert contents(tmp_path) == {str(foreign.relative_to(tmp_path)): b"mine"}
    assert not is_sample(tmp_path)


@pytest.mark.parametrize("name", [*FILES[:3], *FILES[4:], "train/Images/train_00000.jpg", "train/Images/mine.jpg"])
def test_what_was_changed_since_counts_as_foreign(there, name):
    (there / name).write_bytes(b"mine")
    before = contents(there)
    with pytest.raises(InputError, match="was not made by the sample"):
        make_sample(there, 2 * SCALE)
    assert contents(there) == before
    assert is_sample(there) == (name != "train/train.npz")
    remove_sample(there)
    assert (there / name).read_bytes() == b"mine"
    assert not (there / MARKER).exists()
    assert all(path.startswith(str(Path(name).parent)) for path in contents(there))  # the rest of the sample is gone


def test_other_files_in_the_folders_stay(there):
    for name in ("notes.txt", "train/notes.txt", "test/notes.txt"):
        (there / name).write_bytes(b"mine")
    make_sample(there, SCALE, seed=1)
    assert is_sample(there)
    remove_sample(there)
    assert contents(there) == dict.fromkeys(("notes.txt", "train/notes.txt", "test/notes.txt"), b"mine")


def test_another_sample_takes_the_place_of_the_old_one(there, expected):
    for scale, seed in ((SCALE, 1), (2 * SCALE, 0)):
        make_sample(there, scale, seed)
        assert json.loads((there / MARKER).read_text()).items() >= {"scale": scale, "seed": seed}.items()
        assert contents(there).keys() >= expected.keys()
        assert contents(there).items() != expected.items()
    make_sample(there, SCALE)
    assert contents(there) == expected


def test_what_is_not_told_stays_as_it_is(there):
    for told, expected in (({}, (SCALE, 0)), ({"seed": 1}, (SCALE, 1)), ({"scale": 0.06}, (0.06, 1)), ({}, (0.06, 1))):
        make_sample(there, **told)
        marker = json.loads((there / MARKER).read_text())
        assert (marker["scale"], marker["seed"]) == expected


def test_an_older_version_is_made_anew(there, expected):
    marker = json.loads((there / MARKER).read_text())
    (there / MARKER).write_text(json.dumps(marker | {"version": 0}))
    make_sample(there)
    assert contents(there) == expected


def test_an_older_marker_gets_the_fingerprints_of_the_pair(there, expected):
    marker = json.loads((there / MARKER).read_text())
    del marker["pair"]
    (there / MARKER).write_text(json.dumps(marker))
    make_sample(there)
    assert contents(there) == expected


@pytest.mark.parametrize("lost", FILES)
def test_what_is_missing_is_made_again(there, expected, lost):
    shutil.rmtree(there / lost) if lost.endswith("Images") else (there / lost).unlink()
    make_sample(there, SCALE)
    assert contents(there) == expected


@pytest.mark.parametrize("lost", ["train/train.npz", None])
def test_what_a_kill_left_goes_with_the_next_call(there, expected, lost):
    (there / ".prepare.part-half/train").mkdir(parents=True)
    (there / ".prepare.part-half/train/train.npz").touch()
    if lost:
        (there / lost).unlink()
    main(["--data-dir", str(there)])
    assert contents(there) == expected


@pytest.mark.parametrize("moves", range(2 * len(FILES)))
@pytest.mark.parametrize("wanted", [0, 1], ids=["the old one", "the new one"])
def test_cut_off_among_the_files_a_second_call_finishes(there, quick_samples, monkeypatch, moves, wanted):
    """A sample that takes the place of an old one is killed after so many renames; then either is asked for."""
    rename, renamed = Path.rename, []

    def killed(self, target):
        if len(renamed) == moves:
            raise KeyboardInterrupt
        renamed.append(rename(self, target))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            make_sample(there, SCALE, seed=1)
    assert contents(there) != contents(quick_samples[1])
    make_sample(there, SCALE, wanted)
    assert contents(there) == contents(quick_samples[wanted])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scale", "0.02"), "--scale 0.02 --seed 0: expected 0.03 to 30, and a seed of 0 to 9223372036854775807"),
        (("--scale", "nan"), "--scale nan"),
        (("--scale", "-1"), "--scale -1.0"),
        (("--scale", "1e9"), "--scale 1000000000.0"),
        (("--scale", "inf"), "--scale inf"),
        (("--seed", "-1"), "--seed -1: expected"),
        (("--seed", str(2**63)), f"--seed {2**63}: expected"),
        (("--seed", str(2**64)), f"--seed {2**64}: expected"),
    ],
)
def test_impossible_numbers_are_named(tmp_path, monkeypatch, flags, message):
    monkeypatch.delenv("KAGGLE_COMPETITION", raising=False)
    with pytest.raises(InputError, match=message):
        main(["--data-dir", str(tmp_path / "data"), *flags])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"files": []}', '{"files": {}, "seed": "x"}'])
def test_a_damaged_marker_is_named_and_nothing_touched(there, marker):
    (there / MARKER).write_text(marker)
    before = contents(there)
    with pytest.raises(InputError, match=MARKER):
        make_sample(there, SCALE)
    assert contents(there) == before
