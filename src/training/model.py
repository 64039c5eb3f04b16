"""Translators from caption space to image space, residual MLPs and a ridge regression, and their file.

Shapes: B captions, T text width, H hidden width, V image width, L landmarks.
"""

import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.files import InputError, atomic_path, require_file
from src.data.pairs import Pairs


class Dropout(nn.Dropout):
    """Dropout whose mask is drawn four elements at a time on CPU, where one at a time was a quarter of a step.

    The probability is rounded to a multiple of 1/65536. torch's generator seeds a faster one (SFC64 of PractRand).
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        draws = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(-(-input.numel() // 4))
        lanes = torch.from_numpy(draws.view(np.int16)[: input.numel()]).view(input.shape)
        kept = torch.ge(lanes, round(self.p * 2**16) - 2**15, out=torch.empty_like(input, requires_grad=False))
        return input * kept.mul_(1 / (1 - self.p))


def _layer(width_in: int, width_out: int, dropout: float, norm: bool) -> list[nn.Module]:
    return [nn.Linear(width_in, width_out), *[nn.LayerNorm(width_out)] * norm, nn.GELU(), Dropout(dropout)]


def _fixed(*shape: int) -> nn.Parameter:
    """What a closed form finds, and no gradient."""
    return nn.Parameter(torch.zeros(shape), requires_grad=False)


class Translator(nn.Module):
    """(B, T) caption embeddings → (B, V) predicted image embeddings. `dims` are the arguments that make its like."""

    dims: dict[str, int]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class ResidualMLP(Translator):
    """Linear(T→H), LayerNorm, GELU, Dropout; a residual branch of `depth` - 1 such layers at width H; Linear(H→V).

    Without `norm` there is no LayerNorm.
    """

    def __init__(
        self, text_dim: int, image_dim: int, hidden_dim: int, dropout: float = 0.0, depth: int = 3, norm: bool = True
    ) -> None:
        super().__init__()
        self.dims = {"text_dim": text_dim, "image_dim": image_dim, "hidden_dim": hidden_dim}
        self.dims |= {"depth": depth, "norm": int(norm)}
        self.stem = nn.Sequential(*_layer(text_dim, hidden_dim, dropout, norm))
        branch = [_layer(hidden_dim, hidden_dim, dropout, norm) for _ in range(depth - 1)]
        self.branch = nn.Sequential(*chain(*branch))
        self.head = nn.Linear(hidden_dim, image_dim)

    def forward(self, text_BT: Tensor) -> Tensor:
        hidden_BH = self.stem(text_BT)
        return self.head(hidden_BH + self.branch(hidden_BH) if self.branch else hidden_BH)


class RidgeMap(Translator):
    """A linear map of unit vectors or, with L landmarks, of their Gaussian kernel exp(-gamma |x - landmark|²).

    The unit vectors x are of captions whose mean is removed and whose covariance is evened out by a (T, T) matrix.
    src.training.closed_form finds it all.
    """

    def __init__(self, text_dim: int, image_dim: int, landmarks: int) -> None:
        super().__init__()
        self.dims = {"text_dim": text_dim, "image_dim": image_dim, "landmarks": landmarks}
        self.center = _fixed(text_dim)
        self.evening = _fixed(text_dim, text_dim)
        self.landmarks = _fixed(landmarks, text_dim)
        self.gamma = _fixed()
        self.weight = _fixed(landmarks or text_dim, image_dim)

    def unit_vectors(self, text_BT: Tensor) -> Tensor:
        """(B, T), of unit length."""
        return F.normalize(F.normalize(text_BT - self.center, dim=1) @ self.evening, dim=1)

    def features(self, unit_BT: Tensor) -> Tensor:
        """(B, L) kernels of unit vectors, these themselves if there are no landmarks."""
        if not self.dims["landmarks"]:
            return unit_BT
        return ((unit_BT @ self.landmarks.T - 1) * (2 * self.gamma)).exp_()

    def forward(self, text_BT: Tensor) -> Tensor:
        return self.features(self.unit_vectors(text_BT)) @ self.weight


class Committee(Translator):
    """Several residual MLPs of one kind, each trained by its own loss, that predict the mean of their unit vectors: a
    deep ensemble (Lakshminarayanan, Pritzel & Blundell 2017) in one translator. With `landmarks` a ridge regression has
    its share in the prediction beside them, 0 … 1."""

    def __init__(self, copies: int, *mlp: Any, landmarks: int = 0, **mlp_by_name: Any) -> None:
        super().__init__()
        members = [ResidualMLP(*mlp, **mlp_by_name) for _ in range(copies)]
        self.members = nn.ModuleList(members)
        self.dims = {"copies": copies, **members[0].dims, "landmarks": landmarks}
        self.ridge = RidgeMap(self.dims["text_dim"], self.dims["image_dim"], landmarks) if landmarks else None
        self.ridge_share = _fixed()

    def forward(self, text_BT: Tensor) -> Tensor:
        mean_BV = torch.stack([F.normalize(member(text_BT), dim=1) for member in self.members]).mean(dim=0)
        if self.ridge is None:
            return mean_BV
        mlps_BV, ridge_BV = F.normalize(mean_BV, dim=1), F.normalize(self.ridge(text_BT), dim=1)
        return (1 - self.ridge_share) * mlps_BV + self.ridge_share * ridge_BV


def save_translator(weights: dict[str, Tensor], dims: dict[str, int], path: str | Path) -> None:
    """Write a translator's state dict as safetensors, its dimensions in the header; whole or not at all."""
    with atomic_path(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(contiguous, temporary, metadata={"translator": json.dumps(dims)})


def _check_dims(dims: dict[str, Any], tensors: int) -> None:
    """Raises ValueError if they are no dimensions, or those of more layers than a file of so many `tensors` can have:
    to build them would take any time and memory."""
    least = {"norm": 0, "landmarks": 0}
    if not all(type(value) is int and value >= least.get(name, 1) for name, value in dims.items()):
        raise ValueError("a dimension is not a whole number, or too small")
    if math.prod(dims.get(name) or 1 for name in ("copies", "depth", "norm")) > tensors:
        raise ValueError("its dimensions are of more layers than it has tensors")


def load_translator(path: str | Path, device: torch.device | str = "cpu", *, of: Pairs | None = None) -> Translator:
    """Load a translator in evaluation mode. Raises InputError if the file is not one that this project wrote, or if it
    does not translate between the widths `of` those pairs."""
    path = require_file(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            dims = dict(json.loads((file.metadata() or {})["translator"]))
            names = file.keys()
            _check_dims(dims, len(names))
            # Copies: the file's own tensors are the file, mapped into memory.
            weights = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in names}
        with torch.device("meta"):  # the file has the weights: no memory is taken, no random numbers are drawn for them
            kinds = {"copies": Committee, "landmarks": RidgeMap}
            translator = next((kinds[name] for name in kinds if name in dims), ResidualMLP)(**dims)
        translator.load_state_dict(weights, assign=True)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a translator's weights as train_mrr.py writes them ({reason})") from None
    if of is not None:
        ours = dims["text_dim"], dims["image_dim"]
        wanted = of.text_embeddings.shape[1], of.image_embeddings.shape[1]
        if ours != wanted:
            raise InputError(f"{path}: translates widths {ours}; those of {of.source} are {wanted}")
    return translator.eval()


@torch.no_grad()
def translate(translator: Translator, text_NT: Tensor, chunk_size: int = 8192) -> Tensor:
    """Predict in float32 and evaluation mode, in chunks. (N, T) on any device → (N, V) on the translator's device."""
    device = next(translator.parameters()).device
    was_training = translator.training
    translator.eval()
    chunks = [translator(chunk.to(device).float()) for chunk in text_NT.split(chunk_size)]
    translator.train(was_training)
    return torch.cat(chunks)
