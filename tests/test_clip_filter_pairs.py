"""The CLIP filter as a user starts it: its flags, its defaults, its files, bad images, runs that are killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src import clip_filter_pairs
from src.common.files import InputError, read_json
from src.data.keep_lists import apply_keep_list, open_keep_list
from src.data.pairs import fingerprint, open_pairs
from src.filters.cut import drop_lowest
from src.sample.dataset import make_sample
from tests.conftest import REPO, assert_input_error, kill_one_of
from tests.known_noise import swaps_found
from tests.tiny_clip import make_tiny_clip

FILTER = ("-m", "src.clip_filter_pairs")
NO_MODEL = ("no model", "no weights")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a CLIP with random weights, where any scores will do."""
    return make_tiny_clip(tmp_path_factory.mktemp("untrained"), steps=0)


@pytest.fixture(scope="module")
def scored(untrained, sample, tmp_path_factory) -> Path:
    """The folder that one run wrote for the sample. Leave it as it is."""
    out = tmp_path_factory.mktemp("scored")
    clip_filter_pairs.main(arguments(untrained, sample / "train", out))
    return out


def arguments(model, data: Path, out: Path, *more) -> list[str]:
    """The command line for the pairs in `data` (a train folder); everything is written to `out`."""
    values = {
        "--input-npz": data / "train.npz",
        "--images-root": data / "Images",
        "--output-npz": out / "kept.npz",
        "--scores-output": out / "scores.npy",
        "--model": model[0],
        "--pretrained": model[1],
        "--device": "cpu",
        "--precision": "float32",
        "--workers": 0,
    }
    return [str(part) for item in values.items() for part in item] + [str(part) for part in more]


def test_it_drops_the_lowest_tenth_and_says_so(untrained, sample, scored):
    scores, raw = np.load(scored / "scores.npy"), open_pairs(sample / "train/train.npz")
    keep_list, made = open_keep_list(scored / "kept.keep.npz"), read_json(scored / "scores.json")
    np.testing.assert_array_equal(keep_list.scores, scores)
    np.testing.assert_array_equal(keep_list.keep, drop_lowest(scores, 0.1))
    np.testing.assert_array_equal(open_pairs(scored / "kept.npz").caption_ids, raw.caption_ids[keep_list.keep])
    origin = keep_list.provenance
    assert (origin["filter"], origin["higher_is_better"]) == ("clip", True)
    assert origin["input_fingerprint"] == made["input_fingerprint"] == fingerprint(raw.source)
    assert (origin["arguments"]["drop_fraction"], origin["cut"]["dropped"], origin["scores"]) == (0.1, 46, made)
    assert scores[~keep_list.keep].max() <= origin["cut"]["cut"] <= scores[keep_list.keep].min()
    assert (made["clip"]["model"], made["precision"]) == ("tiny_clip", "float32")
    with Image.open(scored / "kept.png") as report:
        assert report.width > 1000
    names = {"kept.npz", "kept.keep.npz", "kept.png", "scores.npy", "scores.json"}
    assert {path.name for path in scored.iterdir()} == names


def test_without_flags_it_scores_data_train_and_names_its_files_after_the_share(
    untrained, sample, tmp_path, monkeypatch, capsys
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(sample / "train")
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(untrained[0]), "--pretrained", str(untrained[1])]
    clip_filter_pairs.main([*model, "--device", "cpu", "--workers", "0"])
    assert "kept 414 captions" in capsys.readouterr().out
    written = {f"train_clip_q0.10_from_raw{suffix}" for suffix in (".npz", ".keep.npz", ".png")}
    written |= {"train_clip_scores_raw.npy", "train_clip_scores_raw.json"}
    assert {path.name for path in Path("data/filtered").iterdir()} == written


def test_the_help_tells_the_default_model(capsys):
    with pytest.raises(SystemExit):
        clip_filter_pairs.main(["--help"])
    out = capsys.readouterr().out
    assert "(default: ViT-B-32)" in out
    assert "(default: laion2b_s34b_b79k)" in " ".join(out.split())


# ------------------------------------------------------------------------------------------------ cutting again


