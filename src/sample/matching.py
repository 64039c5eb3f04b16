"""Find the pictures that a dataset names in folders of any layout, and never take those of another set for them."""

import filecmp
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from src.common.spelling import caseless, composed

LOOSER: tuple[Callable[[str], str], ...] = (str, composed, caseless)  # each takes more spellings for the same name


@dataclass
class Matches:
    """files: by the name that a file has in the dataset; rivals: folders that hold other files of such names."""

    files: dict[str, PurePath] = field(default_factory=dict)
    rivals: list[PurePath] = field(default_factory=list)


def own_folder(npz: PurePath | None, other: PurePath | None) -> PurePath | None:
    """The folder of one of the dataset's two files, None if it also holds the other, there or below."""
    return None if npz is None or (other and other.is_relative_to(npz.parent)) else npz.parent


def match_pictures(
    names: Sequence[str], root: Path, files: Iterable[PurePath], train: PurePath | None, test: PurePath | None
) -> Matches:
    """Find each name among `files`, relative to `root`, by the end of their paths; by its last part alone if no path
    ends like a name. `train` and `test` are where the dataset's two files are, if they are among them.

    Pictures come from one folder, and from others as far as these do not hold other pictures of the same names. First
    is the one below train's own folder that covers half of the names, otherwise the one that covers most, of those the
    one nearest to `train`; none below test's own folder, or in one that is called after the test.
    """
    around_train = train.parents if train else ()
    test_folder, train_folder = own_folder(test, train), own_folder(train, test)

    def is_of_test(folder: PurePath) -> bool:
        return folder == test_folder or (folder.name.lower().startswith("test") and folder not in around_train)

    def order(folder: PurePath, count: int, of: int) -> tuple:
        own = train_folder is not None and folder.is_relative_to(train_folder) and 2 * count >= of
        shared = len({*around_train} & {folder, *folder.parents})
        return not own, -count, -shared, folder.name.lower() != "images", folder

    files = [path for path in files if not any(map(is_of_test, path.parents))]
    whole = {name.replace("\\", "/"): name for name in names if _is_plain(name)}
    last = {PurePosixPath(end).name: name for end, name in whole.items()}
    matches = Matches()
    for ends in (whole, last if len(last) == len(whole) else {}):
        folders = _match_folders(ends, files)
        for folder in sorted(folders, key=lambda folder: order(folder, len(folders[folder]), len(ends))):
            found = folders[folder]
            twice = found.keys() & matches.files.keys()
            if all(filecmp.cmp(root / found[name], root / matches.files[name], shallow=False) for name in twice):
                matches.files |= {name: found[name] for name in found.keys() - twice}
            else:
                matches.rivals.append(folder)
        if matches.files:
            break
    return matches


def _is_plain(name: str) -> bool:
    """Whether a file below a folder can have this name."""
    path = PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _match_folders(names: Mapping[str, str], files: Sequence[PurePath]) -> dict[PurePath, dict[str, PurePath]]:
    """What each folder has of the names, which are given by the end of the path to look for."""
    alike: dict[str, list[str]] = defaultdict(list)
    for end in names:
        alike[caseless(end)].append(end)
    folders: dict[PurePath, dict[str, PurePath]] = defaultdict(dict)
    for depth in {end.count("/") + 1 for end in names}:
        for path in files:
            end = "/".join(path.parts[-depth:])
            if len(path.parts) >= depth and caseless(end) in alike:
                folders[path.parents[depth - 1]][end] = path
    matched = {}
    for folder, ends in folders.items():
        pairs = _pair({name for end in ends for name in alike[caseless(end)]}, set(ends))
        matched[folder] = {names[name]: ends[end] for name, end in pairs.items()}
    return matched


def _pair(names: set[str], files: set[str]) -> dict[str, str]:
    """Give each name its file: by the very same name, else by one in another normal form of Unicode, else in another
    case. What then has several is given none."""
    pairs: dict[str, str] = {}
    for spelling in LOOSER:
        alike: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, texts in enumerate((names - pairs.keys(), files - set(pairs.values()))):
            for text in texts:
                alike[spelling(text)][side].append(text)
        pairs |= {ours[0]: theirs[0] for ours, theirs in alike.values() if len(ours) == len(theirs) == 1}
    return pairs
