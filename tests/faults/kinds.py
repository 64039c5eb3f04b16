"""What users give this project to read, a small valid example of each, and what is right to make of a spoiled one.

Each function imports what its kind needs, because some of that takes seconds.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from src.data.keep_lists import KeepList, apply_keep_list, open_keep_list, save_keep_list
from src.data.pairs import (
    Pairs,
    Source,
    TestCaptions,
    embedding_dims,
    fingerprint,
    open_pairs,
    open_test_captions,
    read_source,
    save_pairs,
    save_test_captions,
)
from tests.faults.mutations import as_npy, encode, make_zip, odd_csv, odd_json, odd_lines, odd_npy, odd_npz, pick

Odd = Callable[[Generator, bytes, Path], bytes]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """prepare: writes valid files to a folder; target: the one that is spoiled; read: what the project makes of them;
    holds: asserts what is true of any result and, of a second one if that is not None, that it is the same; odd: makes
    well-formed but odd contents (the path is that of a file that only a payload creates); named: an error holds one of
    these."""

    prepare: Callable[[Path], Any]
    target: str
    read: Callable[[Path], Any]
    holds: Callable[[Any, Any], None]
    odd: Odd
    named: tuple[str, ...]


def of_text(change: Callable[[Generator, str], str]) -> Odd:
    return lambda rng, content, marker: encode(change(rng, content.decode()))


def sample_pairs(captions: int = 12, images: int = 5) -> Pairs:
    rng = np.random.default_rng(0)
    texts = ["A red star.", "", "two\nlines", "Käse", "日本語 🙂", 'says "no", twice', "NA", "12", "a", "b", "c", "d"]
    return Pairs(
        caption_ids=np.arange(captions)[::-1] * 3,
        caption_texts=np.array((texts * captions)[:captions], object),
        text_embeddings=rng.standard_normal((captions, 6)).astype(np.float32),
        image_of_caption=np.arange(captions, dtype=np.int32) % images,
        image_names=np.array([f"{i}.jpg" for i in range(images)], object),
        image_embeddings=rng.standard_normal((images, 9)).astype(np.float32),
        source=Path("train.npz"),
    )


# ------------------------------------------------------------------------------------------------- data in NPZ files


def captions_hold(captions: TestCaptions, right: TestCaptions | None) -> None:
    shape = (len(captions), captions.text_embeddings.shape[1])
    check(captions.caption_ids, (len(captions),), np.int64)
    assert len(set(captions.caption_ids.tolist())) == len(captions) > 0
    check(captions.caption_texts, (len(captions),), object)
    check(captions.text_embeddings, shape, np.float32)
    if isinstance(captions, Pairs):
        check(captions.image_of_caption, (len(captions),), np.int32)
        assert ((captions.image_of_caption >= 0) & (captions.image_of_caption < captions.num_images)).all()
        check(captions.image_names, (captions.num_images,), object)
        assert len(set(captions.image_names)) == captions.num_images
        check(captions.image_embeddings, (captions.num_images, captions.image_embeddings.shape[1]), np.float32)
    if right is not None:
        for field in fields(right):
            assert field.name == "source" or same(getattr(captions, field.name), getattr(right, field.name)), field.name


def check(array: np.ndarray, shape: tuple[int, ...], dtype: Any) -> None:
    """Its shape and dtype are right and it is text, or finite numbers."""
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    if dtype is object:
        assert all(type(text) is str for text in array)
        "".join(array).encode()
    else:
        assert np.isfinite(array).all()


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def train_npz() -> Kind:
    return Kind(
        prepare=lambda folder: save_pairs(sample_pairs(), folder / "train.npz"),
        target="train.npz",
        read=lambda folder: (open_pairs(folder / "train.npz"), embedding_dims(folder / "train.npz"))[0],
        holds=captions_hold,
        odd=odd_npz,
        named=("train.npz",),
    )


def train_npz_cached() -> Kind:
    def read(folder: Path) -> Pairs:
        first, second = (open_pairs(folder / "train.npz", cache=True) for _ in range(2))
        captions_hold(second, first)
        return second

    return replace(train_npz(), read=read)


def cache() -> Kind:
    """There is no checksum of the numbers, so damaged ones stay unseen."""

    def prepare(folder: Path) -> None:
        save_pairs(sample_pairs(), folder / "train.npz")
        open_pairs(folder / "train.npz", cache=True)

    def holds(pairs: Pairs, right: Pairs | None) -> None:
        expected = sample_pairs()
        for field in fields(expected):
            if field.name != "source":
                ours, theirs = getattr(pairs, field.name), getattr(expected, field.name)
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
                assert ours.dtype != object or all(type(text) is str for text in ours)

    return Kind(
        prepare=prepare,
        target="train.npz.cache",
        read=lambda folder: open_pairs(folder / "train.npz", cache=True),
        holds=holds,
        odd=odd_safetensors,
        named=(),  # whatever the cache is, the file beside it is read
    )


def odd_safetensors(rng: Generator, content: bytes, marker: Path) -> bytes:
    """A safetensors file with an odd header, or with a header of another length than it says."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    if rng.integers(4) == 0:
        claimed = pick(rng, (0, 1, length - 1, length + 1, 2**31, 2**62, 2**64 - 1))
        return claimed.to_bytes(8, "little") + header + data
    header = encode(odd_json(rng, header.decode()))
    return len(header).to_bytes(8, "little") + header + data