def test_cutting_again_needs_no_model(sample, scored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = ("--input-npz", sample / "train/train.npz", "--images-root", "no images")
    again = ("--scores-input", scored / "scores.npy", "--drop-fraction", "0.25")
    clip_filter_pairs.main([str(part) for part in (*places, *again)])
    out = capsys.readouterr().out
    assert "of these pairs" in out
    assert "kept 345 captions" in out
    written = {f"train_clip_q0.25_from_raw{suffix}" for suffix in (".npz", ".keep.npz", ".png")}
    assert {path.name for path in Path("data/filtered").iterdir()} == written, "named after the share"
    keep_list = open_keep_list("data/filtered/train_clip_q0.25_from_raw.keep.npz")
    np.testing.assert_array_equal(keep_list.keep, drop_lowest(np.load(scored / "scores.npy"), 0.25))
    assert keep_list.provenance["scores"] == read_json(scored / "scores.json")


def test_scores_of_other_pairs_are_refused(sample, scored, tmp_path):
    def cut(*more):
        clip_filter_pairs.main(arguments(NO_MODEL, sample / "train", tmp_path / "out", *more))

    other = ("--input-npz", scored / "kept.npz")
    with pytest.raises(InputError, match=r"scores\.npy: scores of other pairs"):
        cut("--scores-input", scored / "scores.npy", *other)
    shutil.copy(scored / "scores.npy", tmp_path / "unrecorded.npy")
    with pytest.raises(InputError, match=r"unrecorded\.npy: 460 scores; .*kept\.npz has 414 captions"):
        cut("--scores-input", tmp_path / "unrecorded.npy", *other)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------- bad images

LOST = [*range(15, 20), *range(250, 255)]  # the captions of images 3 and 50


@pytest.fixture(scope="module")
def damaged(sample, tmp_path_factory) -> Path:
    """A copy of the sample's train folder where image 3 is missing and image 50 is cut off: ten captions."""
    data = tmp_path_factory.mktemp("damaged") / "train"
    shutil.copytree(sample / "train", data)
    (data / "Images/train_00003.jpg").unlink()
    image = data / "Images/train_00050.jpg"
    image.write_bytes(image.read_bytes()[:500])
    return data


def test_bad_images_are_an_error_after_all_were_tried_and_can_be_dropped_in_another_cut(untrained, damaged, tmp_path):
    named = r"^2 images \(train_00003\.jpg, train_00050\.jpg\) of 10 captions cannot be .*--scores-input .*scores\.npy"
    with pytest.raises(InputError, match=named):
        clip_filter_pairs.main(arguments(untrained, damaged, tmp_path))
    assert not (tmp_path / "kept.npz").exists()
    assert np.flatnonzero(np.isnan(np.load(tmp_path / "scores.npy"))).tolist() == LOST
    assert pd.read_csv(tmp_path / "scores.bad_images.csv").caption_id.tolist() == LOST
    again = ("--scores-input", tmp_path / "scores.npy", "--on-bad-image", "drop")
    clip_filter_pairs.main(arguments(NO_MODEL, damaged, tmp_path, *again))
    keep_list = open_keep_list(tmp_path / "kept.keep.npz")
    assert (~keep_list.keep).sum() == 46
    assert not keep_list.keep[LOST].any()
    assert len(open_pairs(tmp_path / "kept.npz")) == 414


def test_bad_images_can_be_kept(untrained, damaged, tmp_path, capsys):
    clip_filter_pairs.main(arguments(untrained, damaged, tmp_path, "--on-bad-image", "keep"))
    assert "10 captions without a score: keep" in capsys.readouterr().out
    keep_list = open_keep_list(tmp_path / "kept.keep.npz")
    assert (~keep_list.keep).sum() == 46
    assert keep_list.keep[LOST].all()


def test_bad_images_that_were_put_right_are_scored_with_their_batches_alone(
    untrained, sample, damaged, scored, tmp_path, capsys
):
    data = shutil.copytree(damaged, tmp_path / "train", symlinks=True)
    command = arguments(untrained, data, tmp_path, "--image-batch-size", 8)
    with pytest.raises(InputError, match="2 images"):
        clip_filter_pairs.main(command)
    for name in ("train_00003.jpg", "train_00050.jpg"):
        shutil.copy(sample / "train/Images" / name, data / "Images")
    clip_filter_pairs.main(command)
    assert "76 of 92 images are done" in capsys.readouterr().out, "all but two batches of eight"
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), np.load(scored / "scores.npy"), atol=1e-5)
    assert not list(tmp_path.glob("scores.*.*")), "neither bad images nor scores so far are left"


