"""`python -m src.retrieve` as a user starts it: what it shows and writes, one line for what cannot be used."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import src.encoding.text_encoder
from src import retrieve
from src.common.files import InputError
from src.data.pairs import embedding_dims, fingerprint, open_pairs
from src.data.splits import validation_images
from src.training.model import ResidualMLP, save_translator
from src.training.recipe import BASELINE
from src.training.runs import BEST_MRR, DataRecord, Results, RunRecord, State, write_run


@pytest.fixture
def arguments(sample, tmp_path) -> list[str]:
    """The sample, and a recorded run on it that has learnt nothing."""
    train = sample / "train/train.npz"
    widths = embedding_dims(train)
    torch.manual_seed(0)
    translator = ResidualMLP(widths["text"], widths["image"], 8)
    run = tmp_path / "models/run"
    save_translator(translator.state_dict(), translator.dims, run / BEST_MRR)
    data = DataRecord(train_npz=str(train), train_fingerprint=fingerprint(train))
    results = Results(measures={"mrr": 0.1})
    write_run(run, RunRecord(run_name="run", status=State.FINISHED, recipe=BASELINE, data=data, results=results))
    places = ("--input-npz", train, "--models-dir", tmp_path / "models", "--images", sample / "train/Images")
    return [*map(str, places), "--device", "cpu"]


def shown_ids(printed: str) -> list[int]:
    return [int(number) for number in re.findall(r"^(\d+): ", printed, re.M)]


def test_without_a_choice_it_shows_captions_that_validated_the_best_run(arguments, sample, tmp_path, capsys):
    retrieve.main(arguments)
    printed = capsys.readouterr().out
    pairs = open_pairs(sample / "train/train.npz")
    validates = validation_images(pairs.image_names, BASELINE.val_fraction, BASELINE.effective_split_seed)
    held_out = set(pairs.caption_ids[validates[pairs.image_of_caption]])
    assert f"{len(held_out)}, never seen in training" in printed
    assert f"{validates.sum()} images" in printed
    assert len(set(shown_ids(printed))) == 8
    assert set(shown_ids(printed)) <= held_out
    assert printed.count("<- the right image") == 8
    assert max(map(len, printed.partition("captions: ")[2].splitlines()[:-1])) <= 100
    with Image.open(tmp_path / "models/run/retrieval.png") as sheet:
        assert sheet.height > 1000


def test_captions_by_id_among_all_images_and_a_file_of_ones_own(arguments, tmp_path, capsys):
    output = tmp_path / "out/mine.png"
    retrieve.main([*arguments, "--caption", "7", "3", "--all-images", "--top-k", "2", "--output", str(output)])
    printed = capsys.readouterr().out
    assert shown_ids(printed) == [7, 3]
    assert "92 images" in printed
    assert output.exists()
    assert not (tmp_path / "models/run/retrieval.png").exists()


def found(printed: str, text: str) -> list[tuple[str, ...]]:
    """Place, score and name of the images below a text."""
    lines = printed.partition(f"\n{text}\n")[2].split("\n")[:5]
    return [tuple(line.split()[:3]) for line in lines]


def test_any_text_is_encoded_by_the_encoder_of_the_captions(arguments, sample, monkeypatch, capsys):
    """One in which an unknown text has the embedding of the first caption."""
    pairs = open_pairs(sample / "train/train.npz")
    known = dict(zip(pairs.caption_texts, pairs.text_embeddings, strict=True))

    class Encoder:
        identity = {"encoder": "a model"}  # noqa: RUF012

        def to(self, machine):
            assert machine.device.type == "cpu"

        def embed(self, texts, machine, batch_size):
            return np.array([known.get(text, pairs.text_embeddings[0]) for text in texts])

    asked = []
    monkeypatch.setattr(src.encoding.text_encoder, "load_text_encoder", lambda *name: asked.append(name) or Encoder())
    retrieve.main([*arguments, "--text", "anything", "at all", "--all-images"])
    printed = capsys.readouterr().out
    assert asked == [("sentence-transformers/all-roberta-large-v1", "--encoder")]
    assert "captions: " not in printed
    retrieve.main([*arguments, "--caption", "0", "--all-images"])
    expected = found(capsys.readouterr().out, f"0: {pairs.caption_texts[0]}")
    assert len(expected[0]) == 3
    assert found(printed, "anything") == found(printed, "at all") == expected


def test_a_missing_library_is_one_line(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match="needs sentence-transformers, which is not installed"):
        retrieve.main([*arguments, "--text", "two dogs"])


def test_a_report_tells_of_all_captions_that_validated(arguments, tmp_path, capsys):
    retrieve.main([*arguments, "--report", "--images", "none", "--output", str(tmp_path / "mine.png")])
    printed = capsys.readouterr().out
    for name in (
        "ranks",
        "missed",
        "MRR by words",
        "words of missed",
        "wrongly first",
        "5-occurrence",
        "suspect pairs",
    ):
        assert re.search(rf"^  {name} +\S", printed, re.M), name
    assert "no folder: names alone" in printed
    assert {path.name for path in tmp_path.glob("*.png")} == {"mine.png", "mine_examples.png"}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as page:
            assert page.width > 1000


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (("--report", "--worst", "3"), "--worst and --report"),
        (("--report", "--text", "x"), "--text and --report"),
        (("--encoder", "x"), "--encoder: encodes what --text gives"),
        (("--output", "x.txt"), "x.txt: is to be a PNG"),
        (("--caption", "-5"), "no caption of this id"),
        (("--random", "400", "--all-images"), "a sheet has room for"),
        (("--report", "--top-k", "90"), "a sheet has room for"),
        (("--weights", "absent"), "absent: no such file"),
        (("--gallery", "absent.npz"), "absent.npz: no such file"),
        (("--models-dir", "nowhere"), "holds no finished run .*, or name weights with --weights"),
        (("--device", "cuda:99"), "--device cuda:99"),
    ],
)
def test_what_cannot_be_used_is_one_error_and_nothing_is_written(arguments, tmp_path, flags, fragment):
    before = {*tmp_path.rglob("*")}
    with pytest.raises(InputError, match=fragment):
        retrieve.main([*arguments, *flags])
    assert {*tmp_path.rglob("*")} == before
