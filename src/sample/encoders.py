"""Two fixed, random encoders for the embedded sample: captions and pictures become vectors that share no space.

They see a caption's words and a picture's pixels, never the scene behind both. Were a linear map enough, the sample
could not tell a good translator from a poor one: much of a caption's vector changes its sign with the caption's tone,
and a picture's colours count together with its outlines. Shapes: N captions, M images, T text width, V image width.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from src.sample.scenes import paint, random_scene

TEXT_DIM, IMAGE_DIM = 1024, 1536
_WORD_DIM, _USUAL_TONE = 512, 0.22
_GRID = 48  # pictures are seen at 48 x 48 pixels
_COLOURS, _DIRECTIONS, _CORNERS = 40, 12, 48


def encode_captions(texts: Sequence[str]) -> np.ndarray:
    """Embed captions by their words, (N, T) float32; case and punctuation do not count, word order does.

    Every word is a hashed random vector, heard together with its neighbours. The sum over the caption is its content;
    the words also set its tone, close to -1 or 1: the sign in which most of the content is written down.
    """
    captions = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    vocabulary = {word: i for i, word in enumerate(sorted({word for words in captions for word in words}))}
    loudness = np.array([min(len(word), 5) / 5 for word in vocabulary], np.float32)  # "a" and "on" say less
    vectors = np.concatenate([_weights("word " + word, 1, _WORD_DIM) for word in vocabulary]) * loudness[:, None]
    vectors_before = 0.7 * vectors @ _weights("word before", _WORD_DIM, _WORD_DIM)
    vectors_after = 0.7 * vectors @ _weights("word after", _WORD_DIM, _WORD_DIM)
    tone_of_word = vectors @ _weights("tone", _WORD_DIM, 1)
    content = np.zeros((len(texts), _WORD_DIM), np.float32)
    tone = np.zeros((len(texts), 1), np.float32)
    for row, words in enumerate(captions):
        ids = np.array([vocabulary[word] for word in words], np.int64)
        heard = vectors[ids]
        heard[1:] += vectors_before[ids[:-1]]
        heard[:-1] += vectors_after[ids[1:]]
        content[row] = loudness[ids] @ np.tanh(1.5 * heard)
        tone[row] = tone_of_word[ids].sum() / np.sqrt(max(len(ids), 1))
    content /= np.sqrt((content**2).mean(axis=1, keepdims=True)) + 1e-6
    tone = np.tanh(3 * (tone - _USUAL_TONE))
    hidden = np.tanh(1.5 * content @ _weights("content", _WORD_DIM, TEXT_DIM))
    hidden[:, TEXT_DIM // 10 :] *= tone
    hidden += 0.5 * tone * _weights("tone's direction", 1, TEXT_DIM)
    return hidden @ _weights("text out", TEXT_DIM, TEXT_DIM) + 0.3 * _weights("text offset", 1, TEXT_DIM)


def encode_images(pixels: np.ndarray) -> np.ndarray:
    """Embed pictures (M, H, W, 3) uint8, H and W multiples of 48, as (M, V) float32.

    What stands out from the picture's median colour is described twice: which colours with which outlines (a red star
    is more than something red and a star), and which colours where. The background adds its colour and texture.
    """
    looks = np.concatenate([_look(pixels[i : i + 64]) for i in range(0, len(pixels), 64)])
    hidden = np.tanh((looks - _usual_look()) @ _weights("looks", looks.shape[1], IMAGE_DIM))
    return hidden @ _weights("image out", IMAGE_DIM, IMAGE_DIM) + 0.3 * _weights("image offset", 1, IMAGE_DIM)


@cache
def _usual_look() -> np.ndarray:
    """The mean look of 64 pictures: what an image encoder has learnt to take for granted."""
    rng = np.random.default_rng(0)
    return _look(np.stack([paint(random_scene(rng), rng) for _ in range(64)])).mean(axis=0)


def _look(pixels: np.ndarray) -> np.ndarray:
    """Describe a few pictures by histograms of colours, edge directions and texture, (M, their bins) float32."""
    seen = _cell_means(pixels.astype(np.float32), _GRID) / 255
    median = np.median(seen.reshape(len(seen), -1, 3), axis=1)[:, None, None]
    salient = np.clip((np.linalg.norm(seen - median, axis=-1, keepdims=True) - 0.2) / 0.3, 0, 1)
    anchors = (0.5 + 0.4 * _weights("colours", 1, _COLOURS * 3).reshape(-1, 3)).clip(0, 1)
    nearness = np.exp(-14 * ((seen[:, :, :, None] - anchors) ** 2).sum(-1))
    colours = nearness / nearness.sum(-1, keepdims=True)
    # Edge directions in every window, turned into random features that answer to some corners and curves.
    down, right = np.gradient(salient, axis=(1, 2))
    angles = np.arange(_DIRECTIONS, dtype=np.float32) * (2 * np.pi / _DIRECTIONS)
    edges = np.maximum(0, right * np.cos(angles) + down * np.sin(angles)) ** 2
    outlines = _windows(edges / (np.hypot(right, down) + 0.05))
    outlines = outlines.reshape(*outlines.shape[:3], -1)
    outlines /= np.linalg.norm(outlines, axis=-1, keepdims=True) + 0.1
    corners = np.maximum(0, 6 * outlines @ _weights("corners", outlines.shape[-1], _CORNERS) - 0.5)
    colours_there = _windows(colours * salient).mean((-1, -2))
    objects = np.einsum("mijc,mijk->mck", colours_there, corners, optimize=True)
    places = _cell_means(colours * salient, 3)
    background = (colours * (1 - salient)).mean((1, 2))
    neighbours = (seen[:, :-1, 1:], seen[:, :-1, :-1], seen[:, 1:, :-1])
    changes = np.stack([np.abs(seen[:, 1:, 1:] - neighbour).mean(-1) for neighbour in neighbours], axis=-1)
    texture = (changes * (1 - salient[:, 1:, 1:])).mean((1, 2))
    # Weighted so that objects count most; roots keep the big from drowning the small.
    parts = (12 * np.sqrt(objects), 6 * np.sqrt(places), 30 * np.sqrt(background), 720 * texture)
    return np.concatenate([part.reshape(len(seen), -1) for part in parts], axis=1)


def _windows(pixelwise: np.ndarray) -> np.ndarray:
    """Means over cells of 4 x 4 pixels, then windows of 3 x 3 cells: (M, 48, 48, C) to (M, 10, 10, C, 3, 3)."""
    return sliding_window_view(_cell_means(pixelwise, _GRID // 4), (3, 3), axis=(1, 2))


def _cell_means(pixelwise: np.ndarray, grid: int) -> np.ndarray:
    """Means over the cells of a grid: (M, H, W, C) to (M, grid, grid, C)."""
    m, height, width, channels = pixelwise.shape
    return pixelwise.reshape(m, grid, height // grid, grid, width // grid, channels).mean((2, 4))


def _weights(name: str, rows: int, columns: int) -> np.ndarray:
    """The random matrix of that name, (rows, columns) float32: always the same, and it keeps lengths about equal."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(key).standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))
