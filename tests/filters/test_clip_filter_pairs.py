"""The CLIP filter: exact cuts, scores equal to a plain loop's, runs that survive being killed, bad images, reports.

Two models are made here: an untrained one where any scores will do, and a trained one to find swapped captions with.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from src import clip_filter_pairs
from src.clip_filter_pairs import drop_lowest
from src.common.files import InputError, write_json
from src.data.keep_lists import apply_keep_list, open_keep_list
from src.data.pairs import fingerprint, open_pairs
from src.filters.clip_model import load_clip
from src.filters.clip_scoring import score_pairs
from src.filters.pictures import distinct_files, read_image
from src.filters.report import cut_value
from src.sample.dataset import make_sample
from tests.conftest import REPO, assert_input_error
from tests.known_noise import swaps_found
from tests.tiny_clip import CONFIG, make_tiny_clip

FILTER = ("-m", "src.clip_filter_pairs")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a CLIP that knows the sample's kind of pictures."""
    return make_tiny_clip(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a CLIP with random weights."""
    folder = tmp_path_factory.mktemp("untrained")
    write_json(folder / "random_clip.json", CONFIG)
    open_clip.add_model_config(folder / "random_clip.json")
    torch.manual_seed(0)
    network = open_clip.create_model("random_clip", load_weights=False)
    save_file(network.state_dict(), folder / "random_clip.safetensors")
    return folder / "random_clip.json", folder / "random_clip.safetensors"


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


# ------------------------------------------------------------------------------------------------------- the cut


def test_the_lowest_share_is_dropped_and_ties_go_in_the_order_of_the_file():
    scores = np.array([0.3, 0.1, 0.2, 0.1, 0.9, 0.1], np.float32)
    assert (~drop_lowest(scores, 0.5)).nonzero()[0].tolist() == [1, 3, 5]
    assert (~drop_lowest(scores, 1 / 3)).nonzero()[0].tolist() == [1, 3]
    assert (~drop_lowest(scores, 0.0)).nonzero()[0].tolist() == []


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_rounded_share_is_dropped_whatever_the_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, rng.integers(1, 60)).astype(np.float32)  # many ties
    fraction = rng.uniform(0, 1)
    dropped = sorted(range(len(scores)), key=lambda i: (scores[i], i))[: round(len(scores) * fraction)]
    assert set(np.flatnonzero(~drop_lowest(scores, fraction))) == set(dropped)


def test_captions_without_a_score_are_kept_or_are_the_first_to_be_dropped():
    scores = np.array([0.5, np.nan, 0.4, 0.3, np.nan, 0.6], np.float32)
    assert (~drop_lowest(scores, 0.5, "keep")).nonzero()[0].tolist() == [0, 2, 3]
    assert (~drop_lowest(scores, 0.5, "drop")).nonzero()[0].tolist() == [1, 3, 4]
    assert (~drop_lowest(scores, 0.0, "drop")).nonzero()[0].tolist() == [1, 4]


def test_the_cut_value_lies_between_what_is_kept_and_what_is_dropped():
    scores = np.array([1, 2, 5, 9, np.nan], np.float32)
    assert cut_value(scores, np.array([0, 0, 1, 1, 1], bool)) == 3.5
    assert cut_value(scores, np.array([1, 1, 0, 0, 0], bool)) == 3.5, "ranks: the low ones are kept"
    assert cut_value(scores, np.ones(5, bool)) is None
    assert cut_value(scores, np.array([1, 0, 1, 0, 1], bool)) is None


# ------------------------------------------------------------------------------------------------------- images


def save_image(path: Path, mode: str, **options) -> Image.Image:
    image = Image.effect_noise((20, 12), 80).convert("RGB").quantize(8) if mode == "P" else Image.new(mode, (20, 12))
    image.save(path, **options)
    return image


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("P", "gif"), ("1", "png"), ("RGBA", "png")]
)
def test_images_of_any_mode_are_read_as_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    save_image(path, mode)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 12))


def test_a_photograph_taken_sideways_is_turned_upright(tmp_path):
    image = Image.new("RGB", (20, 12))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (12, 20)


def test_images_that_cannot_be_read_say_why(tmp_path):
    save_image(tmp_path / "whole.png", "P")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-40])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("cut.png", "truncated"),
        ("text.jpg", "UnidentifiedImageError"),
        ("folder.jpg", "IsADirectoryError"),
        ("absent.jpg", "no such file"),
    ):
        with pytest.raises(InputError, match=reason):
            read_image(tmp_path / name)


def test_names_of_the_same_file_are_one_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "soft.jpg").symlink_to("a.jpg")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "b.jpg")
    files, file_of_name = distinct_files(["a.jpg", "soft.jpg", "gone.jpg", "b.jpg", "hard.jpg", "lost.jpg"], tmp_path)
    assert [path.name for path in files] == ["a.jpg", "gone.jpg", "b.jpg", "lost.jpg"]
    assert file_of_name.tolist() == [0, 0, 1, 2, 2, 3]


# ------------------------------------------------------------------------------------------------------- the model


def test_a_local_checkpoint_gives_the_same_model_from_any_format_and_place(untrained, tmp_path):
    config, checkpoint = untrained
    torch.save({"state_dict": load_file(checkpoint)}, tmp_path / "moved.pt")
    first, second = load_clip(str(config), str(checkpoint)), load_clip(str(config), str(tmp_path / "moved.pt"))
    assert first.identity["weights_sha256"] == second.identity["weights_sha256"]
    assert not first.network.training
    other = load_file(checkpoint)
    other["logit_scale"] += 1
    save_file(other, tmp_path / "other.safetensors")
    third = load_clip(str(config), str(tmp_path / "other.safetensors"))
    assert third.identity["weights_sha256"] != first.identity["weights_sha256"]


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_holds_code_is_not_executed(untrained, tmp_path):
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "trap.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"state_dict": Trap(sprung)}, protocol=2))
    for name in ("trap.pt", "old.pt"):
        with pytest.raises(InputError, match=f"{name}.*not a checkpoint, or one that holds more than tensors"):
            load_clip(str(untrained[0]), str(tmp_path / name))
    assert not sprung.exists()


def test_models_and_weights_that_do_not_exist_or_do_not_fit_are_named(untrained, tmp_path):
    config, checkpoint = map(str, untrained)
    with pytest.raises(InputError, match=r"--model ViT-B-33.*ViT-B-32"):
        load_clip("ViT-B-33", "openai")
    with pytest.raises(InputError, match=r"--pretrained laion3b: neither .*laion2b_s34b_b79k"):
        load_clip("ViT-B-32", "laion3b")
    with pytest.raises(InputError, match=r"--pretrained openai: neither .*tags \(none\)"):
        load_clip(config, "openai")
    with pytest.raises(InputError, match=r"absent.json: no such file"):
        load_clip(str(tmp_path / "absent.json"), checkpoint)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match=r"list.json: not a model configuration"):
        load_clip(str(tmp_path / "list.json"), checkpoint)
    write_json(tmp_path / "wider.json", CONFIG | {"embed_dim": 96})
    with pytest.raises(InputError, match=r"cannot be loaded into .*wider.json"):
        load_clip(str(tmp_path / "wider.json"), checkpoint)
    (tmp_path / "damaged.safetensors").write_bytes(Path(checkpoint).read_bytes()[:1000])
    with pytest.raises(InputError, match=r"damaged.safetensors: cannot be loaded"):
        load_clip(config, str(tmp_path / "damaged.safetensors"))


def test_without_weights_and_network_one_line_names_the_ways_to_provide_them(run_script, sample, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "HF_HUB_CACHE": str(tmp_path / "empty/hub")}
    result = run_script(
        *FILTER, "--input-npz", sample / "train/train.npz", "--images-root", sample / "train/Images",
        "--output-npz", tmp_path / "kept.npz", "--scores-output", tmp_path / "scores.npy", env=offline,
    )  # fmt: skip
    assert_input_error(result, "no weights for", "network", "HF_HOME", "--pretrained the path of a checkpoint")
    assert not list(tmp_path.glob("*.*"))


# ------------------------------------------------------------------------------------------------------- the scores


def score(model, data: Path, progress: Path, identity=None, **changes):
    clip = load_clip(*map(str, model))
    pairs = open_pairs(data / "train.npz")
    options = {"precision": "float32", "image_batch_size": 7, "text_batch_size": 13, "workers": 0}
    options |= {"identity": identity or {"model": "m"}, "device": torch.device("cpu")} | changes
    return score_pairs(clip, pairs, data / "Images", progress, **options)


def test_scores_are_the_cosine_similarities_of_a_plain_loop(untrained, sample, tmp_path):
    scores, unreadable = score(untrained, sample / "train", tmp_path / "progress")
    assert (scores.shape, scores.dtype, unreadable) == ((460,), np.float32, {})
    open_clip.add_model_config(untrained[0])
    model, _, preprocess = open_clip.create_model_and_transforms("random_clip", pretrained=str(untrained[1]))
    tokenize, pairs = open_clip.get_tokenizer("random_clip"), open_pairs(sample / "train/train.npz")
    model.eval()
    for i in range(0, 460, 37):
        name = pairs.image_names[pairs.image_of_caption[i]]
        with torch.no_grad():
            image = model.encode_image(preprocess(Image.open(sample / "train/Images" / name))[None])[0]
            text = model.encode_text(tokenize([pairs.caption_texts[i]]))[0]
        assert scores[i] == pytest.approx(float(image @ text / image.norm() / text.norm()), abs=1e-5)


def test_every_image_file_is_encoded_once(untrained, sample, tmp_path, monkeypatch):
    data = tmp_path / "train"
    (data / "Images").mkdir(parents=True)
    shutil.copy(sample / "train/train.npz", data)
    names = sorted(path.name for path in (sample / "train/Images").iterdir())
    for i, name in enumerate(names):  # pairs of images share a file
        (data / "Images" / name).symlink_to(sample / "train/Images" / names[i - i % 2])
    encoded = []
    encode = open_clip.CLIP.encode_image
    monkeypatch.setattr(open_clip.CLIP, "encode_image", lambda self, x: encoded.append(len(x)) or encode(self, x))
    score(untrained, data, tmp_path / "progress")
    assert sum(encoded) == len(names) // 2


def test_low_precision_changes_scores_little(untrained, sample, tmp_path):
    exact, _ = score(untrained, sample / "train", tmp_path / "a")
    rounded, _ = score(untrained, sample / "train", tmp_path / "b", precision="bfloat16")
    assert 0 < np.abs(exact - rounded).max() < 0.03


# ------------------------------------------------------------------------------------------------- killed runs


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


def test_killing_it_twice_and_continuing_gives_the_same_scores_as_one_run(untrained, sample, tmp_path, run_script):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    batches = ("--image-batch-size", 2, "--text-batch-size", 3)
    result = run_script(*FILTER, *arguments(untrained, sample / "train", whole, *batches), env={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr

    command = arguments(untrained, sample / "train", killed, *batches)
    progress = killed / "scores.partial.jsonl"
    first = start_and_kill(command, progress, 6)
    with progress.open("a") as file:
        file.write('{"batch": 40, "sco')  # as a line looks that was cut off
    second = start_and_kill(command, progress, first + 6)
    assert 6 <= first < second < 47, "one line for the identity, 46 for batches of two images"
    assert not (killed / "scores.npy").exists()
    result = run_script(*FILTER, *command, env={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    assert f"continuing {progress}: {2 * (second - 1)} of 92 images are done" in result.stdout
    assert (killed / "scores.npy").read_bytes() == (whole / "scores.npy").read_bytes()
    assert fingerprint(killed / "kept.npz") == fingerprint(whole / "kept.npz")
    assert not progress.exists()


def test_scores_of_another_model_or_other_data_are_never_mixed_in(untrained, sample, tmp_path, monkeypatch):
    progress = tmp_path / "progress"
    interrupted = iter([0, 0])
    encode = open_clip.CLIP.encode_image

    def encode_twice(self, x):
        next(interrupted)
        return encode(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(open_clip.CLIP, "encode_image", encode_twice)
        with pytest.raises(StopIteration):
            score(untrained, sample / "train", progress)
    before = progress.read_bytes()
    assert before.count(b"\n") == 3
    for changes, named in (
        ({"identity": {"model": "another"}}, "model"),
        ({"precision": "bfloat16"}, "precision"),
        ({"image_batch_size": 8}, "batches"),
    ):
        with pytest.raises(InputError, match=f"progress: .*another {named}\\)"):
            score(untrained, sample / "train", progress, **changes)
    assert progress.read_bytes() == before
    scores, _ = score(untrained, sample / "train", progress)
    np.testing.assert_array_equal(scores, score(untrained, sample / "train", tmp_path / "fresh")[0])


# ------------------------------------------------------------------------------------------------- bad images


@pytest.fixture
def damaged(sample, tmp_path) -> Path:
    """A copy of the sample's train folder where image 3 is missing and image 50 is cut off: ten captions."""
    data = tmp_path / "train"
    shutil.copytree(sample / "train", data)
    (data / "Images/train_00003.jpg").unlink()
    image = data / "Images/train_00050.jpg"
    image.write_bytes(image.read_bytes()[:500])
    return data


LOST = [*range(15, 20), *range(250, 255)]  # their captions


def test_bad_images_are_an_error_after_all_were_tried_and_can_be_put_right(
    untrained, sample, damaged, tmp_path, run_script
):
    out = tmp_path / "out"
    command = arguments(untrained, damaged, out, "--workers", 2, "--image-batch-size", 8)
    result = run_script(*FILTER, *command)
    assert_input_error(
        result, "2 images (train_00003.jpg, train_00050.jpg) of 10 captions", "--on-bad-image drop", "scores.npy"
    )
    assert not (out / "kept.npz").exists()
    assert np.flatnonzero(np.isnan(np.load(out / "scores.npy"))).tolist() == LOST
    table = pd.read_csv(out / "scores.bad_images.csv")
    assert table.caption_id.tolist() == LOST
    assert table.image.unique().tolist() == ["train_00003.jpg", "train_00050.jpg"]
    assert table.reason[0] == "no such file"
    assert "truncated" in table.reason[9].lower()

    for name in table.image.unique():
        shutil.copy(sample / "train/Images" / name, damaged / "Images")
    result = run_script(*FILTER, *command)
    assert result.returncode == 0, result.stderr
    assert "76 of 92 images are done" in result.stdout, "all but the two batches of eight with a bad image"
    assert not (out / "scores.bad_images.csv").exists()
    whole = arguments(untrained, sample / "train", tmp_path / "whole", "--workers", 2, "--image-batch-size", 8)
    assert run_script(*FILTER, *whole).returncode == 0
    assert (out / "scores.npy").read_bytes() == (tmp_path / "whole/scores.npy").read_bytes()


@pytest.mark.parametrize(("policy", "lost_captions_kept"), [("keep", 10), ("drop", 0)])
def test_bad_images_can_be_kept_or_dropped_when_cutting_again(untrained, damaged, tmp_path, policy, lost_captions_kept):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="10 captions cannot be read"):
        clip_filter_pairs.main(arguments(untrained, damaged, out))
    again = ("--scores-input", out / "scores.npy", "--on-bad-image", policy)
    clip_filter_pairs.main(arguments(untrained, damaged, out, *again))
    keep_list = open_keep_list(out / "kept.keep.npz")
    assert (~keep_list.keep).sum() == 46
    assert keep_list.keep[LOST].sum() == lost_captions_kept
    assert len(open_pairs(out / "kept.npz")) == 414
    assert (out / "kept.png").stat().st_size > 10_000


