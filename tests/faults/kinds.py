"""What users give this project to read, a small valid example of each, and what is right to make of a spoiled one.

Each function imports what its kind needs, because some of that takes seconds.
"""

import contextlib
import io
import json
import math
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.random import Generator

from src.common.files import InputError
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
from tests.faults.mutations import (
    Payload,
    as_npy,
    damage,
    encode,
    keys,
    make_zip,
    nodes,
    odd_csv,
    odd_json,
    odd_lines,
    odd_npy,
    odd_npz,
    odd_zip_fields,
    payload_pickle,
    pick,
    unzip,
)

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
        members = dict(unzip(content))
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
        open_pairs(folder / "filtered.npz")  # as always before
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

    def read(folder: Path) -> dict[int, dict[str, Any]]:
        return _open_progress(folder / "scores.partial.jsonl", identity, captions)

    def holds(finished: dict[int, dict[str, Any]], right: Any) -> None:
        for batch, record in finished.items():
            assert type(batch) is int
            assert 0 <= batch < len(captions)
            check(np.array(record["scores"], np.float32), (len(captions[batch]),), np.float32)

    named = ("scores.partial.jsonl",)
    return Kind(
        prepare=prepare, target="scores.partial.jsonl", read=read, holds=holds, odd=of_text(odd_lines), named=named
    )


# ---------------------------------------------------------------------------------------------------------- training


def recipe() -> Kind:
    from src.training.recipe import STRONG, Recipe, load_recipe

    def holds(found: Recipe, right: Any) -> None:
        Recipe(**asdict(found))
        assert all(math.isfinite(value) for value in asdict(found).values() if isinstance(value, int | float))
        assert Path(found.name).name == found.name
        found.name.encode()

    return Kind(
        prepare=lambda folder: (folder / "recipe.json").write_text(json.dumps(asdict(STRONG))),
        target="recipe.json",
        read=lambda folder: load_recipe(str(folder / "recipe.json")),
        holds=holds,
        odd=of_text(odd_json),
        named=("recipe.json",),
    )


def run_json() -> Kind:
    from src.training.recipe import STRONG
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
        recipe=STRONG,
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


def weights(**committee: int) -> Kind:
    """There is no checksum in the file (run.json has one): damaged numbers stay unseen."""
    import torch
    from safetensors.torch import save

    from src.training.model import Committee, ResidualMLP, Translator, load_translator, save_translator

    torch.manual_seed(0)
    dims = {"text_dim": 6, "image_dim": 9, "hidden_dim": 5}
    translator = Committee(**committee, **dims) if committee else ResidualMLP(**dims)

    def holds(found: Translator, right: Any) -> None:
        assert found.dims == translator.dims
        assert not any(parameter.is_meta for parameter in found.parameters())
        assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
        assert found(torch.zeros(2, 6)).shape == (2, 9)

    def odd(rng: Generator, content: bytes, marker: Path) -> bytes:
        if rng.integers(2):
            return odd_safetensors(rng, content, marker)
        return save(translator.state_dict(), {"translator": odd_json(rng, json.dumps(translator.dims))})

    return Kind(
        prepare=lambda folder: save_translator(translator.state_dict(), translator.dims, folder / "w.safetensors"),
        target="w.safetensors",
        read=lambda folder: load_translator(folder / "w.safetensors", of=sample_pairs()),
        holds=holds,
        odd=odd,
        named=("w.safetensors",),
    )


