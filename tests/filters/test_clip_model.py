"""Opening a CLIP: the same model from any file of its weights, no code from a checkpoint, errors that name a way on."""

import argparse
import logging
import pickle
import warnings
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED, _apcfg, _mccfg, _pcfg, _slpcfg
from safetensors.torch import load_file, save_file

import src.filters.clip_model
from src.common.files import InputError, sha256, write_json
from src.filters.clip_model import load_clip
from tests.tiny_clip import CONFIG


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


def test_a_process_that_is_to_log_nothing_logs_nothing_afterwards_either(untrained):
    logging.disable(logging.CRITICAL)
    try:
        load_clip(*map(str, untrained))
        assert not logging.getLogger(__name__).isEnabledFor(logging.CRITICAL)
    finally:
        logging.disable(logging.NOTSET)


def test_a_checkpoint_that_holds_code_is_not_executed(untrained, tmp_path):
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "trap.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"state_dict": Trap(sprung)}, protocol=2))
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", pickle.dumps(Trap(sprung), protocol=2))
    for name in ("trap.pt", "old.pt", "script.pt"):
        with pytest.raises(InputError, match=f"{name}.*not a checkpoint, or one that holds more than tensors"):
            load_clip(str(untrained[0]), str(tmp_path / name))
    assert not sprung.exists()


