"""The encoder that makes embeddings of texts, by the library sentence-transformers, which need not be installed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.common.files import InputError
from src.data.pairs import Pairs

TEXT_ENCODER = "sentence-transformers/all-roberta-large-v1"  # RoBERTa-large, 1024 wide, as the challenge's
PROBES = 16  # captions of the pairs that tell whether an encoder is the one that made their embeddings
SAME_ENCODER = 0.9  # the least mean cosine; other precisions and versions of one encoder stay above 0.99


class TextEncoder:
    """A model of sentence-transformers, by its name on the Hugging Face Hub or its folder. Code that comes with a model
    is never executed."""

    def __init__(self, name: str = TEXT_ENCODER, device: str = "cpu") -> None:
        """Raises InputError if the library or the model is not there."""
        self.name = name
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            if error.name != "sentence_transformers":
                raise
            package = "sentence-transformers, which is not installed"
            raise InputError(f"texts are encoded by {package}: `pip install sentence-transformers`") from None
        try:
            self._model: Any = SentenceTransformer(name, device=device)
        except (OSError, ValueError, RuntimeError, KeyError) as error:  # what the library raises for what is no model
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{name}: no text encoder could be loaded ({reason})") from None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, T) float32. Raises InputError if a number is not finite."""
        vectors = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        embeddings = np.asarray(vectors, np.float32)
        if not np.isfinite(embeddings).all():
            raise InputError(f"{self.name}: its embeddings hold NaN or infinite numbers")
        return embeddings


def encode_like(pairs: Pairs, texts: Sequence[str], encoder: TextEncoder) -> np.ndarray:
    """Texts as embeddings like those of the captions in `pairs`, (n, T) float32, brought to their length. Raises
    InputError if the encoder gives some of these captions another width or direction: it is another encoder then."""
    probes = np.unique(np.linspace(0, len(pairs) - 1, PROBES).astype(int))
    expected, encoded = pairs.text_embeddings[probes], encoder.encode([*pairs.caption_texts[probes], *texts])
    if encoded.shape[1] != expected.shape[1]:
        widths = f"its embeddings are {encoded.shape[1]} wide; those of the captions in {pairs.source}"
        raise InputError(f"{encoder.name}: {widths}, which the translator reads, {expected.shape[1]}")
    found, vectors = encoded[: len(probes)], encoded[len(probes) :]
    lengths, expected_lengths = (np.linalg.norm(each, axis=1) for each in (found, expected))
    products = np.maximum(lengths * expected_lengths, np.finfo(np.float32).tiny)
    cosine = float(((found * expected).sum(axis=1) / products).mean())
    if cosine < SAME_ENCODER:
        reason = f"its embeddings of {len(probes)} of the captions have a mean cosine of {cosine:.2f}"
        raise InputError(f"{encoder.name}: {reason} to those in {pairs.source}, which another encoder made")
    return vectors * (expected_lengths.mean() / lengths.mean())
