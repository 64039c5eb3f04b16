"""Data into place: real ones stay, archives of any layout are unpacked or leave no trace, the sample gives way; half of
the data is an error that says what to do."""

import io
import json
import os
import shutil
import struct
import sys
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.common.files import InputError
from src.data.origins import PAIR
from src.data.pairs import open_pairs, open_test_captions, save_pairs, save_test_captions
from src.sample import dataset
from src.sample.dataset import is_sample
from src.sample.prepare import main
from tests.conftest import assert_input_error, select_images
from tests.sample.conftest import contents

NAMES = ["0.jpg", "1.jpg", "É.jpg"]
WANTED = [
    "test/test.clean.npz",
    *(f"train/Images/{name}" for name in NAMES),
    "train/captions.txt",
    "train/train.npz",
]


@pytest.fixture(scope="session")
def challenge(made, tmp_path_factory) -> dict[str, bytes]:
    """Stand-ins for the challenge's files, by their path below data/."""
    folder = tmp_path_factory.mktemp("challenge")
    pairs = select_images(open_pairs(made / "train/train.npz"), np.arange(28) < 3)
    others = {"image_names": np.array(NAMES, object), "text_embeddings": -pairs.text_embeddings}
    save_pairs(replace(pairs, **others), folder / "train.npz")
    test = open_test_captions(made / "test/test.clean.npz")
    save_test_captions(replace(test, text_embeddings=-test.text_embeddings), folder / "test.clean.npz")
    npz = {name: (folder / Path(name).name).read_bytes() for name in ("train/train.npz", "test/test.clean.npz")}
    pictures = {f"train/Images/{name}": f"picture {name}".encode() for name in NAMES}
    return npz | {"train/captions.txt": b"image,caption\n"} | pictures


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


def renamed(files, *changes):
    """The files below other prefixes."""
    for old, new in changes:
        files = {new + path.removeprefix(old) if path.startswith(old) else path: data for path, data in files.items()}
    return files


def without(files, name):
    return {path: data for path, data in files.items() if path != name}


def by_finder(files):
    """As macOS zips a folder: with a resource fork of every file, and what its file manager remembers."""
    forks = {f"__MACOSX/{path.rpartition('/')[0]}/._{path.rpartition('/')[2]}": b"\0\5\x16\7" for path in files}
    return zipped({"train/.DS_Store": b"Bud1", "train/Images/.DS_Store": b"Bud1"} | files | forks)


def by_windows_tools(files):
    """With backslashes, which zipfile itself never writes."""
    archive = zipped({f"folder/{path}": data for path, data in files.items()})
    for path in files:
        archive = archive.replace(f"folder/{path}".encode(), f"folder/{path}".replace("/", "\\").encode())
    return archive


def without_the_flag(files):
    """Names in UTF-8 of which the archive does not say so."""
    return zipped(renamed(files, ("train/Images/É", "train/Images/@@"))).replace(b"Images/@@.", "Images/É.".encode())


def spelled(files, spell):
    """Other spellings of the pictures' names."""
    return {spell(path) if path.endswith(".jpg") else path: data for path, data in files.items()}


def pictures_apart(files):
    """An archive for the two files, and two for the pictures, one of them in a zip in it."""
    pictures = {path: data for path, data in files.items() if path.endswith(".jpg")}
    first = {"0.jpg": pictures.pop("train/Images/0.jpg")}
    others = {path: data for path, data in files.items() if not path.endswith(".jpg")}
    return [zipped(others), zipped(first), zipped({"x.zip": zipped(pictures)})]


IMAGES = "train/Images/"
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
    "each in its own twice": lambda files: [
        zipped(renamed(files, ("train/", "train/train/"), ("test/", "test/test/")))
    ],
    "images elsewhere": lambda files: [zipped(renamed(files, (IMAGES, "Images/")))],
    "images in a folder of another name": lambda files: [zipped(renamed(files, (IMAGES, "train/flickr30k_images/")))],
    "images elsewhere in one of another case": lambda files: [zipped(renamed(files, (IMAGES, "a/images/")))],
    "images beside train.npz": lambda files: [zipped(renamed(files, (IMAGES, "train/")))],
    "images in several folders": lambda files: [zipped(renamed(files, (f"{IMAGES}0", "a/0"), (f"{IMAGES}1", "b/1")))],
    "images in archives of their own": pictures_apart,
    "the same image twice": lambda files: [zipped(files), zipped({"1.jpg": files[f"{IMAGES}1.jpg"]})],
    "train.npz twice": lambda files: [zipped(files), zipped(part(files, "train"))],
    "names decomposed": lambda files: [zipped(spelled(files, lambda name: unicodedata.normalize("NFD", name)))],
    "names and folders in another case": lambda files: [zipped(spelled(files, str.upper))],
    "names in UTF-8 that is not declared": lambda files: [without_the_flag(files)],
    "by Finder": lambda files: [by_finder(files)],
    "by Finder, a zip in it": lambda files: [by_finder({"all/images.zip": by_finder(files)})],
    "by tools for Windows": lambda files: [by_windows_tools(files)],
    "zips in a zip": lambda files: [zipped(two_zips(files))],
    "a zip beside train.npz": lambda files: [zipped(part(files, "train") | {"test.zip": zipped(part(files, "test"))})],
    "zips in a zip in a zip": lambda files: [zipped({"deep/all.ZIP": zipped(two_zips(files))})],
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


