"""Put data into place: the challenge's if you have or may download them, else the embedded sample.

    python -m src.sample.prepare                                       # what is there, or the sample
    python -m src.sample.prepare --zip train.zip test.zip              # unpack archives that you downloaded
    KAGGLE_COMPETITION=<slug> python -m src.sample.prepare             # download with the Kaggle CLI, and unpack

`bash setup.sh` calls this with its own arguments. Data that were not made here are never touched; the sample gives
way to real data.
"""

import argparse
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from src.common.cli import HelpFormatter, run_main as run
from src.common.files import InputError, require_file
from src.common.kaggle import kaggle
from src.data.pairs import embedding_dims
from src.sample.dataset import is_sample, make_sample, remove_sample, sample_settings

WANTED = {"train": "train.npz", "test": "test.clean.npz"}


def prepare_data(data_dir: Path, zips: list[Path], competition: str | None) -> None:
    """Leave real data that are there; else unpack `zips`, else download `competition`, else make the sample.

    Raises InputError, with everything left as it was, if the archives lack or damage a file of the challenge.
    """
    train = data_dir / "train" / WANTED["train"]
    if train.exists() and not is_sample(data_dir):
        ignored = f"; to replace it, move {train.parent} away first" if zips or competition else ""
        print(f"{train}: there already, left as it is{ignored}")
        return
    if not zips and not competition:
        make_sample(data_dir, **sample_settings(data_dir))
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked.", dir=data_dir) as folder:
        unpacked = Path(folder)
        for archive in zips or [_download(competition, unpacked)]:
            _unpack(archive, unpacked)
        found = {part: _find(unpacked, name) for part, name in WANTED.items()}
        _gather_images(unpacked, found["train"])
        remove_sample(data_dir)
        # An archive may have both files in one folder. train.npz comes last: without it, another call starts anew.
        shared = found["test"].parent in found["train"].parents
        _place([found["test"]] if shared else found["test"].parent.iterdir(), data_dir / "test")
        _place(found["train"].parent.iterdir(), data_dir / "train")
    print(f"{data_dir}: the challenge's data are in place")


def _download(competition: str, folder: Path) -> Path:
    kaggle("download", "-c", competition, "-p", str(folder))
    archives = list(folder.glob("*.zip"))
    if len(archives) != 1:
        raise InputError(f"`kaggle competitions download -c {competition}` left {len(archives)} zips; expected one")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip, and the zips in it, into a folder of its own below `folder`."""
    require_file(archive)
    target = Path(tempfile.mkdtemp(dir=folder))
    try:
        with zipfile.ZipFile(archive) as file:
            for member in tqdm(file.infolist(), f"unpacking {archive.name}", unit="file", leave=False):
                file.extract(member, target)  # drops ".." and absolute paths
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive}: not a zip file, or a damaged one ({error})") from None
    for inner in sorted(target.rglob("*.zip")):
        _unpack(inner, folder)
        inner.unlink()


def _find(folder: Path, name: str) -> Path:
    """The one file of that name below `folder`, its headers checked."""
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        raise InputError(f"the archives hold {len(found)} files called {name}; expected one")
    embedding_dims(found[0])
    return found[0]


def _gather_images(folder: Path, train_npz: Path) -> None:
    """Bring the folder of the pictures beside train.npz, where the archives have it elsewhere."""
    images = train_npz.parent / "Images"
    elsewhere = [path for path in folder.rglob("Images") if path.is_dir()]
    if not images.exists() and elsewhere:
        elsewhere[0].rename(images)


def _place(paths: Iterable[Path], target: Path) -> None:
    """Move files and folders into `target`, but never over something that is there."""
    target.mkdir(exist_ok=True)
    for path in sorted(paths):
        if (target / path.name).exists():
            print(f"{target / path.name}: there already, left as it is")
        else:
            shutil.move(path, target / path.name)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where train/ and test/ go")
    parser.add_argument("--zip", type=Path, nargs="+", default=[], help="archives with train.npz and test.clean.npz")
    args = parser.parse_args(argv)
    prepare_data(args.data_dir, args.zip, os.environ.get("KAGGLE_COMPETITION"))


if __name__ == "__main__":
    run(main)
