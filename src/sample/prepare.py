"""Put data into place: the challenge's if you have or may download them, else the embedded sample.

    python -m src.sample.prepare                                       # what is there, or the sample
    python -m src.sample.prepare --scale 2                             # a sample twice as large: harder to rank
    python -m src.sample.prepare --zip train.zip test.zip              # unpack archives that you downloaded
    KAGGLE_COMPETITION=<slug> python -m src.sample.prepare             # download with the Kaggle CLI, and unpack

`bash setup.sh` calls this. Data that were not made here are never touched; the sample gives way to real data.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from src.common.cli import Parser
from src.common.endings import run_main
from src.common.files import InputError, require_file, sweep, temporary_folder
from src.common.kaggle import kaggle
from src.data.pairs import embedding_dims
from src.sample.dataset import WORK, is_sample, make_sample, remove_sample

DEEPEST = 3  # zips in zips; what holds itself would have no end


def unpack_challenge(data_dir: Path, zips: list[Path], competition: str) -> None:
    """Unpack `zips`, or what Kaggle has for `competition` if there are none; a sample gives way. Raises InputError,
    with everything left as it was, if the archives lack or damage a file of the challenge."""
    with temporary_folder(data_dir / WORK) as folder:
        if not zips:
            kaggle("download", competition, "-p", str(folder))
        for archive in zips or list(folder.glob("*.zip")):
            _unpack(archive, folder)
        train, test = _folder_of(folder, "train.npz"), _folder_of(folder, "test.clean.npz")
        images = [path for path in folder.rglob("Images") if path.is_dir() and path not in (train, *train.parents)]
        if images and not (train / "Images").exists():
            images[0].rename(train / "Images")
        remove_sample(data_dir)
        # An archive may have both files in one folder, or train.npz somewhere below.
        _place([test / "test.clean.npz"] if test in (train, *train.parents) else test.iterdir(), data_dir / "test")
        _place(train.iterdir(), data_dir / "train")
    print(f"{data_dir}: the challenge's data are in place")


def _unpack(archive: Path, folder: Path, depth: int = 0) -> None:
    """Unpack a zip, and the zips in it, into folders of their own below `folder`."""
    if depth > DEEPEST:
        raise InputError(f"{archive.name}: a zip in {depth} others, of which none is the challenge's")
    target = Path(tempfile.mkdtemp(dir=folder))
    try:
        with zipfile.ZipFile(require_file(archive)) as file:
            for member in tqdm(file.infolist(), f"unpacking {archive.name}", unit="file", leave=False):
                file.extract(member, target)  # drops ".." and absolute paths
    except InputError:
        raise
    except OSError as error:  # no room for it, or no such name here
        raise InputError(f"{archive}: cannot be unpacked ({error.strerror or error})") from None
    except Exception as error:  # zipfile and the inflaters raise a dozen kinds for damaged bytes
        raise InputError(f"{archive}: not a zip file, or a damaged one ({error})") from None
    for inner in sorted(target.rglob("*.zip")):
        _unpack(inner, folder, depth + 1)
        inner.unlink()


def _folder_of(folder: Path, name: str) -> Path:
    """Where below `folder` the one file of that name is, its headers checked."""
    found = list(folder.rglob(name))
    if len(found) != 1:
        raise InputError(f"the archives hold {len(found)} files called {name}; expected one")
    embedding_dims(found[0])
    return found[0].parent


def _place(paths: Iterable[Path], target: Path) -> None:
    """Move files and folders into `target`, but never over something that is there."""
    target.mkdir(exist_ok=True)
    for path in sorted(paths, key=lambda path: path.name == "train.npz"):  # last: without it, a rerun starts anew
        if (target / path.name).exists():
            print(f"{target / path.name}: there already, left as it is")
        else:
            shutil.move(path, target / path.name)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where train/ and test/ go")
    parser.add_argument("--zip", type=Path, nargs="+", default=[], help="the challenge's archives (default: none)")
    parser.add_argument("--scale", type=float, help="of the sample, 920 + 300 images at 1 (default: as it is, else 1)")
    parser.add_argument("--seed", type=int, help="of the sample (default: as it is, else 0)")
    args = parser.parse_args(argv)
    competition = os.environ.get("KAGGLE_COMPETITION", "")
    sweep(args.data_dir / WORK)  # a run that was killed in the end may have left nothing else to do
    train = args.data_dir / "train/train.npz"
    if train.exists() and not is_sample(args.data_dir):
        print(f"{train}: there already, left as it is; to replace it, move {train.parent} away first")
    elif args.zip or competition:
        unpack_challenge(args.data_dir, args.zip, competition)
    else:
        make_sample(args.data_dir, args.scale, args.seed)


if __name__ == "__main__":
    run_main(main)
