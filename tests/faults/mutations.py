"""Ways to spoil a file: damage that knows nothing of its format, and odd contents that are well-formed."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

# What stands for a value in JSON text.
ODD_TOKENS = (
    *("null", "true", "[]", "{}", '""', '"x"', "-1", "0", "1", "2", "0.5", "1e999", "-1e-320", "NaN", "-Infinity"),
    *(str(10**9), str(2**40), str(2**63), str(-(2**64)), "1" + "0" * 400, "9" * 5000),
    *('"../../x"', '"/etc/passwd"', r'"\u0000"', r'"\ud800"'),
    *("[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 100_000, '[["x"]]', '{"": null}', '[1, "x", null]'),
)
ODD_FIELDS = (
    *("", "x", "-1", "0", "1", "1.5", "nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5000, "NA", "True", '"', '"""'),
    *(
        "\0",
        "\r",
        "\n",
        "\r\n",
        ",",
        "a,b",
        '"a,b"',
        "../../x",
        "é",
        "\ud800",
        "[" * 3000,
        "[1, 2]",
        " 1 ",
        "+1",
        "1_0",
    ),
)
ODD_DTYPES = ("f2", "f8", ">f4", "i1", "u8", ">i8", "?", "c8", "S3", "U1", "U40", "M8[s]", "V4", "O", "i4,f4")
ODD_SHAPES = ((10**12,), (2**62,), (2**63, 2), (0,), (10**9, 10**9), (3, 0), (1,) * 64, (-1,), (7, -5), ())


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


def pick(rng: Generator, options: Any) -> Any:
    """One of several, with its own type."""
    options = list(options)
    return options[rng.integers(len(options))]


# ------------------------------------------------------------------------------------------------------ any bytes


def damage(rng: Generator, content: bytes) -> tuple[str, bytes]:
    """Damaged bytes, and what was done to them."""
    how = pick(rng, DAMAGES)
    return how.__name__, bytes(how(rng, bytearray(content)))


def _span(rng: Generator, content: bytearray, longest: int = 400) -> slice:
    """A part of the contents; often near the beginning or the end, where formats have their structure."""
    start, near = int(rng.integers(len(content))), min(len(content), int(rng.integers(1, 300)))
    start = pick(rng, (start, start % near, len(content) - 1 - start % near))
    return slice(start, min(len(content), start + int(rng.integers(1, longest))))


def truncated(rng: Generator, content: bytearray) -> bytes:
    return content[: _span(rng, content).start]


def bits_flipped(rng: Generator, content: bytearray) -> bytes:
    within = pick(rng, (slice(0, len(content)), _span(rng, content, 100)))
    for position in rng.integers(within.start, within.stop, rng.integers(1, 31)):
        content[position] ^= 1 << int(rng.integers(8))
    return content


def one_byte_changed(rng: Generator, content: bytearray) -> bytes:
    content[_span(rng, content).start] = int(rng.integers(256))
    return content


def zeroed(rng: Generator, content: bytearray) -> bytes:
    span = _span(rng, content)
    content[span] = bytes(span.stop - span.start)
    return content


def doubled(rng: Generator, content: bytearray) -> bytes:
    span = _span(rng, content)
    content[span.start : span.start] = content[span]
    return content


def removed(rng: Generator, content: bytearray) -> bytes:
    del content[_span(rng, content)]
    return content


def inserted(rng: Generator, content: bytearray) -> bytes:
    start = _span(rng, content).start
    content[start:start] = rng.bytes(int(rng.integers(1, 400)))
    return content


def moved(rng: Generator, content: bytearray) -> bytes:
    block = content[_span(rng, content)]
    start = _span(rng, content).start
    content[start : start + len(block)] = block
    return content


def emptied(rng: Generator, content: bytearray) -> bytes:
    return b""


def random_bytes(rng: Generator, content: bytearray) -> bytes:
    return rng.bytes(int(rng.integers(1, 2000)))