def test_npz() -> Kind:
    return Kind(
        prepare=lambda folder: save_test_captions(sample_pairs(), folder / "test.clean.npz"),
        target="test.clean.npz",
        read=lambda folder: open_test_captions(folder / "test.clean.npz"),
        holds=captions_hold,
        odd=odd_npz,
        named=("test.clean.npz",),
    )


def keep_list() -> Kind:
    pairs = sample_pairs()

    def prepare(folder: Path) -> None:
        save_pairs(pairs, folder / "train.npz")
        provenance = {
            "input_fingerprint": fingerprint(folder / "train.npz"),
            "higher_is_better": True,
            "input_npz": "t",
        }
        scores = np.linspace(0, 1, len(pairs)).astype(np.float32)
        made = KeepList(caption_ids=pairs.caption_ids, scores=scores, keep=scores > 0.3, provenance=provenance)
        save_keep_list(made, folder / "a.keep.npz")

    def read(folder: Path) -> tuple[KeepList, Pairs]:
        kept = apply_keep_list(replace(pairs, source=folder / "train.npz"), folder / "a.keep.npz")
        return open_keep_list(folder / "a.keep.npz"), kept

    def holds(result: tuple[KeepList, Pairs], right: tuple[KeepList, Pairs] | None) -> None:
        found, kept = result
        assert same(found.caption_ids, pairs.caption_ids)
        assert (found.scores.dtype, found.keep.dtype) == (np.float32, np.bool_)
        assert not np.isinf(found.scores).any()
        assert found.keep.view(np.uint8).max() <= 1
        assert same(kept.caption_ids, pairs.caption_ids[found.keep])
        assert isinstance(found.provenance["higher_is_better"], bool)
        json.dumps(found.provenance)
        if right is not None:
            assert same(found.scores, right[0].scores)
            assert same(found.keep, right[0].keep)
            assert found.provenance == right[0].provenance

    def odd(rng: Generator, content: bytes, marker: Path) -> bytes:
        if rng.integers(2):
            return odd_npz(rng, content, marker)
        import io
        import zipfile

        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        text = np.load(io.BytesIO(members["provenance.npy"])).item()
        members["provenance.npy"] = as_npy(np.array([odd_json(rng, text).encode(errors="replace").decode()]))
        return make_zip(rng, list(members.items()))

    return Kind(prepare=prepare, target="a.keep.npz", read=read, holds=holds, odd=odd, named=("a.keep.npz",))


