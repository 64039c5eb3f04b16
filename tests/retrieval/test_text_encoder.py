"""Texts become embeddings like those of the captions, or it is said why not; by an encoder in the library's place."""

import sys
from types import ModuleType

import numpy as np
import pytest

from src.common.files import InputError
from src.retrieval.text_encoder import TextEncoder, encode_like


@pytest.fixture
def library(pairs, monkeypatch):
    """The library with one model, which makes the embeddings of the pairs: `library(change)` changes them."""

    def put(change):
        class SentenceTransformer:
            def __init__(self, name, device):
                if name != "the-model":
                    raise OSError(f"{name} is not\na model")

            def encode(self, texts, convert_to_numpy, show_progress_bar):
                known = dict(zip(pairs.caption_texts, pairs.text_embeddings, strict=True))
                return change(np.array([known.get(text, [len(text), 1, 0, 0, 0, 0]) for text in texts], np.float64))

        module = ModuleType("sentence_transformers")
        module.SentenceTransformer = SentenceTransformer
        monkeypatch.setitem(sys.modules, "sentence_transformers", module)

    # Captions of one text have one embedding here.
    texts, first = np.unique(pairs.caption_texts, return_inverse=True)
    pairs.text_embeddings[:] = np.random.default_rng(0).standard_normal((len(texts), 6)).astype(np.float32)[first]
    return put


def test_texts_are_encoded_and_brought_to_the_captions_length(library, pairs):
    library(lambda embeddings: embeddings)
    embeddings = encode_like(pairs, ["abc", "de"], TextEncoder("the-model"))
    np.testing.assert_allclose(embeddings, [[3, 1, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0]], rtol=1e-6)
    assert embeddings.dtype == np.float32
    library(lambda embeddings: embeddings / 7)
    np.testing.assert_allclose(encode_like(pairs, ["abc", "de"], TextEncoder("the-model")), embeddings, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda embeddings: embeddings[:, :5], "5 wide; those of the captions .*, 6"),
        (lambda embeddings: embeddings[:, ::-1], "mean cosine of .* another encoder"),
        (lambda embeddings: embeddings * 0, "mean cosine of 0.00"),
        (lambda embeddings: embeddings * np.nan, "NaN or infinite"),
    ],
)
def test_another_encoder_is_refused(library, pairs, change, fragment):
    library(change)
    with pytest.raises(InputError, match=f"^the-model: .*{fragment}"):
        encode_like(pairs, ["abc"], TextEncoder("the-model"))


def test_no_library_and_no_model_are_one_line_each(library, monkeypatch):
    library(lambda embeddings: embeddings)
    with pytest.raises(InputError, match=r"^another: no text encoder could be loaded \(another is not a model\)"):
        TextEncoder("another")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"`pip install sentence-transformers`"):
        TextEncoder("the-model")
