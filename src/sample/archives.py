"""Zips of any system's making, unpacked as they are meant; for those that cannot be, one line says what to do."""

import shutil
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from src.common.files import InputError
from src.common.progress import Progress

DEEPEST = 3  # zips in zips; what holds itself would have no end
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DEFLATE64, AES = 9, 99
BY_HAND = (
    "unpack it by hand (`unzip`, 7-Zip), move train.npz and Images/ to data/train/, test.clean.npz to data/test/, and "
    "run `bash setup.sh` again"
)
AGAIN = "download or copy it again"
OTHER_FILES = {  # by how they begin
    b"<": f"a web page, not an archive, as where a log-in is asked for; {AGAIN}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive; {BY_HAND}",
    b"Rar!": f"a RAR archive; {BY_HAND}",
    b"\x1f\x8b": f"a gzip archive; {BY_HAND}",
    b"PK": f"a zip file without its end, cut off or one part of several; {AGAIN}",
    b"": "not a zip file",
}


def unpack(archive: Path, target: Path, name: str, depth: int = 0) -> None:
    """Unpack a zip, by `name` in errors, into a new folder `target`; each zip in it into a folder in its place.

    What file managers add is left out, and no member leaves `target`. Raises InputError that says what to do.
    """
    if depth > DEEPEST:
        raise InputError(f"{name}: a zip in {depth} others, of which none is the challenge's")
    target.mkdir(parents=True)
    try:
        if not zipfile.is_zipfile(archive):
            raise InputError(f"{name}: {_what_it_is(archive)}")
        with zipfile.ZipFile(archive) as file:
            members = [(member, path) for member in file.infolist() if (path := _path_of(member))]
            for member, _ in members:  # all of them, before minutes of work
                _require_unpackable(member, name)
            for member, path in Progress(members, desc=f"unpacking {archive.name}", unit="file", leave=False):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as packed, (target / path).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
    except InputError:
        raise
    except OSError as error:  # no room for it, or no such name here
        raise InputError(f"{name}: cannot be unpacked ({error.strerror or error})") from None
    except Exception as error:  # zipfile and the inflaters raise a dozen kinds for damaged bytes
        raise InputError(f"{name}: a damaged zip file ({str(error) or 'it ends early'}); {AGAIN}") from None
    for inner in sorted(path for path in target.rglob("*") if path.suffix.lower() == ".zip" and path.is_file()):
        unpack(inner, inner.with_name(f"{inner.name} unpacked"), f"{name}: {inner.relative_to(target)}", depth + 1)
        inner.unlink()


def _what_it_is(archive: Path) -> str:
    with archive.open("rb") as file:
        start = file.read(100).lstrip(b"\xef\xbb\xbf \r\n\t")
    return next(what for magic, what in OTHER_FILES.items() if start.startswith(magic))


def _path_of(member: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a member goes, below the archive's folder; None for a folder and for what file managers add."""
    name = member.filename
    if not member.flag_bits & 0x800:  # macOS writes UTF-8 without saying so, for which zipfile takes it to be cp437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    name = name.replace("\\", "/")  # of Windows
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or name.endswith("/") or "__MACOSX" in parts or parts[-1].startswith("._"):
        return None
    return None if parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini") else PurePosixPath(*parts)


def _require_unpackable(member: zipfile.ZipInfo, name: str) -> None:
    """Raises InputError for a member that Python cannot unpack."""
    method = member.compress_type
    if member.flag_bits & 1 or method == AES:
        raise InputError(f"{name}: {member.filename} is encrypted, with a password; {BY_HAND}")
    if method not in METHODS:
        windows = ", as Windows itself does from 2 GB on" if method == DEFLATE64 else ""
        called = "Deflate64" if method == DEFLATE64 else f"method {method}"
        raise InputError(
            f"{name}: {member.filename} is packed by {called}{windows}, which Python cannot unpack; {BY_HAND}, or pack "
            "it anew by another program"
        )
