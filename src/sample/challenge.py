"""The challenge's archives, in anyone's layout, put into place: train/, test/ and the pictures that train.npz names."""

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from src.common.cli import print_settings
from src.common.files import InputError, temporary_folder
from src.common.kaggle import kaggle
from src.data.origins import PAIR
from src.data.pairs import embedding_dims, fingerprint, open_image_names
from src.sample.archives import unpack
from src.sample.dataset import WORK, foreign_files, remove_sample
from src.sample.matching import match_pictures

TRAIN, TEST = map(PurePath, PAIR)
IMAGES = PurePath("train/Images")


@dataclass(frozen=True)
class Plan:
    """The names in train.npz; what of the unpacked files goes where in the data folder, in order, by paths relative to
    both; what might have been meant instead, with the reason; what is not used."""

    names: list[str]
    moves: dict[PurePath, PurePath]
    not_taken: list[str]
    left_over: list[PurePath]


def own_files(data_dir: Path) -> list[PurePath]:
    """Those of train.npz and test.clean.npz that are in `data_dir` and are not the sample's."""
    return [path for path in map(PurePath, foreign_files(data_dir)) if path in (TRAIN, TEST)]


def missing_pictures(data_dir: Path, names: Iterable[str]) -> list[str]:
    """Those of the names in train.npz of which no picture is in place."""
    return [name for name in names if not os.path.exists(data_dir / IMAGES / name)]  # noqa: PTH110 (whatever the name)


def unpack_challenge(data_dir: Path, zips: Sequence[Path], competition: str) -> None:
    """Unpack `zips`, or what Kaggle has for `competition` if there are none, and place what is not there yet; a sample
    gives way. Raises InputError, with everything left as it was, if they lack or damage a file of the challenge."""
    with temporary_folder(data_dir / WORK) as work:
        if not zips:
            (work / "downloads").mkdir()
            kaggle("download", competition, "-p", str(work / "downloads"))
            zips = sorted((work / "downloads").glob("*.zip"))
        root = work / "unpacked"
        for archive in zips:
            target, number = root / archive.name, 1
            while target.exists():
                number += 1
                target = root / f"{archive.name} {number}"
            unpack(archive, target, str(archive).removeprefix(f"{work}{os.sep}"))
        try:
            plan = _make_plan(root, data_dir)
        except InputError as error:
            raise InputError(str(error).replace(f"{root}{os.sep}", "")) from None
        remove_sample(data_dir)
        kept = [target for target, source in plan.moves.items() if not _move(root / source, data_dir / target)]
    print_settings(f"{data_dir}: the challenge's data are in place", _summary(data_dir, plan, kept))


def _make_plan(root: Path, data_dir: Path) -> Plan:
    """Find in what was unpacked below `root` what `data_dir` may lack. Raises InputError."""
    own = own_files(data_dir)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    train, test = (_find(path.name, files, root, needed=path not in own) for path in (TRAIN, TEST))
    train_npz = data_dir / TRAIN if TRAIN in own or train is None else root / train
    test_npz = data_dir / TEST if TEST in own or test is None else root / test
    ours, theirs = (embedding_dims(path).get("text") for path in (train_npz, test_npz))
    if None not in (ours, theirs) and ours != theirs:
        raise InputError(f"{test_npz}: its caption embeddings are {theirs} wide; those of {train_npz} are {ours}")
    names = open_image_names(train_npz).tolist()
    matches = match_pictures(names, root, files, train, test)
    pictures = {PurePath(name).suffix.lower() for name in names}
    taken = {*matches.files.values(), *(path for path in files if path.name in (TRAIN.name, TEST.name))}
    beside: dict[PurePath, dict[PurePath, PurePath]] = {TRAIN: {}, TEST: {}}
    left_over: list[PurePath] = []
    for path in files:
        if path in taken:
            continue
        homes = [(npz, name) for npz, name in ((train, TRAIN), (test, TEST)) if npz and path.is_relative_to(npz.parent)]
        npz, name = max(homes, key=lambda home: len(home[0].parts), default=(None, None))  # of one in the other, it
        if npz is None or name is None or name in own or (name == TRAIN and path.suffix.lower() in pictures):
            left_over.append(path)
        else:
            beside[name][name.parent / path.relative_to(npz.parent)] = path
    # The two files come last: without them, a rerun goes on.
    moves = beside[TEST] | ({TEST: test} if test else {})
    moves |= {IMAGES / name: path for name, path in matches.files.items()}
    moves |= beside[TRAIN] | ({TRAIN: train} if train else {})
    not_taken = [f"{folder}: other pictures of the same names" for folder in matches.rivals]
    for npz, name in ((train, TRAIN), (test, TEST)):
        if npz and name in own and fingerprint(root / npz) != fingerprint(data_dir / name):
            not_taken.append(f"{npz}: another one is there already")
    return Plan(names, moves, not_taken, left_over)


def _find(name: str, files: Sequence[PurePath], root: Path, *, needed: bool) -> PurePath | None:
    """Where the file of that name is; if it is needed, all of that name must be the same. Raises InputError."""
    found = [path for path in files if path.name == name]
    if needed and not found:
        others = ", ".join(sorted({path.name for path in files if path.suffix == ".npz"}))
        there = f" (but {others})" if others else ""
        raise InputError(f"the archives hold no {name}{there}; name all that are needed, as --zip train.zip test.zip")
    if needed and len({fingerprint(root / path) for path in found}) > 1:
        raise InputError(
            f"the archives hold {len(found)} files called {name} that differ: {', '.join(map(str, found))}"
        )
    return found[0] if found else None


def _move(source: Path, target: Path) -> bool:
    """Move a file, whole or not at all, but never over something that is there. Returns whether it was moved."""
    if os.path.lexists(target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(f".{WORK}.part-copy")  # the folder is on another disk
        shutil.copyfile(source, copy)
        copy.rename(target)
    return True


def _summary(data_dir: Path, plan: Plan, kept: Sequence[PurePath]) -> dict[str, str]:
    """What became of it all."""
    total, missing = len(plan.names), missing_pictures(data_dir, plan.names)
    lacking = f"; the CLIP filter and the review will miss {_some(missing)}" if missing else ""
    lines = {"pictures": f"{total - len(missing):,} of the {total:,} that train.npz names{lacking}"}
    if plan.not_taken:
        lines["not taken"] = "; ".join(plan.not_taken)
    if plan.left_over:
        lines["left over"] = _some(plan.left_over)
    if kept:
        lines["left as it was"] = _some(kept)
    return lines


def _some(items: Sequence[object]) -> str:
    """Three of the items, and how many there are."""
    shown = ", ".join(map(str, items[:3]))
    return shown if len(items) <= 3 else f"{shown} and {len(items) - 3:,} more"
