"""Open a CLIP of the open_clip library: a known model with a pretrained tag or a local checkpoint."""

import difflib
import hashlib
import logging
import pickle
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from PIL import Image
from torch import Tensor

from src.common.files import InputError, read_json, sha256
from src.common.network import require_network
from src.filters.torchscript import is_torchscript, read_torchscript

PREPROCESSING = "mean", "std", "interpolation", "resize_mode"  # of images, as a tag's configuration calls it

_scalar, _array = (value.__reduce__()[0] for value in (np.float32(), np.zeros(0)))  # wherever this NumPy has them
NUMPY_GLOBALS: list[Any] = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.dtype,
    np.ndarray,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"),
]  # what a checkpoint may hold beside tensors: figures


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """`identity` records where it came from, its configuration, its preprocessing and a hash of its weights."""

    network: open_clip.CLIP  # or a relative of it, with encode_image and encode_text
    preprocess: Callable[[Image.Image], Tensor]  # to (3, S, S) float32
    tokenize: Callable[[list[str]], Tensor]  # B texts to (B, L) int64
    identity: dict[str, Any]

    def preparation(self) -> str:
        """How images are prepared, and the activation, in a line."""
        of = self.identity["preprocess"]
        numbers = (f"{key} {' '.join(f'{x:.3g}' for x in of[key])}" for key in ("mean", "std"))
        activation = "QuickGELU" if self.identity["config"].get("quick_gelu") else "GELU"
        return ", ".join((of["resize_mode"], of["interpolation"], *numbers, activation))


def load_clip(model: str, pretrained: str, **settings: Any) -> Clip:
    """Open a CLIP on the CPU: `model` is a name that open_clip knows or the path of a JSON model configuration,
    `pretrained` a tag, downloaded once, or the path of a checkpoint (.safetensors, or .pt and .bin, from which only
    tensors are loaded). `settings` are open_clip's image_mean, image_std, image_interpolation, image_resize_mode and
    force_quick_gelu; those that are not given, or None, are the tag's, or for a file those of the tags that it may be
    of. Raises InputError if there is no such model or its weights cannot be had."""
    name = model
    if model.endswith(".json"):
        config = read_json(model)
        if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise InputError(f"{model}: not a model configuration of open_clip (embed_dim, vision_cfg, text_cfg)")
        open_clip.add_model_config(model)
        name = Path(model).stem
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0)
        raise InputError(f"--model {model}: open_clip has no such model; near it: {', '.join(near)}")
    is_tag = open_clip.is_pretrained_cfg(name, pretrained)
    if not is_tag and not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise InputError(f"--pretrained {pretrained}: neither a checkpoint file nor one of {model}'s tags ({tags})")
    given = {key: value for key, value in settings.items() if value is not None}
    known = _settings(name, pretrained) if is_tag else _settings_of_file(name, Path(pretrained), said=bool(given))
    try:
        if is_tag and not _is_at_hand(open_clip.get_pretrained_cfg(name, pretrained)):
            require_network("its weights")
        with _in_silence(), torch.serialization.safe_globals(NUMPY_GLOBALS):
            network, preprocess = _create(name, pretrained, is_tag, known | given)
            tokenize = open_clip.get_tokenizer(name)
    except Exception as error:  # the library and what it calls raise nearly anything
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        if is_tag:
            raise InputError(
                f"no weights for --model {model} --pretrained {pretrained} ({reason}); run once with a network, copy "
                "the Hugging Face cache of a machine that has them (HF_HOME names its folder), or give --pretrained "
                "the path of a checkpoint"
            ) from None
        if isinstance(error, pickle.UnpicklingError):
            found = re.search(r"GLOBAL (\S+)", str(error))
            reason = (
                f"not a checkpoint, or one that holds more than tensors{f' ({found[1]})' if found else ''}, which is "
                "never loaded; if you trust it, write its state_dict alone to another file by torch.save"
            )
        raise InputError(f"--pretrained {pretrained}: cannot be loaded into {model} ({reason})") from None
    network.eval().requires_grad_(False)
    quick_gelu = {"quick_gelu": True} if (known | given).get("force_quick_gelu") else {}
    identity = {
        "model": name,
        "pretrained": pretrained,
        "config": open_clip.get_model_config(name) | quick_gelu,
        "preprocess": open_clip.get_model_preprocess_cfg(network),
        "weights_sha256": hash_weights(network.state_dict()),
    }
    return Clip(network=network, preprocess=preprocess, tokenize=tokenize, identity=identity)


