"""Captions files: Flickr's, COCO's, and tables with a column for the image and one for the caption."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from src.common.files import InputError, read_json, require_file
from src.encoding.packages import require_package

# Usual names, as far as upper and lower case go; the first that is there is taken.
IMAGE_COLUMNS = "image", "image_name", "image_file", "file_name", "filename", "file", "image_path", "filepath", "path"
CAPTION_COLUMNS = "caption", "text", "comment", "sentence", "description"
DELIMITERS = ",\t|;"
NUMBERED = re.compile(r"([^\t]+)#\d+\t(.*)")  # Flickr's older files: 1000268201_693b08cb0e.jpg#0, tab, caption
LINES_A_RECORD = 20  # of a quoted text, at most: a stray quote does not swallow the file
HALF = re.compile("[\ud800-\udfff]")  # bytes that are not UTF-8, too, as they are decoded here


@dataclass(frozen=True, eq=False)
class Captions:
    """N captions in the file's order: the names of their images, none if the file has no column for them, and texts.
    `broken` and `odd` tell of lines that are left out, and of those that are read though they are not as they should
    be: {place: what}."""

    images: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def followed_by(self, other: "Captions") -> "Captions":
        """These and then those of another file, with "" as images if that has none."""
        images = self.images + (other.images or [""] * len(other))
        return Captions(images, self.texts + other.texts, self.broken | other.broken, self.odd | other.odd)


class _Row(NamedTuple):
    """What stands at a place: an image and a caption, or why these cannot be read."""

    place: str
    image: Any = None
    caption: Any = None
    broken: str = ""
    odd: str = ""


class Columns(NamedTuple):
    """Which columns hold what, from 0; an image of None: there is no such column."""

    image: int | None
    caption: int


def read_captions(
    path: Path, image_column: str | None = None, caption_column: str | None = None, *, with_images: bool = True
) -> Captions:
    """Read a captions file: .json as COCO has it, .parquet, else text. The columns of a table are found by their usual
    names where they are not given; without `with_images` there need be none for the image. Raises InputError."""
    require_file(path)
    named = (image_column, caption_column, with_images)
    suffix = path.suffix.lower()
    rows = _coco(path) if suffix == ".json" else (_parquet if suffix == ".parquet" else _text)(path, *named)
    captions = Captions()
    for row in rows:
        place = f"{path} {row.place}"
        broken = row.broken or _broken(row.image, row.caption)
        if broken:
            captions.broken[place] = broken
            continue
        if row.image is not None:
            captions.images.append(str(row.image).strip())
        captions.texts.append(row.caption.strip())
        if row.odd:
            captions.odd[place] = row.odd
    if not captions.texts:
        first = next((f" ({place}: {why})" for place, why in captions.broken.items()), "")
        raise InputError(f"{path}: has no captions{first}")
    return captions


def _broken(image: Any, caption: Any) -> str:
    """Why an image's name and a caption cannot be used, or nothing."""
    if not isinstance(caption, str) or not caption.strip():
        return "no caption"
    if image is not None and (not isinstance(image, str | int) or not str(image).strip()):
        return "no image"
    return "not UTF-8" if HALF.search(f"{image}{caption}") else ""


def _columns(
    path: Path, names: Sequence[str], image: str | None, caption: str | None, with_images: bool
) -> Columns | None:
    """The columns of a table with these names, or None. Raises InputError if one that is given is not there."""
    known = [name.strip().casefold() for name in names]

    def find(given: str | None, usual: Sequence[str]) -> int | None:
        return next(
            (known.index(name) for name in ([given.strip().casefold()] if given else usual) if name in known), None
        )

    columns = find(image, IMAGE_COLUMNS), find(caption, CAPTION_COLUMNS)
    if columns[1] is None or (columns[0] is None and (with_images or image)):
        return None
    return Columns(columns[0], columns[1])


def _no_columns(path: Path, names: Sequence[str], with_images: bool) -> InputError:
    there = ", ".join(name.strip() for name in names[:12]) or "none"
    wanted, flags = (
        ("an image and a caption", "--image-column and --caption-column")
        if with_images
        else ("a caption", "--caption-column")
    )
    return InputError(
        f"{path}: no columns of the usual names for {wanted}; name them by {flags} (it has {there[:200]})"
    )