def test_names_in_train_npz_lead_nowhere_either(prepare, challenge, write_zips, tmp_path):
    (tmp_path / "train.npz").write_bytes(challenge["train/train.npz"])
    pairs = open_pairs(tmp_path / "train.npz")
    hostile = replace(pairs, image_names=np.array(["../../outside.jpg", "/absolute.jpg", "0.jpg"], object))
    save_pairs(hostile, tmp_path / "train.npz")
    files = challenge | {"train/train.npz": (tmp_path / "train.npz").read_bytes(), "train/outside.jpg": b"x"}
    before = contents(tmp_path).keys() | {"archive_0.zip"}
    output = prepare(*write_zips(zipped(files | {"absolute.jpg": b"x"})))
    assert (
        "1 of the 3 that train.npz names; the CLIP filter and the review will miss ../../outside.jpg, /absolute.jpg\n"
        in output
    )
    assert all(name.startswith("data/") for name in contents(tmp_path).keys() - before)


def test_a_second_call_changes_nothing(prepare, challenge, write_zips, data_dir):
    zips = write_zips(*LAYOUTS["two flat"](challenge))
    prepare(*zips)
    times = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    assert "train.npz: there already, left as it is; to replace it, move" in prepare(*zips)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == times


@pytest.mark.parametrize("how", ["nothing", "zips", "kaggle", "seed"])
def test_data_that_are_there_are_left_as_they_are(prepare, challenge, write_zips, data_dir, how):
    write(data_dir, challenge)
    zips = write_zips(*LAYOUTS["two flat"](challenge)) if how == "zips" else []
    output = prepare(*zips, competition="none" if how == "kaggle" else None, **{"seed": 0} if how == "seed" else {})
    assert "train.npz: there already, left as it is; to replace it, move" in output
    assert contents(data_dir) == challenge


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# ------------------------------------------------------------------------------------------------------ half of them


@pytest.mark.parametrize("around", ["nothing", "the sample's"])
@pytest.mark.parametrize(("there", "lacking"), [("train", "test"), ("test", "train")])
def test_half_of_the_data_is_an_error_until_the_other_half_is_unpacked_beside_it(
    prepare, challenge, write_zips, made, data_dir, around, there, lacking
):
    if around == "the sample's":
        shutil.copytree(made, data_dir)
    (own,) = (name for name in PAIR if name.startswith(there))
    (other,) = (name for name in PAIR if name.startswith(lacking))
    write(data_dir, {own: challenge[own]})
    before = contents(data_dir)
    with pytest.raises(InputError) as error:
        prepare()
    reason = "no such file, but" if around == "nothing" else "is the embedded sample's, but"
    assert str(error.value).startswith(f"{data_dir / other}: {reason} {data_dir / own} is ")
    assert f"`bash setup.sh --zip {lacking}.zip`" in str(error.value)
    assert contents(data_dir) == before

    prepare(*write_zips(zipped(part(challenge, lacking))))
    assert contents(data_dir) == {own: challenge[own]} | part(challenge, lacking, f"{lacking}/")
    assert "there already" in prepare()


@pytest.mark.parametrize("name", PAIR)
def test_a_part_of_the_sample_that_was_saved_in_its_place_is_no_other_data(prepare, with_sample, name):
    path = with_sample / name
    with np.load(path) as archive:
        np.savez(path, **{key: archive[key] for key in archive.files})
    before = contents(with_sample)
    assert f"{path}: there already, left as it is beside the sample" in prepare()
    assert contents(with_sample) == before


def test_pictures_alone_are_unpacked_beside_data_that_are_there(prepare, challenge, write_zips, data_dir):
    write(data_dir, {name: challenge[name] for name in PAIR} | {"train/Images/1.jpg": b"mine"})
    pictures = {name: data for name, data in challenge.items() if name.endswith(".jpg")}
    output = prepare(*write_zips(zipped(renamed(pictures, ("train/", "")))))
    assert "pictures        3 of the 3 that train.npz names\n  left as it was  train/Images/1.jpg\n" in output
    assert contents(data_dir) == without(challenge, "train/captions.txt") | {"train/Images/1.jpg": b"mine"}