def _create(name: str, pretrained: str, is_tag: bool, settings: dict[str, Any]) -> tuple[Any, Callable]:
    """Have open_clip make the network, with the weights in it, and its preprocessing."""
    if is_tag or not is_torchscript(Path(pretrained)):
        network, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained, **settings)
        return network, preprocess
    network, _, preprocess = open_clip.create_model_and_transforms(name, pretrained_hf=False, **settings)
    wanted, found = network.state_dict(), read_torchscript(Path(pretrained))
    network.load_state_dict({key: tensor for key, tensor in found.items() if key in wanted})
    return network, preprocess


def _is_at_hand(tag_config: dict[str, Any]) -> bool:
    """Whether the weights of a tag are in the cache of the Hugging Face Hub, or are to be sought there alone."""
    repository, _, file = (tag_config.get("hf_hub") or "").rpartition("/")
    if not repository or huggingface_hub.constants.HF_HUB_OFFLINE:
        return True
    names = [file, file.rpartition(".")[0] + ".safetensors"] if file else [HF_WEIGHTS_NAME, HF_SAFE_WEIGHTS_NAME]
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repository, each), str) for each in names)


@contextmanager
def _in_silence() -> Iterator[None]:
    """A failed download is logged a dozen times, retry by retry; the error that is raised says it once."""
    level = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _settings(name: str, tag: str) -> dict[str, Any]:
    """What open_clip has to be told to prepare images and choose activations as the checkpoint of a tag was trained;
    the activation it would take from the model alone."""
    tag_config, config = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name)
    quick_gelu = bool(tag_config.get("quick_gelu")) and not config.get("quick_gelu")
    return {f"image_{key}": tag_config.get(key) for key in PREPROCESSING} | {"force_quick_gelu": quick_gelu}


def _settings_of_file(name: str, path: Path, *, said: bool) -> dict[str, Any]:
    """The settings of the tag that a file is of; if that is not known, those of most of the model's tags, told with
    the flags for the others, unless the user has `said` any. None of a model of one's own, which has no tags."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    kinds = _kinds(name, tags)
    if len(kinds) > 1:
        digest = sha256(path)
        own = [tag for tag in tags if _is_of(open_clip.get_pretrained_cfg(name, tag), path, digest)]
        kinds = _kinds(name, own) or kinds
    if len(kinds) > 1 and not said:
        (usual, like), *others = kinds
        logging.getLogger(__name__).warning(
            f"{path}: taken to be as {len(like)} of {name}'s {len(tags)} tags are, such as {like[0]}; "
            + "; ".join(f"if it is of {', '.join(those)}, pass {_flags(its, usual)}" for its, those in others)
        )
    return kinds[0][0] if kinds else {}


def _kinds(name: str, tags: list[str]) -> list[tuple[dict[str, Any], list[str]]]:
    """Settings and the tags that have them, those of most tags first."""
    kinds: list[tuple[dict[str, Any], list[str]]] = []
    for tag in tags:
        settings = _settings(name, tag)
        same = next((those for its, those in kinds if its == settings), None)
        if same is None:
            kinds.append((settings, same := []))
        same.append(tag)
    return sorted(kinds, key=lambda kind: -len(kind[1]))


def _flags(settings: dict[str, Any], usual: dict[str, Any]) -> str:
    """The flags for settings that differ from the usual ones."""
    flags = []
    for key, value in settings.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags += [f"--{flag}" if value else f"--no-{flag}"] if value != usual[key] else []
        elif value != usual[key]:
            flags.append(f"--{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join(flags)


def _is_of(tag_config: dict[str, Any], path: Path, digest: str) -> bool:
    """Whether a file is the checkpoint of a tag: by its SHA-256, of which the tag's URL has a part or all, or by its
    folder in the Hugging Face cache or in a clone; by its name where the tag has neither."""
    hub: str = tag_config.get("hf_hub") or "/"
    organisation, repository, *_ = hub.split("/")
    if repository and {repository, f"models--{organisation}--{repository}"} & set(path.absolute().parts[:-1]):
        return True
    url: str = tag_config.get("url") or ""
    found = re.search(r"[0-9a-f]{64}|(?<=-)[0-9a-f]{8}(?=\.)", url)
    return digest.startswith(found[0]) if found else bool(url) and path.name == url.rpartition("/")[2]


def hash_weights(state: dict[str, Tensor]) -> str:
    """A SHA-256 of names, dtypes, shapes and values, on the CPU, as 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
