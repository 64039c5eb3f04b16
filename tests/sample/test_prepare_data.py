"""Data into place: real ones stay, archives of any layout are unpacked or leave no trace, the sample gives way."""

import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.common.files import InputError
from src.data.pairs import open_pairs, open_test_captions, save_pairs, save_test_captions
from src.sample import dataset
from src.sample.dataset import is_sample
from src.sample.prepare import main
from tests.conftest import assert_input_error, select_images
from tests.sample.conftest import contents

WANTED = ["test/test.clean.npz", "train/Images/a.jpg", "train/captions.txt", "train/train.npz"]


@pytest.fixture(scope="session")
def challenge(made, tmp_path_factory) -> dict[str, bytes]:
    """Stand-ins for the challenge's files, by their path below data/."""
    folder = tmp_path_factory.mktemp("challenge")
    save_pairs(select_images(open_pairs(made / "train/train.npz"), np.arange(28) < 3), folder / "train.npz")
    save_test_captions(open_test_captions(made / "test/test.clean.npz"), folder / "test.clean.npz")
    npz = {name: (folder / Path(name).name).read_bytes() for name in ("train/train.npz", "test/test.clean.npz")}
    return npz | {"train/captions.txt": b"image,caption\n", "train/Images/a.jpg": b"a picture"}


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def with_sample(made, data_dir) -> Path:
    """A data folder with the embedded sample."""
    return shutil.copytree(made, data_dir)


@pytest.fixture
def prepare(data_dir, monkeypatch, capsys):
    """`python -m src.sample.prepare` with an environment of its own; returns what that prints."""
    monkeypatch.delenv("KAGGLE_COMPETITION", raising=False)

    def start(*zips, competition=None, **sample):
        if competition:
            monkeypatch.setenv("KAGGLE_COMPETITION", competition)
        flags = [text for name, value in sample.items() for text in (f"--{name}", str(value))]
        main(["--data-dir", str(data_dir), *flags, *(["--zip", *map(str, zips)] if zips else [])])
        return capsys.readouterr().out

    return start


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def part(challenge, name, prefix=""):
    """The files of train/ or test/, below another prefix."""
    return {
        path.replace(f"{name}/", prefix, 1): content for path, content in challenge.items() if path.startswith(name)
    }


def two_zips(challenge):
    return {"train.zip": zipped(part(challenge, "train")), "more/test.zip": zipped(part(challenge, "test"))}


LAYOUTS = {
    "two flat": lambda files: [zipped(part(files, "train")), zipped(part(files, "test"))],
    "two with folders": lambda files: [
        zipped(part(files, "train", "deep/train/")),
        zipped(part(files, "test", "test/test/")),
    ],
    "one with folders": lambda files: [zipped(files)],
    "one flat": lambda files: [zipped(part(files, "train") | part(files, "test"))],
    "train below test": lambda files: [zipped(part(files, "train", "train/") | part(files, "test"))],
    "test below train": lambda files: [zipped(part(files, "train") | part(files, "test", "test/"))],
    "images elsewhere": lambda files: [
        zipped({path.replace("train/Images/", "Images/"): content for path, content in files.items()})
    ],
    "zips in a zip": lambda files: [zipped(two_zips(files))],
    "a zip beside train.npz": lambda files: [zipped(part(files, "train") | {"test.zip": zipped(part(files, "test"))})],
    "zips in a zip in a zip": lambda files: [zipped({"deep/all.zip": zipped(two_zips(files))})],
}


@pytest.fixture
def write_zips(tmp_path):
    def write(*archives):
        paths = [tmp_path / f"archive_{i}.zip" for i in range(len(archives))]
        for path, archive in zip(paths, archives, strict=True):
            path.write_bytes(archive)
        return paths

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_archives_are_unpacked_whatever_their_layout(prepare, challenge, write_zips, data_dir, layout):
    zips = write_zips(*LAYOUTS[layout](challenge))
    assert "the challenge's data are in place" in prepare(*zips)
    assert contents(data_dir) == challenge
    assert sorted(challenge) == WANTED
    assert not [path for path in data_dir.iterdir() if path.name not in ("train", "test")]
    assert all(path.exists() for path in zips)  # the user's


def test_nothing_is_unpacked_outside(prepare, challenge, write_zips, data_dir, tmp_path):
    evil = {"../../outside.txt": b"x", "/absolute.txt": b"x", "train/../../../up.txt": b"x", "C:\\dos.txt": b"x"}
    (zip_path,) = write_zips(zipped(challenge | evil))
    before = contents(tmp_path)
    prepare(zip_path)
    new = contents(tmp_path).keys() - before.keys()
    assert all(name.startswith(("data/train/", "data/test/")) for name in new)
    assert {f"data/{name}" for name in WANTED} <= new
    assert not Path("/absolute.txt").exists()


def test_a_second_call_changes_nothing(prepare, challenge, write_zips, data_dir):
    zips = write_zips(*LAYOUTS["two flat"](challenge))
    prepare(*zips)
    times = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    assert "train.npz: there already, left as it is; to replace it, move" in prepare(*zips)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == times


