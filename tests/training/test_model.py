"""The residual MLP as documented, its dropout, its file, and predicting in chunks."""

import json
import math
import pickle
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from src.common.files import InputError
from src.training.model import Committee, Dropout, ResidualMLP, load_translator, save_translator, translate
from src.training.recipe import BASELINE

DIMS = {"text_dim": 5, "image_dim": 3, "hidden_dim": 8, "depth": 3, "norm": 1}


def make_translator(dropout=0.1, seed=0):
    torch.manual_seed(seed)
    return ResidualMLP(**DIMS, dropout=dropout)


@pytest.fixture
def saved(tmp_path):
    translator = make_translator()
    save_translator(translator.state_dict(), translator.dims, tmp_path / "best.safetensors")
    return tmp_path / "best.safetensors"


# ---------------------------------------------------------------------------------------------------- architecture


def test_the_baseline_has_26_7_million_parameters():
    with torch.device("meta"):
        translator = ResidualMLP(1024, 1536, BASELINE.hidden_dim, BASELINE.dropout)
    t, h, v = 1024, 3072, 1536
    linear = (t * h + h) + 2 * (h * h + h) + (h * v + v)
    assert translator.num_parameters == linear + 3 * 2 * h == 26_767_872
    assert [module.p for module in translator.modules() if isinstance(module, nn.Dropout)] == [BASELINE.dropout] * 3


def test_it_is_a_residual_mlp():
    """Linear, LayerNorm, GELU; plus a branch of two such layers; Linear: written out with the file's own weights."""
    translator = make_translator().eval()
    weights = translator.state_dict()
    text = torch.randn(11, 5)

    def layer(x, linear, norm):
        x = x @ weights[f"{linear}.weight"].T + weights[f"{linear}.bias"]
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        x = x * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    hidden = layer(text, "stem.0", "stem.1")
    branch = layer(layer(hidden, "branch.0", "branch.1"), "branch.4", "branch.5")
    expected = (hidden + branch) @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(translator(text), expected)
    assert len(weights) == 2 * (4 + 3)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_counts_hidden_layers_and_one_has_no_branch(depth):
    translator = ResidualMLP(5, 3, 8, depth=depth).eval()
    assert sum(isinstance(module, nn.GELU) for module in translator.modules()) == depth
    if depth == 1:
        text = torch.randn(4, 5)
        assert torch.equal(translator(text), translator.head(translator.stem(text)))


def test_without_norm_there_is_none():
    translator = ResidualMLP(5, 3, 8, depth=2, norm=False)
    assert not any(isinstance(module, nn.LayerNorm) for module in translator.modules())
    assert translator.num_parameters == (5 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)


def test_a_committee_predicts_the_mean_of_its_unit_vectors_and_comes_back_exactly(tmp_path):
    committee, text = Committee(3, **DIMS).eval(), torch.randn(4, 5)
    each = [member(text) / member(text).norm(dim=1, keepdim=True) for member in committee.members]
    torch.testing.assert_close(committee(text), sum(each) / 3)
    assert not torch.allclose(each[0], each[1])
    save_translator(committee.state_dict(), committee.dims, tmp_path / "committee.safetensors")
    assert torch.equal(load_translator(tmp_path / "committee.safetensors")(text), committee(text))


def test_a_ridge_regression_beside_a_committee_has_its_share_in_the_prediction(tmp_path):
    beside, text = Committee(2, **DIMS, landmarks=4).eval(), torch.randn(6, 5)
    for parameter in beside.ridge.parameters():
        parameter.copy_(torch.rand_like(parameter))
    beside.ridge_share.fill_(0.25)
    mlps, ridge = without(beside)(text), beside.ridge(text)
    expected = 0.75 * mlps / mlps.norm(dim=1, keepdim=True) + 0.25 * ridge / ridge.norm(dim=1, keepdim=True)
    torch.testing.assert_close(beside(text), expected)
    save_translator(beside.state_dict(), beside.dims, tmp_path / "beside.safetensors")
    assert torch.equal(load_translator(tmp_path / "beside.safetensors")(text), beside(text))


def without(committee):
    """The same MLPs without the ridge regression."""
    alone = Committee(2, **DIMS).eval()
    alone.members.load_state_dict(committee.members.state_dict())
    return alone