def test_another_train_npz_in_the_archives_is_said_and_not_taken(prepare, challenge, write_zips, data_dir):
    write(data_dir, {"train/train.npz": challenge["train/train.npz"]})
    other = zipped(renamed(renumbered(challenge, "train/train.npz"), ("train/", "x/")))
    output = prepare(*write_zips(other))
    assert "not taken       archive_0.zip/x/train.npz: another one is there already" in output
    assert (data_dir / "train/train.npz").read_bytes() == challenge["train/train.npz"]


# ---------------------------------------------------------------------------------------------------- the pictures


def test_what_is_missing_and_what_is_left_over_is_counted(prepare, challenge, write_zips, data_dir):
    more = {f"train/Images/more{i}.jpg": b"" for i in range(5)} | {"readme.md": b""}
    files = without(challenge, "train/Images/1.jpg")
    output = prepare(*write_zips(zipped(files | more)))
    assert output == (
        f"{data_dir}: the challenge's data are in place\n"
        "  pictures   2 of the 3 that train.npz names; the CLIP filter and the review will miss 1.jpg\n"
        "  left over  archive_0.zip/readme.md, archive_0.zip/train/Images/more0.jpg, "
        "archive_0.zip/train/Images/more1.jpg and 3 more\n"
    )
    assert contents(data_dir) == files


@pytest.mark.parametrize("test_images", ["test/Images/", "test_images/", "a/Test/"])
def test_the_tests_pictures_are_never_taken_for_those_of_the_same_names(
    prepare, challenge, write_zips, data_dir, test_images
):
    """Not even for one that is missing, and though there are more of them."""
    files = without(challenge, "train/Images/1.jpg")
    tests = {f"{test_images}{name}": b"another" for name in (*NAMES, "3.jpg")}
    output = prepare(*write_zips(zipped(files | tests)))
    assert "2 of the 3 that train.npz names; the CLIP filter and the review will miss 1.jpg\n" in output
    assert contents(data_dir) == files | {name: data for name, data in tests.items() if name.startswith("test/")}


def test_the_sample_gives_way_to_real_data(prepare, challenge, write_zips, with_sample):
    prepare(*write_zips(*LAYOUTS["two flat"](challenge)))
    assert contents(with_sample) == challenge
    assert not is_sample(with_sample)
    assert "left as it is" in prepare()  # and does not come back


def test_single_files_that_are_there_are_never_overwritten(prepare, challenge, write_zips, data_dir):
    (data_dir / "train").mkdir(parents=True)
    (data_dir / "train/captions.txt").write_bytes(b"mine")
    output = prepare(*write_zips(*LAYOUTS["two flat"](challenge)))
    assert "left as it was  train/captions.txt\n" in output
    assert contents(data_dir) == challenge | {"train/captions.txt": b"mine"}


@pytest.mark.parametrize("placed", range(len(WANTED)))
def test_cut_off_among_the_files_a_second_call_finishes(
    prepare, challenge, write_zips, with_sample, monkeypatch, placed
):
    zips = write_zips(*LAYOUTS["two flat"](challenge))
    move, calls = Path.rename, []

    def killed(source, target):
        if "unpacked" in source.parts:
            if len(calls) == placed:
                raise KeyboardInterrupt
            calls.append(target)
        return move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
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


def packed_by(method, archive):
    """Only the method's number matters here; it stands in each member's header and in the directory."""
    for magic, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = -1
        while (at := archive.find(magic, at + 1)) >= 0:
            archive = archive[: at + place] + struct.pack("<H", method) + archive[at + place + 2 :]
    return archive


def renumbered(files, path):
    """Another train.npz or test.clean.npz, whose captions are half as wide."""
    with np.load(io.BytesIO(files[path])) as archive:
        arrays = dict(archive)
    arrays["captions/embeddings"] = arrays["captions/embeddings"][:, :512]
    arrays["metadata/embedding_dim_text"] = np.array([512])
    file = io.BytesIO()
    np.savez(file, **arrays)
    return files | {path: file.getvalue()}


