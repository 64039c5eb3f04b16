"""Encoders of images: any of timm, of transformers, or the image side of a CLIP of open_clip.

Shapes: B images, L tokens of a network, P of which are patches of the image; V image width.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from PIL import Image
from torch import Tensor, nn

from src.common.files import InputError, require_file
from src.encoding.hub import loading
from src.encoding.packages import require_package
from src.filters.clip_model import hash_weights, load_clip
from src.filters.loading import BLACK


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageEncoder:
    """`identity` records its name, how it prepares and pools, and a hash of its weights."""

    network: nn.Module
    prepare: Callable[[Image.Image], Tensor]  # to (3, H, W) float32
    embed: Callable[[Tensor], Tensor]  # (B, 3, H, W) to (B, V)
    identity: dict[str, Any]

    def __str__(self) -> str:
        pooling = "the mean of its patches" if self.identity["pooling"] == "patches" else "as it pools itself"
        pixels = "×".join(map(str, self.identity["pixels"]))
        return f"{self.identity['encoder']}, {pixels}, {pooling} (weights {self.identity['weights_sha256'][:16]})"


def load_image_encoder(name: str, weights: Path | None = None, pooling: str | None = None) -> ImageEncoder:
    """Open an encoder on the CPU by its library and its name there, as "timm:vit_giant_patch14_dinov2.lvd142m",
    "transformers:facebook/dinov2-giant", a folder for either, or "open_clip:ViT-B-32/laion2b_s34b_b79k"; with weights
    from a file for timm's and open_clip's.

    An embedding is the mean of the patches' tokens, where a network has such and `pooling` is not "own", else what the
    network itself makes of them. Raises InputError.
    """
    library, _, model = name.partition(":")
    if library not in _LIBRARIES or not model:
        raise InputError(f"--image-encoder {name}: expected timm:NAME, transformers:NAME or open_clip:MODEL/TAG")
    if weights:
        require_file(weights)
    network, prepare, embed, identity = _LIBRARIES[library](f"--image-encoder {name}", model, weights, pooling)
    network.eval().requires_grad_(False)
    pixels = list(prepare(BLACK).shape[1:])
    identity = {"encoder": name, **identity, "pixels": pixels, "weights_sha256": hash_weights(network.state_dict())}
    return ImageEncoder(network=network, prepare=prepare, embed=embed, identity=identity)


Parts = tuple[nn.Module, Callable[[Image.Image], Tensor], Callable[[Tensor], Tensor], dict[str, Any]]


def _timm(what: str, name: str, weights: Path | None, pooling: str | None) -> Parts:
    import timm

    local = name.startswith("local-dir:")
    known = timm.is_model(name.partition(".")[0])
    if not (known or local or name.startswith("hf-hub:")):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0))
        raise InputError(f"{what}: timm has no such model; near it: {near}")
    options: dict[str, Any] = {}
    if weights:
        options["pretrained_cfg_overlay"] = {"file": str(weights), "custom_load": False}
    repository = None
    if not weights and not local:
        of_model = timm.get_pretrained_cfg(name) if known else None
        repository = of_model.hf_hub_id if of_model else name.partition(":")[2] or None
        if known and not repository:
            raise InputError(f"{what}: timm has no weights of it; name them by --image-weights")
    with loading(what, repository):
        network: Any = timm.create_model(name, pretrained=True, **options)
        network.reset_classifier(0)  # not before: without a classifier timm takes any weights for the network's
        config = timm.data.resolve_model_data_config(network)
        prepare = timm.data.create_transform(**config, is_training=False)
    prefix = getattr(network, "num_prefix_tokens", None)  # of those before the patches', in a vision transformer
    pooling = _choose_pooling(what, pooling, prefix is not None)
    embed = network if pooling == "own" else partial(_timm_patches, network, prefix)
    return (
        network,
        prepare,
        embed,
        {
            "library": f"timm {timm.__version__}",
            "pooling": pooling,
            "preparation": {key: str(value) for key, value in config.items()},
        },
    )


def _timm_patches(network: Any, prefix: int | None, pixels: Tensor) -> Tensor:
    tokens: Tensor = network.forward_features(pixels)  # (B, L, V)
    return tokens[:, prefix:].mean(dim=1)


def _transformers(what: str, name: str, weights: Path | None, pooling: str | None) -> Parts:
    if weights:
        raise InputError(f"--image-weights {weights}: an encoder of transformers is a folder with weights, {what}")
    transformers = require_package("transformers", "transformers", what)
    with loading(what, None if Path(name).exists() else name):
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        network = transformers.AutoModel.from_pretrained(name, trust_remote_code=False).float()
    patch = getattr(network.config, "patch_size", None)
    joint = hasattr(network, "get_image_features")  # a CLIP or a relative of it
    pooling = _choose_pooling(what, pooling, isinstance(patch, int) and not joint)
    embed: Callable[[Tensor], Tensor]
    if pooling == "patches":
        embed = partial(_transformers_patches, network)
    else:
        embed = partial(_transformers_pooled, network.get_image_features if joint else network)
    preparation = {key: str(value) for key, value in processor.to_dict().items()}
    library = f"transformers {transformers.__version__}"
    identity = {"library": library, "pooling": pooling, "preparation": preparation}
    return network, partial(_process, processor), embed, identity


def _process(processor: Any, image: Image.Image) -> Tensor:
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


def _transformers_patches(network: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = network(pixel_values=pixels).last_hidden_state  # (B, L, V), the patches' last
    patch = network.config.patch_size
    patches = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    return tokens[:, -patches:].mean(dim=1)


def _transformers_pooled(network: Callable[..., Any], pixels: Tensor) -> Tensor:
    found = network(pixel_values=pixels)
    return found if isinstance(found, Tensor) else found.pooler_output.flatten(1)


def _open_clip(what: str, name: str, weights: Path | None, pooling: str | None) -> Parts:
    model, tag = (name, str(weights)) if weights else name.rpartition("/")[::2]
    if not model or not tag:
        raise InputError(f"{what}: expected open_clip:MODEL/TAG, or open_clip:MODEL with --image-weights")
    pooling = _choose_pooling(what, pooling, False)
    of_tag = {} if weights else open_clip.get_pretrained_cfg(model, tag)
    repository = "/".join(of_tag.get("hf_hub", "").split("/")[:2])
    with loading(what, repository or None):
        clip = load_clip(model, tag)
    identity = {
        "library": f"open_clip {open_clip.__version__}",
        "config": clip.identity["config"],
        "pooling": pooling,
        "preparation": clip.identity["preprocess"],
    }
    return clip.network, clip.preprocess, clip.network.encode_image, identity


def _choose_pooling(what: str, pooling: str | None, has_patches: bool) -> str:
    if pooling == "patches" and not has_patches:
        raise InputError(f"--image-pooling patches: {what} has no tokens of patches; leave it out, or say own")
    return pooling or ("patches" if has_patches else "own")


_LIBRARIES: dict[str, Callable[[str, str, Path | None, str | None], Parts]] = {
    "timm": _timm,
    "transformers": _transformers,
    "open_clip": _open_clip,
}