@pytest.mark.parametrize("how", ["nothing", "zips", "kaggle", "seed"])
def test_data_that_are_there_are_left_unread(prepare, challenge, write_zips, data_dir, how):
    train = data_dir / "train/train.npz"
    train.parent.mkdir(parents=True)
    train.write_bytes(b"mine")
    zips = write_zips(*LAYOUTS["two flat"](challenge)) if how == "zips" else []
    output = prepare(*zips, competition="none" if how == "kaggle" else None, **{"seed": 0} if how == "seed" else {})
    assert "left as it is" in output
    assert contents(data_dir) == {"train/train.npz": b"mine"}


def test_the_sample_gives_way_to_real_data(prepare, challenge, write_zips, with_sample):
    prepare(*write_zips(*LAYOUTS["two flat"](challenge)))
    assert contents(with_sample) == challenge
    assert not is_sample(with_sample)
    assert "left as it is" in prepare()  # and does not come back


def test_single_files_that_are_there_are_never_overwritten(prepare, challenge, write_zips, data_dir):
    (data_dir / "train").mkdir(parents=True)
    (data_dir / "train/captions.txt").write_bytes(b"mine")
    output = prepare(*write_zips(*LAYOUTS["two flat"](challenge)))
    assert "captions.txt: there already, left as it is" in output
    assert contents(data_dir) == challenge | {"train/captions.txt": b"mine"}


@pytest.mark.parametrize("placed", range(len(WANTED)))
def test_cut_off_among_the_files_a_second_call_finishes(
    prepare, challenge, write_zips, with_sample, monkeypatch, placed
):
    zips = write_zips(*LAYOUTS["two flat"](challenge))
    move, calls = shutil.move, []

    def killed(*paths):
        if len(calls) == placed:
            raise KeyboardInterrupt
        calls.append(move(*paths))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(*zips)
    assert contents(with_sample) != challenge
    prepare(*zips)
    assert contents(with_sample) == challenge


# ------------------------------------------------------------------------------------------------- damaged archives


def with_wrecked_middle(archive):
    """The compressed bytes of the largest member overwritten; the directory is whole."""
    middle = len(archive) // 2
    return archive[:middle] + b"\xff" * 64 + archive[middle + 64 :]


def encrypted(archive):
    entry = archive.rindex(b"PK\x01\x02")
    return archive[: entry + 8] + b"\x01" + archive[entry + 9 :]


def nested(files, depth):
    for _ in range(depth):
        files = {"inner.zip": zipped(files)}
    return zipped(files)


def damaged_train(files, train_npz):
    return [zipped(files | {"train/train.npz": train_npz})]


DAMAGE = {
    "no zip": (lambda files: [zipped(files), b"no zip"], "archive_1.zip: not a zip file, or a damaged one"),
    "empty": (lambda files: [b""], "archive_0.zip: not a zip file"),
    "cut": (lambda files: [zipped(files)[:-30]], "archive_0.zip: not a zip file"),
    "wrecked, stored": (
        lambda files: [with_wrecked_middle(zipped(files, zipfile.ZIP_STORED))],
        "archive_0.zip: not a zip file, or a damaged one",
    ),
    "wrecked, deflated": (
        lambda files: [with_wrecked_middle(zipped(files))],
        "archive_0.zip: not a zip file, or a damaged one",
    ),
    "encrypted": (lambda files: [encrypted(zipped(files))], "archive_0.zip: not a zip file, or a damaged one"),
    "a damaged zip in it": (lambda files: [zipped(files | {"inner.zip": b"no zip"})], "inner.zip: not a zip file"),
    "a name that no file can have": (
        lambda files: [zipped(files | {"n" * 300: b""})],
        "archive_0.zip: cannot be unpacked",
    ),
    "zips in zips": (lambda files: [nested(files, 5)], "inner.zip: a zip in 4 others"),
    "no test": (lambda files: [zipped(part(files, "train"))], "the archives hold 0 files called test.clean.npz"),
    "no train": (lambda files: [zipped(part(files, "test"))], "the archives hold 0 files called train.npz"),
    "train twice": (lambda files: [zipped(files), zipped(part(files, "train"))], "2 files called train.npz"),
    "a cut train.npz": (
        lambda files: damaged_train(files, files["train/train.npz"][:-30]),
        "train.npz: not an NPZ file",
    ),
    "an empty train.npz": (lambda files: damaged_train(files, b""), "train.npz: not an NPZ file"),
    "an unpacked train.npz": (lambda files: damaged_train(files, b"\x93NUMPY"), "train.npz: not an NPZ file"),
}


