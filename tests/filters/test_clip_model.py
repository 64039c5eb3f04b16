"""Opening a CLIP: the same model from any file of its weights, no code from a checkpoint, errors that name a way on."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.common.files import InputError, write_json
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