def checkpoint(name: str) -> Kind:
    """Of a training that is validated or, by its name, of one on all images."""
    import torch

    from src.training.checkpoint import Checkpoint
    from src.training.fit import fit, refit
    from src.training.inputs import OnDevice, Split
    from src.training.machine import Machine
    from src.training.model import Translator
    from src.training.recipe import BASELINE
    from src.training.runs import LAST

    machine = Machine(torch.device("cpu"))
    part = OnDevice(sample_pairs(), machine.device).part(np.ones(5, bool))
    recipe = replace(BASELINE, hidden_dim=5, epochs=3, batch_size=8)

    class Stop(Exception):
        """Ends a training after two epochs."""

    def train(folder: Path, resume: bool = False) -> Translator:
        options: dict[str, Any] = {"machine": machine, "resume": resume, "bar": {"disable": True}}
        if name != LAST:
            return refit(recipe, part, recipe.epochs, folder, **options)
        found = fit(recipe, Split(part, part), folder, **options)
        assert len(found.history) == 3
        for row in found.history:
            assert all(isinstance(value, int | float) for value in row.values())
            assert math.isfinite(row["mrr"])
        assert found.best in found.history
        return found.translator

    def prepare(folder: Path) -> None:
        save_if_due = Checkpoint.save_if_due

        def save_and_stop(checkpoint: Checkpoint) -> None:
            checkpoint.next_save = 0
            save_if_due(checkpoint)
            if len(checkpoint.history) == 2:
                raise Stop

        with contextlib.suppress(Stop), patch.object(Checkpoint, "save_if_due", save_and_stop):
            train(folder)

    def read(folder: Path) -> Translator:
        try:
            return train(folder, resume=True)
        except InputError as error:
            if "training diverged" in str(error):  # numbers have no other check than the archive's checksums
                raise InputError(f"{name}: {error}") from None
            raise

    def holds(found: Translator, right: Translator | None) -> None:
        if right is not None:
            ours, theirs = found.state_dict(), right.state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def odd(rng: Generator, content: bytes, marker: Path) -> bytes:
        file = io.BytesIO()
        action = rng.integers(5)
        if action == 0:
            return payload_pickle(marker)
        if action == 1:
            members = unzip(content)
            at = int(rng.integers(len(members)))
            name, member = members[at]
            members[at] = (name, damage(rng, member)[1] if member and rng.integers(2) else payload_pickle(marker))
            return make_zip(rng, members, stored=True)
        state = [torch.load(io.BytesIO(content), weights_only=True)]
        if action == 2:
            state[0]["history"] = Payload(marker)
        else:
            place, key = pick(rng, [(node, key) for node in nodes(state) for key in keys(node)])
            numbers = torch.full((3, 2), math.nan), torch.zeros(5, dtype=torch.int64), torch.zeros(5), torch.zeros(0)
            values = (None, "x", -1, 0, 1, 2**70, 10**400, math.nan, math.inf, [], {}, [[]], {"": None}, True, *numbers)
            if rng.integers(4) == 0 and isinstance(place, dict):
                del place[key]
            else:
                place[key] = pick(rng, values)
        torch.save(state[0], file)
        return file.getvalue()

    return Kind(prepare=prepare, target=name, read=read, holds=holds, odd=odd, named=(name,))


def ranks() -> Kind:
    import pandas as pd
    import torch

    from src.filters.ranks import find_ranks, rank_captions, save_ranks
    from src.training.inputs import OnDevice
    from src.training.model import ResidualMLP

    pairs, identity = sample_pairs(), {"input_fingerprint": "abc"}

    def prepare(folder: Path) -> None:
        torch.manual_seed(0)
        translator = ResidualMLP(6, 9, 5).eval()
        table = rank_captions(translator, OnDevice(pairs, torch.device("cpu")), np.arange(len(pairs)))
        save_ranks(folder / "ranks.csv", table, identity)

    def holds(found: tuple[pd.DataFrame, dict] | None, right: Any) -> None:
        assert found is not None
        table = found[0]
        assert table.caption_id.tolist() == pairs.caption_ids.tolist()
        assert table.image.tolist() == pairs.image_names[pairs.image_of_caption].tolist()
        assert table["rank"].between(1, pairs.num_images).all()
        for place in range(1, 6):
            assert table[f"preferred_{place}"].isin(pairs.image_names).all()
            assert np.isfinite(table[f"preferred_score_{place}"]).all()

    return Kind(
        prepare=prepare,
        target="ranks.csv",
        read=lambda folder: find_ranks(folder / "ranks.csv", pairs, identity),
        holds=holds,
        odd=of_text(odd_csv),
        named=("ranks.csv",),
    )


