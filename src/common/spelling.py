"""Names that are the same to a person but not to a file system: other Unicode forms, upper and lower case."""

import unicodedata


def composed(name: str) -> str:
    """In normal form C: macOS decomposes the names of files, nothing else does."""
    return unicodedata.normalize("NFC", name)


def caseless(name: str) -> str:
    """Without upper and lower case (canonical caseless matching, Unicode 15, section 3.13)."""
    return composed(composed(name).casefold())