# --------------------------------------------------------------------------------------------------- odd images


@pytest.mark.slow
def test_odd_images_are_read_counted_and_listed_and_nothing_of_them_is_printed(
    untrained, sample, scored, tmp_path, run_script
):
    """Of 16 bits, with damaged metadata, with transparency and with other names than the npz says: equal scores."""
    data = shutil.copytree(sample / "train", tmp_path / "train")
    images, pairs = data / "Images", open_pairs(data / "train.npz")
    for number, options in enumerate(
        ({"transparency": bytes(range(256))}, {"exif": b"Exif\0\0no exif", "dpi": (72, 72)})
    ):
        path = images / pairs.image_names[number]
        with Image.open(path) as image:
            path.unlink()
            (image.quantize(256) if number == 0 else image).save(path, "PNG", **options)
    for path in sorted(images.iterdir())[10:50]:
        path.rename(path.with_name(path.name.upper()))
    no_backend = {"MPLBACKEND": "nonsense"}  # which would stop matplotlib, but nothing is shown here
    result = run_script(*FILTER, *arguments(untrained, data, tmp_path / "out", "--workers", 2), env=no_backend)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.replace("\r", "\n").split("\n") if line.strip()]
    assert all("image/s" in line for line in lines), "progress alone"
    listed = tmp_path / "out/scores.odd_images.csv"
    assert f"42 were read all the same, 40 by another spelling of their name; see {listed}" in result.stdout
    assert len(pd.read_csv(listed)) == 42
    expected, unchanged = np.load(scored / "scores.npy"), pairs.image_of_caption > 0  # of 256 colours
    np.testing.assert_allclose(np.load(tmp_path / "out/scores.npy")[unchanged], expected[unchanged], atol=1e-5)
    with Image.open(tmp_path / "out/kept.png") as report:
        assert report.width > 1000


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        (("--input-npz", "absent.npz"), "absent.npz: no such file"),
        (("--images-root", "absent"), "--images-root absent: no such folder"),
        (("--scores-output", "scores.csv"), "--scores-output scores.csv"),
        (("--output-npz", "kept.zip"), "--output-npz kept.zip"),
        (("--device", "cuda:99"), "--device cuda:99"),
        (("--device", "meta"), "--device meta"),
        (("--device", "hpu"), "--device hpu"),
        (("--scores-input", "absent.npy"), "absent.npy: no such file"),
    ],
)
def test_what_cannot_be_used_is_one_error_before_any_work(untrained, sample, tmp_path, more, fragment):
    with pytest.raises(InputError, match=fragment):
        clip_filter_pairs.main(arguments(untrained, sample / "train", tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--drop-fraction", "1"),
        ("--drop-fraction", "nan"),
        ("--workers", "-1"),
        ("--workers", "999999"),
        ("--on-bad-image", "guess"),
        ("--image-mean", "0.5", "0.5", "nan"),
        ("--image-std", "1", "1", "0"),
        ("--image-std", "1"),
        ("--image-resize-mode", "guess"),
    ],
)
def test_values_that_make_no_sense_are_usage_errors(flags, capsys):
    with pytest.raises(SystemExit) as end:
        clip_filter_pairs.main(list(flags))
    assert end.value.code == 2
    assert f"argument {flags[0]}: " in capsys.readouterr().err


