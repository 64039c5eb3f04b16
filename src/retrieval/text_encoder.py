"""Texts as embeddings like those of captions, by the encoder that made these."""

from collections.abc import Sequence

import numpy as np

from src.common.files import InputError
from src.data.pairs import Pairs
from src.encoding.text_encoder import TextEncoder
from src.training.machine import Machine

PROBES = 16  # captions of the pairs that tell whether an encoder is the one that made their embeddings
SAME_ENCODER = 0.9  # the least mean cosine; other precisions and versions of one encoder stay above 0.99
TEXTS_AT_ONCE = 64


def encode_like(pairs: Pairs, texts: Sequence[str], encoder: TextEncoder, machine: Machine) -> np.ndarray:
    """Texts as embeddings like those of the captions in `pairs`, (n, T) float32, brought to their length. Raises
    InputError if the encoder gives some of these captions another width or direction: it is another encoder then."""
    probes = np.unique(np.linspace(0, len(pairs) - 1, PROBES).astype(int))
    name, expected = encoder.identity["encoder"], pairs.text_embeddings[probes]
    encoder.to(machine)
    encoded = encoder.embed([*pairs.caption_texts[probes], *texts], machine, TEXTS_AT_ONCE)
    if not np.isfinite(encoded).all():
        raise InputError(f"{name}: its embeddings hold NaN or infinite numbers")
    if encoded.shape[1] != expected.shape[1]:
        widths = f"its embeddings are {encoded.shape[1]} wide; those of the captions in {pairs.source}"
        raise InputError(f"{name}: {widths}, which the translator reads, {expected.shape[1]}")
    found, vectors = encoded[: len(probes)], encoded[len(probes) :]
    lengths, expected_lengths = (np.linalg.norm(each, axis=1) for each in (found, expected))
    products = np.maximum(lengths * expected_lengths, np.finfo(np.float32).tiny)
    cosine = float(((found * expected).sum(axis=1) / products).mean())
    if cosine < SAME_ENCODER:
        reason = f"its embeddings of {len(probes)} of the captions have a mean cosine of {cosine:.2f}"
        raise InputError(f"{name}: {reason} to those in {pairs.source}, which another encoder made")
    return vectors * (expected_lengths.mean() / lengths.mean())