def recorded_source() -> Kind:
    def prepare(folder: Path) -> None:
        save_pairs(sample_pairs(), folder / "whole.npz")
        source = Source(("whole.npz", "/nowhere/whole.npz"), fingerprint(folder / "whole.npz"))
        save_pairs(sample_pairs(8), folder / "filtered.npz", source=source)

    def read(folder: Path) -> Source | None:
        source = read_source(folder / "filtered.npz")
        if source:
            source.find()
        return source

    def holds(source: Source | None, right: Source | None) -> None:
        assert right is None or source == right
        if source is not None:
            assert all(type(text) is str for text in (*source.paths, source.fingerprint))

    named = ("filtered.npz",)
    return Kind(prepare=prepare, target="filtered.npz", read=read, holds=holds, odd=odd_npz, named=named)


# ------------------------------------------------------------------------------------------------- submissions, scores


def submission() -> Kind:
    from src.data.submissions import Submission, read_submission, write_submission

    pairs = sample_pairs()

    def holds(found: Submission, right: Submission | None) -> None:
        rows, width = found.embeddings.shape
        assert rows
        assert width
        check(found.caption_ids, (rows,), np.int64)
        check(found.embeddings, (rows, width), np.float32)
        assert len(set(found.caption_ids.tolist())) == rows

    return Kind(
        prepare=lambda folder: write_submission(folder / "s.csv", pairs.caption_ids, pairs.text_embeddings),
        target="s.csv",
        read=lambda folder: read_submission(folder / "s.csv"),
        holds=lambda found, right: holds(found, None),  # without a checksum another number is as good
        odd=of_text(odd_csv),
        named=("s.csv",),
    )


def scores() -> Kind:
    from src.filters.clip_scoring import open_scores

    def prepare(folder: Path) -> None:
        np.save(folder / "scores.npy", np.linspace(-1, 1, 12).astype(np.float32))

    def holds(result: tuple[np.ndarray, dict], right: Any) -> None:
        array, made = result
        assert (array.ndim, array.dtype) == (1, np.float32)
        assert not np.isinf(array).any()
        assert made == {}

    return Kind(
        prepare=prepare,
        target="scores.npy",
        read=lambda folder: open_scores(folder / "scores.npy", "abc"),
        holds=holds,
        odd=odd_npy,
        named=("scores.npy",),
    )


def scores_record() -> Kind:
    from src.filters.clip_scoring import open_scores

    def prepare(folder: Path) -> None:
        np.save(folder / "scores.npy", np.linspace(-1, 1, 12).astype(np.float32))
        (folder / "scores.json").write_text(json.dumps({"input_fingerprint": "abc", "arguments": {"model": "x"}}))

    def holds(result: tuple[np.ndarray, dict], right: Any) -> None:
        assert result[0].shape == (12,)
        assert result[1] == {} or result[1]["input_fingerprint"] == "abc"

    return Kind(
        prepare=prepare,
        target="scores.json",
        read=lambda folder: open_scores(folder / "scores.npy", "abc"),
        holds=holds,
        odd=of_text(odd_json),
        named=("scores.json",),
    )


def partial_scores() -> Kind:
    from src.filters.clip_scoring import _open_progress

    identity = {"input_fingerprint": "abc", "batches": (2, 8), "config": {"embed_dim": 4}}
    captions = [np.array([0, 2, 4]), np.array([1, 3]), np.array([5])]

    def prepare(folder: Path) -> None:
        lines = [{"batch": i, "scores": [0.25] * len(part)} for i, part in enumerate(captions)]
        text = "".join(json.dumps(line) + "\n" for line in (identity, *lines))
        (folder / "scores.partial.jsonl").write_text(text)

    def read(folder: Path) -> dict[int, list[float]]:
        return _open_progress(folder / "scores.partial.jsonl", identity, captions)

    def holds(finished: dict[int, list[float]], right: Any) -> None:
        for batch, values in finished.items():
            assert type(batch) is int
            assert 0 <= batch < len(captions)
            check(np.array(values, np.float32), (len(captions[batch]),), np.float32)

    named = ("scores.partial.jsonl",)
    return Kind(
        prepare=prepare, target="scores.partial.jsonl", read=read, holds=holds, odd=of_text(odd_lines), named=named
    )