# --------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_dropout_drops_at_its_rate_and_preserves_the_mean(rate):
    torch.manual_seed(0)
    ones = torch.ones(1000, 1003)
    dropped = Dropout(rate)(ones)
    kept = (dropped != 0).double()
    sigma = math.sqrt(rate * (1 - rate) / ones.numel())
    assert abs(1 - kept.mean().item() - rate) < 5 * sigma
    assert abs(dropped.double().mean().item() - 1) < 5 * sigma / (1 - rate)
    assert dropped.unique().tolist() == [0, pytest.approx(1 / (1 - rate))]
    # Independent: rows, columns and neighbours (four elements share a draw) go together no more than by chance.
    assert kept.mean(0).std().item() == pytest.approx(math.sqrt(rate * (1 - rate) / 1000), rel=0.15)
    assert kept.mean(1).std().item() == pytest.approx(math.sqrt(rate * (1 - rate) / 1003), rel=0.15)
    flat = kept.view(-1)
    for distance in (1, 2, 3, 4):
        both = (flat[:-distance] * flat[distance:]).mean().item()
        assert both == pytest.approx((1 - rate) ** 2, abs=0.005)


def test_another_call_drops_others_and_the_seed_decides():
    dropout, ones = Dropout(0.5), torch.ones(64, 64)
    torch.manual_seed(1)
    first, second = dropout(ones), dropout(ones)
    torch.manual_seed(1)
    assert torch.equal(dropout(ones), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (3, 7), (2, 3, 5)])
def test_dropout_takes_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape
    assert Dropout(0.5)(torch.ones(shape).mT if len(shape) > 1 else torch.ones(shape)).numel() == math.prod(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_the_dtype(dtype):
    assert Dropout(0.5)(torch.ones(8, dtype=dtype)).dtype == dtype


def test_the_gradient_passes_where_the_value_did():
    values = torch.randn(50, 50, requires_grad=True)
    dropped = Dropout(0.3)(values)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, torch.where(dropped == 0, 0.0, 1 / 0.7))


def test_in_evaluation_or_at_rate_0_dropout_is_the_identity():
    values = torch.randn(20, 20)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    state = torch.get_rng_state()
    assert torch.equal(Dropout(0.0)(values), values)
    assert torch.equal(torch.get_rng_state(), state)
    translator = make_translator(dropout=0.5)
    text = torch.randn(40, 5)
    assert not torch.equal(translator(text), translator(text))
    translator.eval()
    assert torch.equal(translator(text), translator(text))


# -------------------------------------------------------------------------------------------------------- its file


