"""Read the weights out of a TorchScript archive, as OpenAI's CLIPs are, without running the program in it.

Such an archive is a zip with a pickle of the modules, data.pkl, and a file a tensor in data/. The pickle is read by an
unpickler that knows nothing but tensors and modules without methods.
"""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Float": torch.float32,
        "Double": torch.float64,
        "Bool": torch.bool,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "Short": torch.int16,
        "Int": torch.int32,
        "Long": torch.int64,
    }.items()
}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; other checkpoints have no constants."""
    return zipfile.is_zipfile(path) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
    )


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of an archive's modules by their names, as in a state dict. Raises nearly anything if it is damaged,
    pickle.UnpicklingError if it holds more than tensors and modules."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as file:
            return dict(_tensors(_Unpickler(file, archive, name.removesuffix(".pkl")).load()))


class _Module:
    """Any class of the archive: what it holds and nothing that it does."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle":  # of lists
            return _first
        known = {("torch._utils", "_rebuild_tensor_v2"): _view, ("collections", "OrderedDict"): dict}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a module")
        return known[module, name]

    def persistent_load(self, storage: Any) -> Tensor:
        _, dtype, key, _, _ = storage
        if key not in self.storages:
            self.storages[key] = torch.frombuffer(bytearray(self.archive.read(f"{self.folder}/{key}")), dtype=dtype)
        return self.storages[key]


def _first(value: Any, *_: Any) -> Any:
    return value


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
