"""Put data into place: the challenge's if you have or may download them, else the embedded sample.

    python -m src.sample.prepare                                       # what is there, or the sample
    python -m src.sample.prepare --scale 2                             # a sample twice as large: harder to rank
    python -m src.sample.prepare --zip train.zip test.zip              # unpack archives that you downloaded
    KAGGLE_COMPETITION=<slug> python -m src.sample.prepare             # download with the Kaggle CLI, and unpack

`bash setup.sh` calls this. Data that were not made here are never touched; the sample gives way to real data. Where
train.npz or test.clean.npz is there already, archives need only hold the other. Pictures are found by the names in
train.npz, wherever in the archives they are.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from src.common.cli import Parser
from src.common.endings import run_main
from src.common.files import InputError, require_file, sweep
from src.data.origins import embedded_alike, mixed
from src.data.pairs import open_image_names
from src.sample.challenge import TEST, TRAIN, missing_pictures, own_files, unpack_challenge
from src.sample.dataset import WORK, make_sample


def prepare(
    data_dir: Path,
    zips: Sequence[Path] = (),
    competition: str = "",
    scale: float | None = None,
    seed: int | None = None,
) -> None:
    """Have data in `data_dir`. Raises InputError for what cannot be used, and if half of the data are missing."""
    if data_dir.exists() and not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir}: is not a folder")
    for path in zips:
        require_file(path, "--zip takes archives" if path.exists() else "")
    sweep(data_dir / WORK)  # a run that was killed in the end may have left nothing else to do
    own, train, test = own_files(data_dir), data_dir / TRAIN, data_dir / TEST
    half = len(own) < 2
    if (competition and half) or (zips and (half or missing_pictures(data_dir, open_image_names(train)))):
        unpack_challenge(data_dir, zips, competition)
    elif half and own:
        ours, other = (train, test) if TRAIN in own else (test, train)
        if not (other.exists() and embedded_alike(ours, other)):
            raise InputError(_tell_half(ours, other))
        print(f"{ours}: there already, left as it is beside the sample, whose captions it has")
    elif own:
        print(f"{train}: there already, left as it is; to replace it, move {train.parent} away first")
    else:
        make_sample(data_dir, scale, seed)


def _tell_half(ours: Path, other: Path) -> str:
    """What to say and to do where only one of the two files is the user's."""
    part = other.parent.name
    if other.exists():
        return mixed(other, ours, part)
    what_to_do = f"put it there, as `bash setup.sh --zip {part}.zip` does"
    return f"{other}: no such file, but {ours} is there; {what_to_do}, or move {ours.parent} away to get the sample"


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where train/ and test/ go")
    parser.add_argument("--zip", type=Path, nargs="+", default=[], help="the challenge's archives (default: none)")
    parser.add_argument("--scale", type=float, help="of the sample, 920 + 300 images at 1 (default: as it is, else 1)")
    parser.add_argument("--seed", type=int, help="of the sample (default: as it is, else 0)")
    args = parser.parse_args(argv)
    zips = [path.expanduser() for path in args.zip]
    competition = "" if zips else os.environ.get("KAGGLE_COMPETITION", "")
    prepare(args.data_dir.expanduser(), zips, competition, args.scale, args.seed)


if __name__ == "__main__":
    run_main(main)