NOT_HERE = "unpack it by hand (`unzip`, 7-Zip), move train.npz and Images/ to data/train/"
DAMAGE = {
    "no zip": (lambda files: [zipped(files), b"no zip"], "archive_1.zip: not a zip file"),
    "empty": (lambda files: [b""], "archive_0.zip: not a zip file"),
    "a web page": (lambda files: [b"\n<!DOCTYPE html><title>Log in"], "archive_0.zip: a web page, not an archive"),
    "a 7z archive": (lambda files: [b"7z\xbc\xaf\x27\x1c\0\4"], f"archive_0.zip: a 7z archive; {NOT_HERE}"),
    "a gzip archive": (lambda files: [b"\x1f\x8b\x08\0"], f"archive_0.zip: a gzip archive; {NOT_HERE}"),
    "cut": (lambda files: [zipped(files)[:-30]], "archive_0.zip: a zip file without its end"),
    "wrecked, stored": (
        lambda files: [with_wrecked_middle(zipped(files, zipfile.ZIP_STORED))],
        "archive_0.zip: a damaged zip file (Bad CRC-32 for file",
    ),
    "wrecked, deflated": (lambda files: [with_wrecked_middle(zipped(files))], "archive_0.zip: a damaged zip file ("),
    "encrypted": (
        lambda files: [encrypted(zipped(files))],
        f"archive_0.zip: train/Images/É.jpg is encrypted, with a password; {NOT_HERE}",
    ),
    "encrypted by AES": (lambda files: [packed_by(99, zipped(files))], "train/train.npz is encrypted"),
    "packed by Deflate64": (
        lambda files: [packed_by(9, zipped(files))],
        "archive_0.zip: train/train.npz is packed by Deflate64, as Windows itself does from 2 GB on, which Python "
        f"cannot unpack; {NOT_HERE}",
    ),
    "packed by Deflate64 in a zip": (
        lambda files: [zipped({"a/inner.zip": packed_by(9, zipped(files))})],
        "archive_0.zip: a/inner.zip: train/train.npz is packed by Deflate64",
    ),
    "packed by PPMd": (lambda files: [packed_by(98, zipped(files))], "train/train.npz is packed by method 98"),
    "a damaged zip in it": (
        lambda files: [zipped(files | {"a/inner.zip": b"no zip"})],
        "archive_0.zip: a/inner.zip: not a zip file",
    ),
    "a name that no file can have": (
        lambda files: [zipped(files | {"n" * 300: b""})],
        "archive_0.zip: cannot be unpacked",
    ),
    "zips in zips": (lambda files: [nested(files, 5)], "inner.zip: a zip in 4 others"),
    "no test": (
        lambda files: [zipped(part(files, "train"))],
        "the archives hold no test.clean.npz (but train.npz); name all that are needed, as --zip train.zip test.zip",
    ),
    "no train": (lambda files: [zipped(part(files, "test"))], "the archives hold no train.npz (but test.clean.npz)"),
    "train twice, once another": (
        lambda files: [zipped(files), zipped(part(renumbered(files, "train/train.npz"), "train"))],
        "the archives hold 2 files called train.npz that differ: archive_0.zip/train/train.npz, archive_1.zip/train",
    ),
    "test of other data": (
        lambda files: [zipped(renumbered(files, "test/test.clean.npz"))],
        "archive_0.zip/test/test.clean.npz: its caption embeddings are 512 wide; those of archive_0.zip/train/",
    ),
    "a cut train.npz": (
        lambda files: damaged_train(files, files["train/train.npz"][:-30]),
        "archive_0.zip/train/train.npz: not an NPZ file",
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


@pytest.mark.parametrize("there", ["the sample", "data"])
def test_an_archive_that_is_not_there_or_is_a_folder_is_named(prepare, challenge, with_sample, tmp_path, there):
    if there == "data":
        write(with_sample, challenge)
    before = contents(with_sample)
    for path, reason in (("absent.zip", "no such file"), ("~/absent.zip", "no such file"), (tmp_path, "is not a file")):
        with pytest.raises(InputError, match=f"{tmp_path if path == tmp_path else 'absent.zip'}: {reason}"):
            prepare(path)
    assert contents(with_sample) == before


def test_a_home_in_quotes_is_the_home(prepare, challenge, write_zips, data_dir, tmp_path, monkeypatch):
    write_zips(zipped(challenge))
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare("~/archive_0.zip")
    assert contents(data_dir) == challenge


def test_a_data_folder_that_is_a_file_is_named(run_script, tmp_path):
    (tmp_path / "data").write_bytes(b"")
    result = run_script("-m", "src.sample.prepare", "--data-dir", "data", cwd=tmp_path)
    assert_input_error(result, "error: --data-dir data: is not a folder")


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
def test_a_download_of_no_archive_or_of_several_datasets_is_an_error(prepare, challenge, kaggle, with_sample, archives):
    for i in range(archives):
        (kaggle / f"{i}.zip").write_bytes(zipped(renumbered(challenge, "train/train.npz") if i else challenge))
    before = contents(with_sample)
    with pytest.raises(InputError, match="the archives hold no train.npz" if archives == 0 else "that differ"):
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