def decisions() -> Kind:
    from src.filters.decisions import DROP, KEEP, ReviewDecisions

    pairs = sample_pairs()

    def of(folder: Path) -> ReviewDecisions:
        return ReviewDecisions(folder / "review.csv", pairs, "abc")

    def prepare(folder: Path) -> None:
        for caption in range(6):
            of(folder).decide(caption * 3, (KEEP, DROP)[caption % 2])

    def read(folder: Path) -> dict[int, str]:
        of(folder).apply(np.ones(len(pairs), bool))
        of(folder).decide(33, KEEP)
        of(folder).decide(33, None)
        return of(folder).read()

    def holds(found: dict[int, str], right: Any) -> None:
        assert found.keys() <= set(pairs.caption_ids.tolist())
        assert set(found.values()) <= {KEEP, DROP}

    return Kind(
        prepare=prepare, target="review.csv", read=read, holds=holds, odd=of_text(odd_csv), named=("review.csv",)
    )


def journal() -> Kind:
    from optuna.pruners import NopPruner

    from src.search.space import Space
    from src.search.store import SearchStore, ranked
    from src.training.recipe import BASELINE
    from src.training.runs import State

    space = Space.of(BASELINE, {"lr": [1e-3, 2e-3, 3e-3], "dropout": [0.0, 0.1]})

    def store_in(folder: Path) -> SearchStore:
        options: dict[str, Any] = {"data": {"train_fingerprint": "abc"}, "sampler": "random", "seed": 0, "keep": 1}
        where = {"folder": folder / "search", "results": folder / "results.csv"}
        return SearchStore(**where, space=space, pruner=NopPruner(), **options)

    def prepare(folder: Path) -> None:
        store = store_in(folder)
        for mrr in (0.5, 0.25):
            trial = store.claim(3)
            assert trial is not None
            store.report(trial, 1, mrr)
            store.end(trial, State.FINISHED, {"mrr": mrr})
        store.claim(3)
        (folder / "results.csv").unlink()

    def read(folder: Path) -> Any:
        store = store_in(folder)
        trial = store.claim(4)
        if trial is not None:
            space.recipe(trial.params)
            store.report(trial, 1, 0.1)
        return ranked(store.rows())

    def holds(rows: list[dict[str, Any]], right: Any) -> None:
        assert len(rows) <= 3
        assert all(isinstance(row["mrr"], int | float) and isinstance(row["trial"], int) for row in rows)

    return Kind(
        prepare=prepare,
        target="search/journal.log",
        read=read,
        holds=holds,
        odd=of_text(odd_lines),
        named=("search/journal.log", "search: holds"),
    )


# ----------------------------------------------------------------------------------------------- pictures and archives

PICTURES = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")


