"""Texts become embeddings like those of the captions, or it is said why not."""

import numpy as np
import pytest

from src.common.files import InputError
from src.retrieval.text_encoder import encode_like
from tests.training.conftest import MACHINE


@pytest.fixture
def encoder(pairs):
    """The encoder that made the embeddings of the pairs: `encoder(change)` gives them changed."""
    # Captions of one text have one embedding here.
    texts, first = np.unique(pairs.caption_texts, return_inverse=True)
    pairs.text_embeddings[:] = np.random.default_rng(0).standard_normal((len(texts), 6)).astype(np.float32)[first]
    known = dict(zip(pairs.caption_texts, pairs.text_embeddings, strict=True))

    class Encoder:
        identity = {"encoder": "the-model"}  # noqa: RUF012

        def __init__(self, change):
            self.change = change

        def to(self, machine):
            assert machine is MACHINE

        def embed(self, texts, machine, batch_size):
            found = np.array([known.get(text, [len(text), 1, 0, 0, 0, 0]) for text in texts], np.float32)
            return self.change(found)

    return Encoder


def test_texts_are_encoded_and_brought_to_the_captions_length(encoder, pairs):
    embeddings = encode_like(pairs, ["abc", "de"], encoder(lambda embeddings: embeddings), MACHINE)
    np.testing.assert_allclose(embeddings, [[3, 1, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0]], rtol=1e-6)
    assert embeddings.dtype == np.float32
    shorter = encode_like(pairs, ["abc", "de"], encoder(lambda embeddings: embeddings / 7), MACHINE)
    np.testing.assert_allclose(shorter, embeddings, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda embeddings: embeddings[:, :5], "5 wide; those of the captions .*, 6"),
        (lambda embeddings: embeddings[:, ::-1], "mean cosine of .* another encoder"),
        (lambda embeddings: embeddings * 0, "mean cosine of 0.00"),
        (lambda embeddings: embeddings * np.nan, "NaN or infinite"),
    ],
)
def test_another_encoder_is_refused(encoder, pairs, change, fragment):
    with pytest.raises(InputError, match=f"^the-model: .*{fragment}"):
        encode_like(pairs, ["abc"], encoder(change), MACHINE)