def test_a_saved_translator_comes_back_exactly(saved):
    translator, loaded = make_translator(), load_translator(saved)
    assert not loaded.training
    assert loaded.dims == DIMS
    assert loaded.state_dict().keys() == translator.state_dict().keys()
    for name, tensor in translator.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], tensor), name
    text = torch.randn(9, 5)
    assert torch.equal(loaded(text), translator.eval()(text))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_loading_draws_no_random_numbers(saved):
    state = torch.get_rng_state()
    load_translator(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loaded_translator_does_not_depend_on_the_file(saved):
    loaded = load_translator(saved)
    before = loaded(torch.ones(1, 5))
    other = make_translator(seed=1)
    save_translator(other.state_dict(), other.dims, saved)
    assert torch.equal(loaded(torch.ones(1, 5)), before)
    assert not torch.equal(load_translator(saved)(torch.ones(1, 5)), before)


def test_weights_are_a_plain_safetensors_file_without_views(saved, tmp_path):
    weights = {name: tensor.repeat_interleave(2, dim=0)[::2] for name, tensor in make_translator().state_dict().items()}
    assert not weights["head.weight"].is_contiguous()
    save_translator(weights, DIMS, tmp_path / "views.safetensors")
    assert (tmp_path / "views.safetensors").read_bytes() == saved.read_bytes()
    assert load_file(saved).keys() == weights.keys()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_not_ours_are_refused(saved, tmp_path):
    weights = {name: tensor.clone() for name, tensor in load_file(saved).items()}
    metadata = {"translator": json.dumps(DIMS)}
    path = tmp_path / "other.safetensors"

    def refused(reason):
        with pytest.raises(InputError, match=rf"other\.safetensors: not a translator's weights .*{reason}"):
            load_translator(path)

    for content in (b"", b"text", b"\xff" * 100, saved.read_bytes()[:-1], saved.read_bytes()[:300]):
        path.write_bytes(content)
        refused("")
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    refused("")
    torch.save(weights, path)
    refused("")
    assert not (tmp_path / "executed").exists()

    save_file(weights, path)
    refused("translator")  # of another program: no such metadata
    save_file(weights, path, metadata={"translator": "many"})
    refused("")
    save_file(weights, path, metadata={"translator": json.dumps(DIMS | {"layers": 4})})
    refused("layers")
    save_file(weights, path, metadata={"translator": json.dumps(DIMS | {"hidden_dim": 9})})
    refused("")
    save_file({name: tensor for name, tensor in weights.items() if name != "head.bias"}, path, metadata=metadata)
    refused("")
    save_file(weights | {"more": torch.ones(1)}, path, metadata=metadata)
    refused("")
    save_file(weights, path, metadata=metadata)
    assert load_translator(path).dims == DIMS


@pytest.mark.parametrize(
    "odd",
    [
        *({"copies": 10**9}, {"depth": 10**9}, {"norm": 10**9}, {"copies": 10**5, "depth": 10**5}),
        *({"hidden_dim": 2**40}, {"hidden_dim": 2**20}, {"text_dim": 2**63}, {"image_dim": 10**400}),
        *({"copies": 0}, {"copies": -1}, {"depth": 0}, {"norm": -1}, {"hidden_dim": 0}, {"landmarks": -1}),
        *({"copies": "2"}, {"depth": 3.0}, {"norm": True}, {"hidden_dim": None}, {"landmarks": [4]}, {"text_dim": {}}),
    ],
    ids=lambda odd: ", ".join(f"{name} {value!s:.15}" for name, value in odd.items()),
)
def test_odd_dimensions_are_refused_at_once(tmp_path, odd):
    """Without an attempt to build so many layers, or to find memory for them."""
    committee, path = Committee(2, **DIMS, landmarks=4), tmp_path / "odd.safetensors"
    save_translator(committee.state_dict(), committee.dims | odd, path)
    started = time.perf_counter()
    with pytest.raises(InputError, match=r"odd\.safetensors: not a translator's weights"):
        load_translator(path)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("text", ["", "null", "2", "[]", "{}", '"copies"', '["copies"]', '{"copies": 2}', "[" * 10**5])
def test_what_is_no_object_of_dimensions_is_refused(tmp_path, text):
    save_file(make_translator().state_dict(), tmp_path / "odd.safetensors", metadata={"translator": text})
    with pytest.raises(InputError, match=r"odd\.safetensors: not a translator's weights"):
        load_translator(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 1)])
def test_a_scalar_of_another_shape_is_refused(tmp_path, shape):
    committee = Committee(2, **DIMS, landmarks=4)
    odd = committee.state_dict() | {"ridge.gamma": torch.zeros(shape)}
    save_translator(odd, committee.dims, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=r"odd\.safetensors: not a translator's weights"):
        load_translator(tmp_path / "odd.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.safetensors: no such file"):
        load_translator(tmp_path / "absent.safetensors")


# ------------------------------------------------------------------------------------------------------- translate


@pytest.mark.parametrize("chunk_size", [1, 7, 32, 33, 1000])
def test_predictions_do_not_depend_on_the_chunks(chunk_size):
    translator = make_translator(dropout=0.5)
    text = torch.randn(33, 5)
    expected = translator.eval()(text)
    predicted = translate(translator, text, chunk_size)
    torch.testing.assert_close(predicted, expected, rtol=1e-5, atol=1e-6)
    assert predicted.shape == (33, 3)
    assert not predicted.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_translating_restores_the_mode_and_draws_nothing(training):
    translator = make_translator(dropout=0.5).train(training)
    state = torch.get_rng_state()
    text = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(translate(translator, text), translate(translator, text))
    assert all(module.training == training for module in translator.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_predictions_are_float32_and_no_captions_give_none():
    translator = make_translator()
    assert translate(translator, torch.randn(4, 5, dtype=torch.float64)).dtype == torch.float32
    assert translate(translator, torch.empty(0, 5)).shape == (0, 3)


def test_every_parameter_gets_a_gradient():
    translator = make_translator()
    text, image = torch.randn(64, 5), torch.randn(64, 3)
    loss = F.mse_loss(translator(text), image)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in translator.parameters())