def pictures(format: str) -> Kind:
    from PIL import Image

    from src.filters.pictures import ImageFolder

    def prepare(folder: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(noise).save(folder / "picture", format)

    def read(folder: Path) -> Image.Image | None:
        images = ImageFolder(folder)
        images.distinct(["picture"])
        try:
            return images.read("picture")
        except InputError as error:  # who asks for a picture names it
            raise InputError(f"picture: {error}" if str(error) else "") from None

    def holds(found: Image.Image, right: Any) -> None:
        assert found.mode == "RGB"
        found.resize((4, 4))

    def odd(rng: Generator, content: bytes, marker: Path) -> bytes:
        """Dimensions, lengths and offsets of any size, where formats have them; in PNG with checksums that hold."""
        changed, size = bytearray(content), int(pick(rng, (2, 4)))
        at = int(rng.integers(min(len(content), 64)))
        big = pick(rng, (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\x40\0", b"\0\x40\0\0", bytes(4)))
        changed[at : at + size] = big[-size:]
        if format == "PNG":
            at = int(pick(rng, (16, 20)))
            changed[at : at + 4] = big
            changed[29:33] = zlib.crc32(changed[12:29]).to_bytes(4, "big")
        return bytes(changed)

    return Kind(prepare=prepare, target="picture", read=read, holds=holds, odd=odd, named=("picture",))


def challenge_zip() -> Kind:
    from src.sample.prepare import unpack_challenge

    def npz(save: Callable, value: Any, name: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            save(value, Path(folder, name))
            return Path(folder, name).read_bytes()

    members = [
        ("x/train/train.npz", npz(save_pairs, sample_pairs(), "train.npz")),
        ("x/train/Images/0.jpg", b"picture"),
        ("x/test/test.clean.npz", npz(save_test_captions, sample_pairs(), "test.clean.npz")),
        ("inner.zip", make_zip(np.random.default_rng(0), [("a.txt", b"text" * 99)])),
    ]

    def read(folder: Path) -> dict[str, bytes]:
        unpack_challenge(folder / "data", [folder / "challenge.zip"], "")
        files = ("data/train/train.npz", "data/test/test.clean.npz")
        return {name: (folder / name).read_bytes() for name in files}

    def holds(found: dict[str, bytes], right: dict[str, bytes] | None) -> None:
        assert all(found.values())
        assert right is None or found == right

    def odd(rng: Generator, content: bytes, marker: Path) -> bytes:
        changed = list(members)
        at = int(rng.integers(len(changed)))
        name, member = changed[at]
        names = (
            f"../{name}",
            f"/{name}",
            "../" * 9 + str(marker),
            str(marker),
            "a/" * 300,
            "n" * 300,
            "x",
            "x/train",
            "",
        )
        names += (
            "\0",
            ".",
            "..",
            "x/train/train.npz/a",
            "Images/train.npz",
            "train.npz",
            "b/train.npz",
            "x/",
            "é\udc80",
        )
        action = rng.integers(6)
        if action == 0:
            return odd_zip_fields(rng, make_zip(rng, changed))
        if action == 1:
            del changed[at]
        elif action == 2:
            changed.append((pick(rng, names), pick(rng, (member, b"", b"x"))))
        elif action == 3:
            changed[at] = (name, damage(rng, member)[1])
        elif action == 4 and rng.integers(8) == 0:
            for _ in range(1500):
                content = make_zip(rng, [("a.zip", content)], stored=True)
            return content
        else:
            changed[at] = (pick(rng, names), member)
        return make_zip(rng, changed)

    def prepare(folder: Path) -> None:
        (folder / "challenge.zip").write_bytes(make_zip(np.random.default_rng(0), members))

    named = ("challenge.zip", "the archives hold", "train.npz", "test.clean.npz", "inner.zip", ".zip")
    return Kind(prepare=prepare, target="challenge.zip", read=read, holds=holds, odd=odd, named=named)


def sample_marker() -> Kind:
    from src.sample import dataset
    from src.sample.dataset import FILES, MARKER, is_sample, make_sample

    dataset.TRAIN_IMAGES = dataset.TEST_IMAGES = 8

    def read(folder: Path) -> bool:
        try:
            found = is_sample(folder)
            make_sample(folder)
        except InputError as error:
            if "--scale" in str(error):
                raise InputError(f"{MARKER}: {error}") from None
            raise
        return found

    def prepare(folder: Path) -> None:
        make_sample(folder)

    def holds(found: bool, right: Any) -> None:
        assert isinstance(found, bool)

    named = (MARKER, *FILES)
    return Kind(prepare=prepare, target=MARKER, read=read, holds=holds, odd=of_text(odd_json), named=named)


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
    "committee weights": partial(weights, copies=2, landmarks=4),
    "checkpoint": partial(checkpoint, "last.pt"),
    "refit's checkpoint": partial(checkpoint, "refit_last.pt"),
    "ranks": ranks,
    "decisions": decisions,
    "journal": journal,
    "challenge zip": challenge_zip,
    "sample's marker": sample_marker,
} | {f"{format} picture": partial(pictures, format) for format in PICTURES}
