"""Encoders of captions: any of sentence-transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import InputError
from src.encoding.hub import loading
from src.encoding.packages import require_package
from src.filters.clip_model import hash_weights
from src.training.machine import Machine


@dataclass(frozen=True, kw_only=True, eq=False)
class TextEncoder:
    """`identity` records its name, its steps, how many tokens of a caption it reads, and a hash of its weights."""

    network: Any  # a SentenceTransformer
    identity: dict[str, Any]

    def __str__(self) -> str:
        tokens, modules = self.identity["max_tokens"], ", ".join(self.identity["modules"])
        weights = f"weights {self.identity['weights_sha256'][:16]}"
        length = f"up to {tokens} tokens" if tokens else "any length"
        return f"{self.identity['encoder']}: {modules}, {length} ({weights})"

    def to(self, machine: Machine) -> None:
        self.network.to(machine.device)

    def embed(self, texts: list[str], machine: Machine, batch_size: int) -> np.ndarray:
        """B captions to (B, T) float32."""
        with machine.autocast():
            found = self.network.encode(texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu().numpy()


def load_text_encoder(name: str, flag: str = "--text-encoder") -> TextEncoder:
    """Open an encoder on the CPU, by its name on the Hub or its folder, as a flag gave it. Raises InputError."""
    what = f"{flag} {name}"
    library = require_package("sentence_transformers", "sentence-transformers", what)
    local = Path(name).exists()
    # a name without an organisation is one of theirs
    repository = None if local else name if "/" in name else f"sentence-transformers/{name}"
    with loading(what, repository):
        network = library.SentenceTransformer(name, device="cpu").eval()
    if not hasattr(network, "encode"):
        raise InputError(f"{what}: does not encode sentences")
    identity = {
        "encoder": name,
        "library": f"sentence-transformers {library.__version__}",
        "modules": [type(module).__name__ for module in network.children()],
        "max_tokens": getattr(network, "max_seq_length", None),
        "weights_sha256": hash_weights(network.state_dict()),
    }
    return TextEncoder(network=network, identity=identity)