def test_flags_say_how_images_are_prepared(untrained, sample, scored, tmp_path, capsys):
    grey = ("--image-mean", 0.5, 0.5, 0.5, "--image-std", 0.5, 0.5, 0.5)
    other = ("--image-resize-mode", "squash", "--image-interpolation", "bilinear", "--force-quick-gelu")
    clip_filter_pairs.main(arguments(untrained, sample / "train", tmp_path, *grey, *other))
    assert "squash, bilinear, mean 0.5 0.5 0.5, std 0.5 0.5 0.5, QuickGELU" in capsys.readouterr().out
    made = read_json(tmp_path / "scores.json")["clip"]
    assert made["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert made["config"]["quick_gelu"] is True
    assert np.abs(np.load(tmp_path / "scores.npy") - np.load(scored / "scores.npy")).max() > 1e-3


@pytest.mark.slow
def test_without_weights_and_network_one_line_names_the_ways_to_provide_them(run_script, sample, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "HF_HUB_CACHE": str(tmp_path / "empty/hub")}
    result = run_script(
        *FILTER, "--input-npz", sample / "train/train.npz", "--images-root", sample / "train/Images",
        "--output-npz", tmp_path / "kept.npz", "--scores-output", tmp_path / "scores.npy", env=offline,
    )  # fmt: skip
    assert_input_error(result, "no weights for", "network", "HF_HOME", "--pretrained the path of a checkpoint")
    assert not list(tmp_path.glob("*.*"))


# ------------------------------------------------------------------------------------------------- whole processes


def start_and_kill(command: list[str], progress: Path, lines: int) -> int:
    """Start the filter, kill it as soon as its progress file has so many lines; return how many are complete."""
    process = subprocess.Popen(
        [sys.executable, *FILTER, *command], cwd=REPO, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and (not progress.exists() or progress.read_bytes().count(b"\n") < lines):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    return progress.read_bytes().count(b"\n")


@pytest.mark.slow
def test_killing_it_twice_and_continuing_gives_the_same_scores_as_one_run(untrained, sample, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    batches = ("--image-batch-size", 2, "--text-batch-size", 3)
    clip_filter_pairs.main(arguments(untrained, sample / "train", whole, *batches))

    command = arguments(untrained, sample / "train", killed, *batches)
    progress = killed / "scores.partial.jsonl"
    first = start_and_kill(command, progress, 6)
    with progress.open("a") as file:
        file.write('{"batch": 40, "sco')  # as a line looks that was cut off
    second = start_and_kill(command, progress, first + 6)
    assert 6 <= first < second < 47, "one line for the identity, 46 for batches of two images"
    assert not (killed / "scores.npy").exists()
    clip_filter_pairs.main(command)
    assert f"continuing {progress}: {2 * (second - 1)} of 92 images are done" in capsys.readouterr().out
    assert (killed / "scores.npy").read_bytes() == (whole / "scores.npy").read_bytes()
    assert fingerprint(killed / "kept.npz") == fingerprint(whole / "kept.npz")
    assert not progress.exists()


def with_double_embeddings(source: Path, target: Path) -> None:
    """Copy pairs with text embeddings of float64, which one line tells whenever they are opened."""
    with np.load(source) as arrays:
        np.savez(target, **dict(arrays) | {"captions/embeddings": arrays["captions/embeddings"].astype(np.float64)})


def test_two_processes_write_what_one_does(untrained, damaged, tmp_path, run_torchrun):
    """Unreadable images are of both shares, odd ones too; what is to be told is told once."""
    data = tmp_path / "train"
    shutil.copytree(damaged, data)
    with_double_embeddings(damaged / "train.npz", data / "train.npz")
    for name in ("train_00015.jpg", "train_00025.jpg"):
        (data / "Images" / name).rename(data / "Images" / name.upper())
    one, two, options = tmp_path / "one", tmp_path / "two", ("--image-batch-size", 10, "--on-bad-image", "keep")
    clip_filter_pairs.main(arguments(untrained, data, one, *options))
    result = run_torchrun(2, *FILTER, *arguments(untrained, data, two, *options))
    assert result.returncode == 0, result.stderr
    assert "cpu, float32, 2 processes" in result.stdout
    assert result.stdout.count("kept 414 captions") == 1
    assert "2 were read all the same" in result.stdout
    told = [line for line in result.stderr.splitlines() if "captions/embeddings" in line]
    assert told == [f"{data / 'train.npz'}: captions/embeddings has dtype float64; read as float32 without loss"]
    assert re.search(r"scoring \(share 1 of 2\): 100%.* 50/50 ", result.stderr)
    assert "share 2" not in result.stderr
    names = {"kept.npz", "kept.keep.npz", "kept.png"}
    names |= {f"scores.{suffix}" for suffix in ("npy", "json", "bad_images.csv", "odd_images.csv")}
    assert {path.name for path in two.iterdir()} == names
    for name in names - {"kept.keep.npz", "scores.json"}:
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    assert read_json(two / "scores.json")["processes"] == 2
    kept, expected = (open_keep_list(folder / "kept.keep.npz") for folder in (two, one))
    np.testing.assert_array_equal(kept.keep, expected.keep)


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "go_on"), [(0, 3), (1, 1)])
def test_when_one_of_two_processes_is_killed_any_number_continues(
    killed, go_on, untrained, sample, tmp_path, run_script, run_torchrun
):
    whole, out, batches = tmp_path / "whole", tmp_path / "out", ("--image-batch-size", 2)
    clip_filter_pairs.main(arguments(untrained, sample / "train", whole, *batches))
    command = (*FILTER, *arguments(untrained, sample / "train", out, *batches))
    files = [out / "scores.partial.jsonl", out / "scores.partial.1.jsonl"]

    def scored(file: Path) -> int:
        return max(0, file.read_bytes().count(b"\n") - 1) if file.exists() else 0

    kill_one_of(2, killed, lambda: scored(files[killed]) >= 5, *command)
    done = sum(map(scored, files))
    assert 5 <= done < 46, "batches of two images"
    assert not (out / "scores.npy").exists()
    result = run_script(*command) if go_on == 1 else run_torchrun(go_on, *command)
    assert result.returncode == 0, result.stderr
    assert f"continuing {files[0]}: {2 * done} of 92 images are done" in result.stdout
    assert (out / "scores.npy").read_bytes() == (whole / "scores.npy").read_bytes()
    assert fingerprint(out / "kept.npz") == fingerprint(whole / "kept.npz")
    assert not list(out.glob("*.partial*"))


@pytest.mark.slow
def test_an_error_of_one_process_is_told_once(untrained, sample, tmp_path, run_torchrun):
    (tmp_path / "scores.partial.3.jsonl").write_text('{"another": "run"}\n{"batch": 0, "scores": [0.5]}\n')
    result = run_torchrun(2, *FILTER, *arguments(untrained, sample / "train", tmp_path))
    assert result.returncode == 1
    told = [line for line in result.stderr.splitlines() if line.startswith(("error: ", "unexpected error"))]
    assert len(told) == 1, result.stderr
    assert "scores.partial.3.jsonl: holds the scores so far of another run" in told[0]
    assert "exitcode  : 2" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scores.partial.3.jsonl"]


@pytest.mark.slow
def test_torchrun_cuts_again_too(sample, scored, tmp_path, run_torchrun):
    command = arguments(NO_MODEL, sample / "train", tmp_path, "--scores-input", scored / "scores.npy")
    result = run_torchrun(2, *FILTER, *command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("kept 414 captions") == 1
    assert fingerprint(tmp_path / "kept.npz") == fingerprint(scored / "kept.npz")


@pytest.mark.slow
def test_dropping_a_tenth_finds_the_swapped_captions(tmp_path, run_script, record_property):
    make_sample(tmp_path / "data", scale=0.5)
    data, out = tmp_path / "data/train", tmp_path / "out"
    result = run_script(*FILTER, *arguments(make_tiny_clip(tmp_path, steps=150), data, out, "--workers", 2))
    assert result.returncode == 0, result.stderr
    assert "image/s" in result.stderr
    keep_list = open_keep_list(out / "kept.keep.npz")
    assert (~keep_list.keep).sum() == 230
    found = swaps_found(keep_list, data / "sample_noise.csv")
    record_property("swaps_found", found)
    assert found["recall"] >= 0.8
    assert found["roc_auc"] > 0.97
    applied = apply_keep_list(open_pairs(data / "train.npz"), out / "kept.keep.npz")
    np.testing.assert_array_equal(open_pairs(out / "kept.npz").caption_ids, applied.caption_ids)


@pytest.mark.slow
@pytest.mark.flickr8k
def test_real_photographs_are_scored_and_filtered(untrained, flickr8k, tmp_path, run_script):
    result = run_script(*FILTER, *arguments(untrained, flickr8k / "visual", tmp_path / "out", "--workers", 2))
    assert result.returncode == 0, result.stderr
    assert len(open_pairs(tmp_path / "out/kept.npz")) == 3150
    assert np.isfinite(np.load(tmp_path / "out/scores.npy")).all()