# ------------------------------------------------------------------------------------------------ text


def _text(path: Path, image: str | None, caption: str | None, with_images: bool) -> Iterator[_Row]:
    lines = _lines(path)
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise InputError(f"{path}: is empty")
    if NUMBERED.match(lines[first]):
        yield from _numbered(lines)
        return
    for delimiter in DELIMITERS:
        names = next(csv.reader([lines[first]], delimiter=delimiter))
        columns = _columns(path, names, image, caption, with_images)
        if columns:
            yield from _table(lines, first + 1, delimiter, len(names), columns)
            return
    raise _no_columns(path, [lines[first]], with_images)


def _lines(path: Path) -> list[str]:
    """UTF-8, or UTF-16 with its mark; bytes that are neither are halves of surrogate pairs."""
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _numbered(lines: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            found = NUMBERED.match(line)
            yield (
                _Row(f"line {number}", *found.groups())
                if found
                else _Row(f"line {number}", broken="no image#number, tab")
            )


def _table(lines: list[str], start: int, delimiter: str, width: int, columns: Columns) -> Iterator[_Row]:
    """The records of a CSV of so many columns. Where quotes are not as a CSV has them they count as text, and where the
    last column is the caption all that is left of a line belongs to it."""
    number = start
    while number < len(lines):
        line, place = lines[number], f"line {number + 1}"
        fields, used, odd = _record(lines, number, delimiter, width)
        number += used
        if not line.strip():
            continue
        if len(fields) > width and columns.caption == width - 1:
            odd = "unquoted separators, read as part of the caption"
            fields = line.split(delimiter, width - 1)
        if len(fields) != width:
            yield _Row(place, broken=f"{len(fields)} columns; the header has {width}")
            continue
        image = None if columns.image is None else fields[columns.image]
        yield _Row(place, image, fields[columns.caption], odd=odd)


def _record(lines: list[str], start: int, delimiter: str, width: int) -> tuple[list[str], int, str]:
    """The fields of the record that starts at a line, how many lines it has, and what is odd about it."""
    for used in range(1, LINES_A_RECORD + 1):
        try:
            fields = next(csv.reader(["\n".join(lines[start : start + used])], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            if "unexpected end of data" in str(error) and start + used < len(lines):
                continue
            break
        if used == 1 or len(fields) == width:
            return fields, used, ""
        break
    return lines[start].split(delimiter), 1, "quotes that do not match, read as text"


# ------------------------------------------------------------------------------------------------ COCO and Parquet


def _coco(path: Path) -> Iterator[_Row]:
    """COCO's captions: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}."""
    content = read_json(path)
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = content["annotations"]
        if not isinstance(annotations, list):
            raise TypeError("annotations are no list")
    except (LookupError, TypeError) as error:
        raise InputError(f"{path}: not COCO's captions, images and annotations ({error!r})") from None
    for number, annotation in enumerate(annotations):
        place = f"annotation {number}"
        try:
            yield _Row(place, names[annotation["image_id"]] or "", annotation["caption"])
        except (LookupError, TypeError) as error:
            yield _Row(place, broken=f"no image_id of an image, or no caption ({error!r})")


def _parquet(path: Path, image: str | None, caption: str | None, with_images: bool) -> Iterator[_Row]:
    """A caption may be a list of several, as data sets on the Hub have it."""
    parquet = require_package("pyarrow.parquet", "pyarrow", str(path))
    try:
        names = parquet.read_schema(path).names
        columns = _columns(path, names, image, caption, with_images)
        if columns is None:
            raise _no_columns(path, names, with_images)
        wanted = [names[column] for column in columns if column is not None]
        table = parquet.read_table(path, columns=wanted).to_pydict()
    except InputError:
        raise
    except Exception as error:  # pyarrow's own kinds, OSError, ValueError
        raise InputError(f"{path}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from None
    texts = table[wanted[-1]]
    images = [None] * len(texts) if columns.image is None else table[wanted[0]]
    for number, (name, text) in enumerate(zip(images, texts, strict=True)):
        if columns.image is not None and name is None:
            name = ""
        for each in text if isinstance(text, list) else [text]:
            yield _Row(f"row {number}", name, each)