def test_a_checkpoint_that_holds_objects_says_which_and_what_to_do(untrained, tmp_path):
    torch.save({"state_dict": load_file(untrained[1]), "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    with pytest.raises(InputError, match=r"more than tensors \(argparse.Namespace\).*state_dict alone.*torch.save"):
        load_clip(str(untrained[0]), str(tmp_path / "args.pt"))


@pytest.mark.parametrize("core", [b"numpy._core.multiarray", b"numpy.core.multiarray"], ids=["NumPy 2", "NumPy 1"])
def test_figures_of_numpy_beside_the_weights_are_no_hindrance(untrained, tmp_path, core):
    figures = {"best": np.float64(0.5), "epoch": np.int64(3), "half": np.float16(1), "ever": np.bool_(True)}
    whole = {"state_dict": load_file(untrained[1]), "losses": np.arange(3.0)} | figures
    torch.save(whole, tmp_path / "figures.pt", _use_new_zipfile_serialization=False)  # whose names can be replaced
    names = (tmp_path / "figures.pt").read_bytes()
    (tmp_path / "figures.pt").write_bytes(names.replace(b"numpy._core.multiarray", core))
    found, same = (load_clip(str(untrained[0]), str(path)) for path in (tmp_path / "figures.pt", untrained[1]))
    assert found.identity["weights_sha256"] == same.identity["weights_sha256"]


@pytest.mark.parametrize("half", [False, True])
def test_the_weights_in_a_torchscript_archive_are_read_and_its_program_is_not_run(
    untrained, tmp_path, monkeypatch, half
):
    same = load_clip(*map(str, untrained))
    network = same.network.half() if half else same.network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's age
        torch.jit.script(network).save(tmp_path / "script.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    found, expected = load_clip(str(untrained[0]), str(tmp_path / "script.pt")).network, network.float().state_dict()
    assert found.state_dict().keys() == expected.keys()
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    write_json(tmp_path / "wider.json", CONFIG | {"embed_dim": 96})
    with pytest.raises(InputError, match=r"script.pt: cannot be loaded into .*wider.json"):
        load_clip(str(tmp_path / "wider.json"), str(tmp_path / "script.pt"))


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


# --------------------------------------------------------------------------------- preprocessing and activations

KINDS = {
    "MobileCLIP": _mccfg(url="x"),
    "SigLIP": _slpcfg(url="x"),
    "CLIPA": _apcfg(url="x"),
    "QuickGELU": _pcfg(url="x", quick_gelu=True),
}


@pytest.fixture
def tagged(untrained, monkeypatch):
    """A function that gives the model of random weights tags, whose download is its file."""
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *a, **k: str(untrained[1]))
    open_clip.add_model_config(untrained[0])

    def tag(**tags):
        monkeypatch.setitem(_PRETRAINED, "tiny_clip", tags)

    return tag


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_model_that_its_tag_gives(untrained, tagged, kind, recwarn):
    tagged(own=KINDS[kind])
    by_tag, by_file = load_clip("tiny_clip", "own"), load_clip("tiny_clip", str(untrained[1]))
    assert by_file.identity | {"pretrained": "own"} == by_tag.identity
    for key in ("mean", "std", "resize_mode", "interpolation"):
        assert by_file.identity["preprocess"][key] == KINDS[kind][key]
    tokens = by_tag.tokenize(["a red square"])
    expected, _, _ = open_clip.create_model_and_transforms(
        "tiny_clip", pretrained=str(untrained[1]), force_quick_gelu=kind == "QuickGELU"
    )
    for clip in (by_tag, by_file):
        assert torch.equal(clip.network.encode_text(tokens), expected.eval().encode_text(tokens))
    assert ("QuickGELU" in by_tag.preparation()) == (kind == "QuickGELU")
    assert not [warning for warning in recwarn if "QuickGELU" in str(warning.message)]


def test_a_file_of_one_of_several_tags_is_known_by_its_sum_its_folder_or_its_name(untrained, tagged, tmp_path, caplog):
    other = _pcfg(hf_hub="org/other/")
    copies = [tmp_path / name for name in ("models--org--mobile/snapshots/0/a.safetensors", "mobile/a.safetensors")]
    copies += [tmp_path / "mobile.safetensors", tmp_path / "x/unknown.safetensors"]
    for copy in copies:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(untrained[1])
    for copy, mobile in (
        (copies[0], _mccfg(hf_hub="org/mobile/")),
        (copies[1], _mccfg(hf_hub="org/mobile/open_clip.bin")),
        (copies[2], _mccfg(url="https://host/mobile.safetensors")),
        (copies[3], _mccfg(url=f"https://host/{sha256(untrained[1])}/ViT.pt")),
        (copies[3], _mccfg(url=f"https://host/vit-b-{sha256(untrained[1])[:8]}.pt")),
    ):
        tagged(mobile=mobile, first=other, second=other)
        assert load_clip("tiny_clip", str(copy)).identity["preprocess"]["mean"] == (0, 0, 0)
    assert not caplog.text


def test_where_tags_differ_a_line_tells_what_is_taken_and_the_flags_for_the_others(untrained, tagged, caplog):
    usual, grey = _pcfg(url="x"), _pcfg(url="x", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash")
    tagged(openai=_pcfg(url="x", quick_gelu=True), grey=grey, first=usual, second=usual)
    clip = load_clip("tiny_clip", str(untrained[1]))
    assert clip.preparation().startswith("shortest, bicubic, mean 0.481")
    assert "QuickGELU" not in clip.preparation()
    assert len(caplog.messages) == 1
    assert "as 2 of tiny_clip's 4 tags are, such as first" in caplog.text
    assert "if it is of openai, pass --force-quick-gelu" in caplog.text
    flags = "--image-mean 0.5 0.5 0.5 --image-std 0.5 0.5 0.5 --image-resize-mode squash"
    assert f"if it is of grey, pass {flags}" in caplog.text
    caplog.clear()
    clip = load_clip("tiny_clip", str(untrained[1]), image_mean=None, force_quick_gelu=True)
    assert "QuickGELU" in clip.preparation()
    assert not caplog.text, "the user knows"


def test_settings_of_ones_own_come_before_those_of_a_tag(tagged):
    tagged(own=KINDS["QuickGELU"])
    given = {"image_mean": (0.1, 0.2, 0.3), "image_interpolation": "bilinear", "force_quick_gelu": False}
    clip = load_clip("tiny_clip", "own", **given)
    assert clip.identity["preprocess"]["mean"] == (0.1, 0.2, 0.3)
    assert clip.preparation().startswith("shortest, bilinear")
    assert clip.preparation().endswith(", GELU")


def test_a_file_in_the_cache_of_any_tag_has_the_settings_of_this_tag(tmp_path):
    """Of all that open_clip has; nothing is downloaded."""
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(name, tag)
        organisation, repository, *_ = config["hf_hub"].split("/")
        path = tmp_path / f"models--{organisation}--{repository}/snapshots/0/open_clip_model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found = src.filters.clip_model._settings_of_file(name, path, said=False)
        assert (
            found["force_quick_gelu"] or not config.get("quick_gelu") or open_clip.get_model_config(name)["quick_gelu"]
        )
        for key in ("mean", "std", "resize_mode", "interpolation"):
            assert found[f"image_{key}"] == config[key], (name, tag)


@pytest.mark.parametrize("tag", ["laion2b_s34b_b79k", "openai"])
@pytest.mark.parametrize("cached", [True, False])
def test_the_network_is_asked_for_unless_weights_are_in_the_cache(monkeypatch, tag, cached):
    asked = []

    def no_network(what):
        asked.append(what)
        raise InputError("no network")

    def create(*args, **settings):
        raise RuntimeError("opened")

    monkeypatch.setattr(src.filters.clip_model, "require_network", no_network)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: "/weights" if cached else None)
    with pytest.raises(InputError, match="opened" if cached else r"\(no network\); run once .* --pretrained the path"):
        load_clip("ViT-B-32", tag)
    assert asked == ([] if cached else ["its weights"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="opened"):
        load_clip("ViT-B-32", tag)