# --------------------------------------------------------------------------------------------- the command line


def test_the_defaults_are_the_documented_command_line(monkeypatch):
    seen = {}
    monkeypatch.setattr(clip_filter_pairs, "fingerprint", lambda path: "0")
    monkeypatch.setattr(clip_filter_pairs, "_score", lambda args, data: seen.update(vars(args)) or 1 / 0)
    documented = (
        "--input-npz data/train/train.npz --images-root data/train/Images "
        "--output-npz data/filtered/train_clip_q0.10_from_raw.npz "
        "--scores-output data/filtered/train_clip_scores_raw.npy --drop-fraction 0.10 "
        "--model ViT-B-32 --pretrained laion2b_s34b_b79k"
    )
    lines = []
    for argv in ([], documented.split(), ["--drop-fraction", "0.25"]):
        with pytest.raises(ZeroDivisionError):
            clip_filter_pairs.main(argv)
        lines.append(dict(seen))
    assert lines[0] == lines[1]
    assert lines[2]["output_npz"] == Path("data/filtered/train_clip_q0.25_from_raw.npz"), "named after its share"


def test_the_help_shows_the_commands(run_script):
    result = run_script(*FILTER, "--help")
    assert result.returncode == 0
    assert "python -m src.clip_filter_pairs --scores-input" in result.stdout


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        (("--input-npz", "absent.npz"), "absent.npz: no such file"),
        (("--images-root", "absent"), "--images-root absent: no such folder"),
        (("--scores-output", "scores.csv"), "--scores-output scores.csv"),
        (("--output-npz", "kept.zip"), "--output-npz kept.zip"),
        (("--device", "cuda:99"), "--device cuda:99"),
        (("--scores-input", "absent.npy"), "absent.npy: no such file"),
    ],
)
def test_what_cannot_be_used_is_one_error_before_any_work(untrained, sample, tmp_path, more, fragment):
    with pytest.raises(InputError, match=fragment):
        clip_filter_pairs.main(arguments(untrained, sample / "train", tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_cutting_again_needs_no_model_and_refuses_scores_of_other_pairs(
    untrained, sample, tmp_path, run_script, capsys
):
    clip_filter_pairs.main(arguments(untrained, sample / "train", tmp_path))
    assert "kept 414 captions" in capsys.readouterr().out
    scores = np.load(tmp_path / "scores.npy")
    again = ("--scores-input", tmp_path / "scores.npy", "--drop-fraction", "0.25", "--output-npz", tmp_path / "b.npz")
    nothing = ("no model", "no weights")
    clip_filter_pairs.main(arguments(nothing, sample / "train", tmp_path / "unused", *again))
    keep_list = open_keep_list(tmp_path / "b.keep.npz")
    np.testing.assert_array_equal(keep_list.keep, drop_lowest(scores, 0.25))
    provenance = keep_list.provenance
    assert provenance["input_fingerprint"] == fingerprint(sample / "train/train.npz")
    assert (provenance["filter"], provenance["arguments"]["drop_fraction"]) == ("clip", 0.25)
    assert provenance["cut"]["dropped"] == 115
    assert (
        provenance["scores"]["clip"]["weights_sha256"]
        == json.loads((tmp_path / "scores.json").read_text())["clip"]["weights_sha256"]
    )
    assert not (tmp_path / "unused").exists()

    other = ("--input-npz", tmp_path / "b.npz", "--output-npz", tmp_path / "c.npz")
    result = run_script(*FILTER, *arguments(nothing, sample / "train", tmp_path / "unused", *again[:2], *other))
    assert_input_error(result, "scores.npy: scores of other pairs")
    np.save(tmp_path / "short.npy", scores[1:])
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    for name, reason in (("short.npy", "459 scores"), ("words.npy", "not an array of scores")):
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            clip_filter_pairs.main(
                arguments(nothing, sample / "train", tmp_path / "unused", "--scores-input", tmp_path / name)
            )


# ---------------------------------------------------------------------------------------------- what it finds


def test_dropping_a_tenth_finds_the_swapped_captions(trained, tmp_path, run_script, record_property):
    make_sample(tmp_path / "data", scale=0.5)
    data, out = tmp_path / "data/train", tmp_path / "out"
    result = run_script(*FILTER, *arguments(trained, data, out, "--workers", 2))
    assert result.returncode == 0, result.stderr
    assert "image/s" in result.stderr
    keep_list = open_keep_list(out / "kept.keep.npz")
    found = swaps_found(keep_list, data / "sample_noise.csv")
    record_property("swaps_found", found)
    assert (~keep_list.keep).sum() == 230
    assert found["recall"] >= 0.8
    assert found["roc_auc"] > 0.97
    filtered, applied = (
        open_pairs(out / "kept.npz"),
        apply_keep_list(open_pairs(data / "train.npz"), out / "kept.keep.npz"),
    )
    np.testing.assert_array_equal(filtered.caption_ids, applied.caption_ids)
    with Image.open(out / "kept.png") as report:
        assert report.width > 1000


@pytest.mark.flickr8k
def test_real_photographs_are_scored_and_filtered(untrained, flickr8k, tmp_path, run_script):
    result = run_script(*FILTER, *arguments(untrained, flickr8k / "visual", tmp_path / "out", "--workers", 2))
    assert result.returncode == 0, result.stderr
    assert len(open_pairs(tmp_path / "out/kept.npz")) == 3150
    assert np.isfinite(np.load(tmp_path / "out/scores.npy")).all()