DAMAGES = (
    *(truncated, bits_flipped, bits_flipped, one_byte_changed, one_byte_changed, zeroed, doubled, removed, inserted),
    *(moved, emptied, random_bytes),
)


# ---------------------------------------------------------------------------------------------------- JSON and CSV


def odd_json(rng: Generator, text: str) -> str:
    """A JSON text with some values replaced, left out or renamed."""
    document = [json.loads(text)]
    tokens: dict[str, str] = {}
    for _ in range(rng.integers(1, 3)):
        places = [(node, key) for node in nodes(document) for key in keys(node)]
        if not places:
            break
        node, key = pick(rng, places)
        action = rng.integers(8)
        if action == 0 and node is not document:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[pick(rng, ("", "x", "\0", str(key) + "s", "é"))] = node.pop(key)
        else:
            mark = f"@{len(tokens)}@"
            node[key], tokens[f'"{mark}"'] = mark, pick(rng, ODD_TOKENS)
    text = json.dumps(document[0], indent=pick(rng, (None, 2)))
    for mark, token in tokens.items():
        text = text.replace(mark, token)
    return text


def nodes(value: Any) -> list[Any]:
    """All lists and dictionaries in a value."""
    return [value] + [node for key in keys(value) for node in nodes(value[key])] if keys(value) else []


def keys(value: Any) -> list[Any]:
    """The keys of a dictionary or the indices of a list; of anything else, none."""
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def odd_csv(rng: Generator, text: str) -> str:
    """A CSV with some fields replaced or some lines lost, doubled or swapped. Knows no quotes, which makes it odder."""
    lines = text.split("\n")
    for _ in range(rng.integers(1, 3)):
        at, other = (int(rng.integers(len(lines))) for _ in range(2))
        action = rng.integers(8)
        if action == 0:
            lines[at], lines[other] = lines[other], lines[at]
        elif action == 1:
            lines.insert(at, lines[other])
        elif action == 2 and len(lines) > 1:
            del lines[at]
        else:
            fields = lines[at].split(",")
            place = int(rng.integers(len(fields)))
            if action == 3:
                del fields[place]
            elif action == 4:
                fields.insert(place, pick(rng, ODD_FIELDS))
            else:
                field = pick(rng, ODD_FIELDS)
                fields[place] = pick(rng, (field, f'"{field}"'))
            lines[at] = ",".join(fields)
    return pick(rng, ("\n", "\n", "\n", "\r\n", "\r")).join(lines)


def odd_lines(rng: Generator, text: str) -> str:
    """JSON lines, one of them odd, lost, doubled or swapped."""
    lines = text.splitlines()
    at, other = (int(rng.integers(len(lines))) for _ in range(2))
    action = rng.integers(8)
    if action == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif action == 1:
        lines.insert(at, lines[other])
    elif action == 2:
        del lines[at]
    else:
        lines[at] = odd_json(rng, lines[at]).replace("\n", " ")
    return "\n".join(lines) + "\n"


