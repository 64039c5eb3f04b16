"""Packages that only some encoders and files need."""

import importlib
from typing import Any

from src.common.files import InputError


def require_package(module: str, package: str, what: str) -> Any:
    """Import a module. Raises InputError, saying `what` needs which package, if it cannot be."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        gone = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        reason = "which is not installed" if gone else f"which cannot be imported ({error})"
        raise InputError(f"{what} needs {package}, {reason}: pip install {package}") from None
