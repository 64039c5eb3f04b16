"""Open a CLIP of the open_clip library: a known model with a pretrained tag or a local checkpoint."""

import difflib
import hashlib
import logging
import pickle
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor

from src.common.files import InputError, read_json


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """`identity` records where it came from, its configuration, its preprocessing and a hash of its weights."""

    network: open_clip.CLIP  # or a relative of it, with encode_image and encode_text
    preprocess: Callable[[Image.Image], Tensor]  # to (3, S, S) float32
    tokenize: Callable[[list[str]], Tensor]  # B texts to (B, L) int64
    identity: dict[str, Any]


def load_clip(model: str, pretrained: str) -> Clip:
    """Open a CLIP on the CPU: `model` is a name that open_clip knows or the path of a JSON model configuration,
    `pretrained` a tag, downloaded once, or the path of a checkpoint (.safetensors, or .pt and .bin, from which only
    tensors are loaded). Raises InputError if there is no such model or its weights cannot be had."""
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
    logging.disable()  # a failed download is logged a dozen times, retry by retry; the error raised below says it once
    try:
        network, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained)
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
            reason = "not a checkpoint, or one that holds more than tensors, which is never loaded"
        raise InputError(f"--pretrained {pretrained}: cannot be loaded into {model} ({reason})") from None
    finally:
        logging.disable(logging.NOTSET)
    network.eval().requires_grad_(False)
    identity = {
        "model": name,
        "pretrained": pretrained,
        "config": open_clip.get_model_config(name),
        "preprocess": open_clip.get_model_preprocess_cfg(network),
        "weights_sha256": _hash(network.state_dict()),
    }
    return Clip(network=network, preprocess=preprocess, tokenize=tokenize, identity=identity)


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