def encode(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


# -------------------------------------------------------------------------------------------------------- archives


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of format versions
        np.save(file, array, allow_pickle=True)
    return file.getvalue()


def odd_array(rng: Generator, array: np.ndarray, marker: Path) -> np.ndarray:
    """An array of another dtype or shape, with repeated rows, or with values that make no sense."""
    action = rng.integers(6)
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        if action == 0:
            return np.full(array.shape, Payload(marker), object)
        if action == 1:
            try:
                return array.astype(pick(rng, ODD_DTYPES))
            except (ValueError, TypeError):
                return np.zeros(array.shape, pick(rng, ODD_DTYPES))
        if action == 2:
            return pick(rng, (array.T, array.ravel(), array[None], array[:0], array[..., None], array[1:], array[::-1]))
        array = array.copy()
        if array.ndim == 0 or not array.size:
            return array
        if action == 3:
            array[rng.integers(len(array))] = array[rng.integers(len(array))]
            return array
        index = tuple(rng.integers(array.shape))
        if array.dtype.kind == "U":
            words = ("", "../../etc/passwd", "/dev/zero", "a\0b", "\ud800", "\udc80", "é", "x" * 500, "{}", "null", "[")
            return np.where(
                np.arange(array.size).reshape(array.shape) == rng.integers(array.size), pick(rng, words), array
            )
        if array.dtype.kind == "f":
            array[index] = pick(rng, (np.nan, np.inf, -np.inf, 3.4e38, -0.0))
        elif array.dtype.kind in "iu":
            array[index] = pick(rng, (0, -1, 1, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min))
        else:
            array.view(np.uint8).flat[rng.integers(array.nbytes)] = rng.integers(256)
        return array


def odd_npy(rng: Generator, content: bytes, marker: Path) -> bytes:
    """A `.npy` file of another array, with another header, or with bytes damaged."""
    array = np.load(io.BytesIO(content))
    action = rng.integers(4)
    if action < 2:
        return as_npy(odd_array(rng, array, marker))
    if action == 2:
        return damage(rng, content)[1]
    header = {"descr": array.dtype.str, "fortran_order": bool(rng.integers(2)), "shape": array.shape}
    header[pick(rng, header)] = pick(rng, (*ODD_SHAPES, "|O", "<U1000000", "<f4", "x", None, [("a", "<f4")], 10**400))
    text = pick(rng, (repr(header), repr(header), "(" * 5000, "{'a':" * 900, "-" * 9000, "1" * 9000)).encode() + b"\n"
    version = pick(rng, (b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text + array.tobytes()


def odd_npz(rng: Generator, content: bytes, marker: Path) -> bytes:
    """An archive whose checksums hold: of its members one is odd, lost, doubled or renamed, or sizes are invented."""
    members = unzip(content)
    at, other = (int(rng.integers(len(members))) for _ in range(2))
    name, member = members[at]
    action = rng.integers(8)
    if action == 0:
        del members[at]
    elif action == 1:
        members[at] = (pick(rng, ("../" + name, "/" + name, "source/" + name, name + "x", "\0", "")), member)
    elif action == 2:
        members[at] = (name, members[other][1])
    elif action == 3:
        members.insert(other, (name, odd_npy(rng, member, marker)))
    else:
        members[at] = (name, odd_npy(rng, member, marker))
    packed = make_zip(rng, members)
    return odd_zip_fields(rng, packed) if rng.integers(6) == 0 else packed


def unzip(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def make_zip(rng: Generator, members: list[tuple[str, bytes]], *, stored: bool = False) -> bytes:
    """A zip of members in any compression; names may repeat."""
    file = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    method = zipfile.ZIP_STORED if stored else pick(rng, methods)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", method) as archive:
        for name, member in members:
            info = zipfile.ZipInfo("x")
            info.filename = name.encode(errors="replace").decode()  # as it is, NUL and all
            archive.writestr(info, member, compress_type=method)
    return file.getvalue()


def odd_zip_fields(rng: Generator, content: bytes) -> bytes:
    """A zip with an invented number in one of the fields that describe a member or the whole."""
    changed = bytearray(content)
    entries = [place for place in range(len(content)) if content.startswith(b"PK\x01\x02", place)]
    end = content.rindex(b"PK\x05\x06")
    fields = [
        (entry + at, size) for entry in entries for at, size in ((6, 2), (8, 2), (10, 2), (20, 4), (24, 4), (42, 4))
    ]
    fields += [(end + at, size) for at, size in ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))]
    at, size = pick(rng, fields)
    changed[at : at + size] = pick(rng, (bytes(size), b"\xff" * size, b"\xfe" * size, b"\x7f" * size, rng.bytes(size)))
    return bytes(changed)


def payload_pickle(marker: Path) -> bytes:
    return pickle.dumps({"identity": Payload(marker), "recipe": {}})
