"""Encoders of images: each library's own numbers, and what cannot be opened."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from src.common.files import InputError
from src.encoding.image_encoder import load_image_encoder
from src.filters.clip_model import load_clip
from tests.tiny_clip import make_tiny_clip

NOISE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.fixture
def picture():
    return Image.fromarray(NOISE)


def embed(encoder, picture):
    with torch.inference_mode():
        return encoder.embed(encoder.prepare(picture)[None])[0]


def test_an_embedding_is_the_mean_of_the_patches_tokens_or_the_networks_own(image_weights, picture):
    network = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    network.load_state_dict({k: v for k, v in load_file(image_weights).items() if not k.startswith("head.")})
    patches = load_image_encoder("timm:test_vit", image_weights)
    own = load_image_encoder("timm:test_vit", image_weights, "own")
    with torch.inference_mode():
        tokens = network.forward_features(patches.prepare(picture)[None])[0]
    assert len(tokens) == 1 + 10 * 10
    torch.testing.assert_close(embed(patches, picture), sum(tokens[1:]) / 100)
    torch.testing.assert_close(embed(own, picture), tokens[0])
    assert (patches.identity["pooling"], own.identity["pooling"]) == ("patches", "own")
    assert patches.identity["pixels"] == [160, 160]
    assert patches.identity["weights_sha256"] == own.identity["weights_sha256"]


def test_a_network_without_patches_pools_as_it_does(tmp_path, picture):
    network = timm.create_model("test_resnet", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "resnet.pt")
    found = embed(load_image_encoder("timm:test_resnet", tmp_path / "resnet.pt"), picture)
    assert found.shape == (network.num_features,)
    with pytest.raises(InputError, match=r"--image-pooling patches: .*test_resnet has no tokens of patches"):
        load_image_encoder("timm:test_resnet", tmp_path / "resnet.pt", "patches")


def test_a_folder_that_timm_saved(tmp_path, image_weights, picture):
    network = timm.create_model("test_vit", pretrained=False)
    network.load_state_dict(load_file(image_weights))
    timm.models.save_for_hf(network, tmp_path / "saved")
    found = embed(load_image_encoder(f"timm:local-dir:{tmp_path / 'saved'}"), picture)
    torch.testing.assert_close(found, embed(load_image_encoder("timm:test_vit", image_weights), picture))


def test_the_image_side_of_a_clip(tmp_path, picture):
    config, checkpoint = make_tiny_clip(tmp_path, steps=0)
    clip = load_clip(str(config), str(checkpoint))
    with torch.inference_mode():
        expected = clip.network.encode_image(clip.preprocess(picture)[None])[0]
    torch.testing.assert_close(embed(load_image_encoder(f"open_clip:{config}", checkpoint), picture), expected)


def test_a_network_of_transformers(tmp_path, picture):
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    network = transformers.Dinov2Model(transformers.Dinov2Config(**size)).eval()
    network.save_pretrained(tmp_path)
    sides = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    transformers.BitImageProcessor(**sides).save_pretrained(tmp_path)
    encoder = load_image_encoder(f"transformers:{tmp_path}")
    with torch.inference_mode():
        tokens = network(encoder.prepare(picture)[None]).last_hidden_state[0]
    torch.testing.assert_close(embed(encoder, picture), tokens[1:].mean(dim=0))
    torch.testing.assert_close(embed(load_image_encoder(f"transformers:{tmp_path}", None, "own"), picture), tokens[0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit", "expected timm:NAME, transformers:NAME or open_clip:MODEL/TAG"),
        ("timm:", "expected timm:NAME"),
        ("timm:test_vitt", "timm has no such model; near it: test_vit"),
        ("timm:local-dir:nowhere", "timm:local-dir:nowhere: cannot be loaded"),
        ("open_clip:ViT-B-32", r"expected open_clip:MODEL/TAG"),
        ("open_clip:ViT-B-32/mine", "neither a checkpoint file nor one of"),
    ],
)
def test_what_is_no_encoder_is_refused(name, reason):
    with pytest.raises(InputError, match=reason):
        load_image_encoder(name)


def test_weights_of_another_network_are_refused(tmp_path, image_weights):
    with pytest.raises(InputError, match="timm:test_resnet: cannot be loaded"):
        load_image_encoder("timm:test_resnet", image_weights)
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        load_image_encoder("timm:test_vit", tmp_path / "none.pt")
    with pytest.raises(InputError, match="is a folder with weights"):
        load_image_encoder("transformers:mine", image_weights)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:hf-hub:me/mine", "open_clip:ViT-B-32/openai"])
def test_without_a_network_a_download_fails_at_once_and_names_the_ways_out(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=f"--image-encoder {name} is to be downloaded, but .*; run once with a network"
    ):
        load_image_encoder(name)