def test_train_npz_in_a_folder_called_images_is_no_image(prepare, challenge, write_zips, data_dir):
    files = {
        name.replace("train/Images", "Pictures").replace("train/", "Images/"): file for name, file in challenge.items()
    }
    prepare(*write_zips(zipped(files)))
    assert (data_dir / "train/train.npz").read_bytes() == challenge["train/train.npz"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_archives_that_cannot_be_used_leave_everything_as_it_was(
    prepare, challenge, write_zips, with_sample, tmp_path, damage
):
    make, message = DAMAGE[damage]
    zips = write_zips(*make(challenge))
    before = contents(tmp_path)
    with pytest.raises(InputError) as error:
        prepare(*zips)
    assert message in str(error.value)
    assert contents(tmp_path) == before
    assert is_sample(with_sample)
    assert not list(with_sample.glob(".*"))


def test_an_archive_that_is_not_there_is_named(prepare, with_sample, tmp_path):
    with pytest.raises(InputError, match=r"absent\.zip: no such file"):
        prepare(tmp_path / "absent.zip")
    assert is_sample(with_sample)


# ----------------------------------------------------------------------------------------------------------- Kaggle


FAKE = """#!{python}
import json, shutil, sys
from pathlib import Path
here = Path(__file__).parent
(here / "call.json").write_text(json.dumps(sys.argv[1:]))
print("Downloading: 100%")
for archive in here.glob("*.zip"):
    shutil.copy(archive, sys.argv[sys.argv.index("-p") + 1])
if (here / "error.txt").exists():
    sys.exit((here / "error.txt").read_text())
"""


@pytest.fixture
def kaggle(tmp_path, monkeypatch) -> Path:
    """A folder at the head of PATH with a `kaggle` that downloads the zips beside it, or fails with error.txt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kaggle").write_text(FAKE.format(python=sys.executable))
    (folder / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("layout", ["one with folders", "zips in a zip", "one flat"])
def test_kaggles_archive_is_downloaded_and_unpacked(prepare, challenge, kaggle, with_sample, layout):
    (kaggle / "aml.zip").write_bytes(*LAYOUTS[layout](challenge))
    prepare(competition="aml-competition")
    assert contents(with_sample) == challenge
    call = json.loads((kaggle / "call.json").read_text())
    assert call[:-1] == ["competitions", "download", "-c", "aml-competition", "-p"]


def test_zips_come_before_kaggle(prepare, challenge, kaggle, write_zips, data_dir):
    prepare(*write_zips(*LAYOUTS["one with folders"](challenge)), competition="aml")
    assert contents(data_dir) == challenge
    assert not (kaggle / "call.json").exists()


@pytest.mark.parametrize("archives", [0, 2])
def test_a_download_of_no_or_several_archives_is_an_error(prepare, challenge, kaggle, with_sample, archives):
    for i in range(archives):
        (kaggle / f"{i}.zip").write_bytes(zipped(challenge))
    before = contents(with_sample)
    with pytest.raises(InputError, match=f"the archives hold {archives} files called train.npz"):
        prepare(competition="aml")
    assert contents(with_sample) == before


def test_a_failed_download_says_why_and_leaves_everything(prepare, challenge, kaggle, with_sample):
    (kaggle / "half.zip").write_bytes(zipped(challenge)[:1000])
    (kaggle / "error.txt").write_text("Traceback …\n403 - Forbidden: accept the rules first\n")
    before = contents(with_sample)
    with pytest.raises(InputError, match=r"failed: .*403 - Forbidden: accept the rules first"):
        prepare(competition="aml")
    assert contents(with_sample) == before


def test_without_the_kaggle_command_one_line_says_what_to_do(prepare, data_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no `kaggle` command here: pip install kaggle"):
        prepare(competition="aml")
    assert not contents(tmp_path)


# ------------------------------------------------------------------------------------------------------- the sample


def test_without_anything_the_sample_is_made_and_left(prepare, quick, data_dir, monkeypatch):
    monkeypatch.setattr(dataset, "TRAIN_IMAGES", 40)
    monkeypatch.setattr(dataset, "TEST_IMAGES", 10)
    assert "made the sample (scale 1, seed 0: 40 training images with 200 captions" in prepare()
    assert is_sample(data_dir)
    before = contents(data_dir)
    assert "the sample is there already (scale 1, seed 0" in prepare()
    assert contents(data_dir) == before


def test_a_sample_of_another_scale_stays(prepare, with_sample):
    before = contents(with_sample)
    assert "the sample is there already (scale 0.03" in prepare()
    assert contents(with_sample) == before
    (with_sample / "test/test.clean.npz").unlink()
    assert "made the sample (scale 0.03" in prepare()
    assert contents(with_sample) == before


def test_another_scale_and_seed_take_its_place(prepare, quick, with_sample):
    assert "made the sample (scale 0.06, seed 0" in prepare(scale=0.06)
    assert "made the sample (scale 0.06, seed 5" in prepare(seed=5)
    assert "the sample is there already (scale 0.06, seed 5" in prepare()


def test_an_error_is_one_line(run_script, write_zips, data_dir):
    result = run_script("-m", "src.sample.prepare", "--data-dir", data_dir, "--zip", *write_zips(b"no zip"))
    assert_input_error(result, "archive_0.zip: not a zip file")