# ---------------------------------------------------------------------------------------------------------- training


def recipe() -> Kind:
    from src.training.recipe import COMPACT, Recipe, load_recipe

    def holds(found: Recipe, right: Any) -> None:
        Recipe(**asdict(found))
        assert all(math.isfinite(value) for value in asdict(found).values() if isinstance(value, int | float))
        assert Path(found.name).name == found.name
        found.name.encode()

    return Kind(
        prepare=lambda folder: (folder / "recipe.json").write_text(json.dumps(asdict(COMPACT))),
        target="recipe.json",
        read=lambda folder: load_recipe(str(folder / "recipe.json")),
        holds=holds,
        odd=of_text(odd_json),
        named=("recipe.json",),
    )


def run_json() -> Kind:
    from src.training.recipe import COMPACT
    from src.training.runs import (
        DataRecord,
        FileRecord,
        Provenance,
        Results,
        RunRecord,
        read_run,
        recorded_runs,
        runs_by_submission,
        state_of,
        write_run,
    )

    record = RunRecord(
        run_name="a",
        status="finished",
        recipe=COMPACT,
        data=DataRecord(train_npz="train.npz", train_fingerprint="abc", train_captions=5),
        provenance=Provenance(device="cpu", precision="float32", threads=2, versions={"python": "3.11"}),
        results=Results(measures={"mrr": 0.5}, own_measures={"mrr": 0.4}, best_epoch=3, training_seconds=1.0),
        parameters=3,
        weights={"best_mrr.safetensors": "00"},
        submission=FileRecord("submission.csv", "00", ["odd"]),
    )

    def read(folder: Path) -> RunRecord | None:
        list(recorded_runs(folder))
        runs_by_submission(folder)
        state_of(folder / "a")
        return read_run(folder / "a")

    def holds(found: RunRecord | None, right: Any) -> None:
        assert found is not None
        assert {type(text) for text in (found.run_name, found.status, found.provenance.machine)} == {str}
        if found.results:
            assert isinstance(found.results.mrr, int | float)
            for measures in (found.results.measures, found.results.own_measures or {}):
                assert all(isinstance(value, int | float) for value in measures.values())
        assert all(isinstance(value, str) for value in found.data.identity.values())

    def prepare(folder: Path) -> None:
        (folder / "a").mkdir()
        write_run(folder / "a", record)

    return Kind(
        prepare=prepare, target="a/run.json", read=read, holds=holds, odd=of_text(odd_json), named=("a/run.json",)
    )


def weights() -> Kind:
    """There is no checksum in the file (run.json has one): damaged numbers stay unseen."""
    import torch

    from src.training.model import Translator, load_translator, save_translator

    def prepare(folder: Path) -> None:
        torch.manual_seed(0)
        translator = Translator(6, 9, 5)
        save_translator(translator.state_dict(), translator.dims, folder / "w.safetensors")

    def holds(found: Translator, right: Any) -> None:
        assert found.dims == {"text_dim": 6, "image_dim": 9, "hidden_dim": 5}
        assert not any(parameter.is_meta for parameter in found.parameters())
        assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
        assert found(torch.zeros(2, 6)).shape == (2, 9)

    return Kind(
        prepare=prepare,
        target="w.safetensors",
        read=lambda folder: load_translator(folder / "w.safetensors", of=sample_pairs()),
        holds=holds,
        odd=odd_safetensors,
        named=("w.safetensors",),
    )


KINDS: dict[str, Callable[[], Kind]] = {
    "train NPZ": train_npz,
    "train NPZ with a cache": train_npz_cached,
    "cache": cache,
    "test NPZ": test_npz,
    "keep-list": keep_list,
    "recorded source": recorded_source,
    "submission": submission,
    "scores": scores,
    "record of scores": scores_record,
    "partial scores": partial_scores,
    "recipe": recipe,
    "run.json": run_json,
    "weights": weights,
}
