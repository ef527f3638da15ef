"""Swapping a model's layers, and what people do with a layer: copies, states, parametrisations, construction."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune, stateless

import triton_bilinear as tb

pytestmark = pytest.mark.usefixtures("either_path")

TORCH, OURS = torch.nn.Bilinear, tb.Bilinear


class Scorer(torch.nn.Module):
    """Bilinear layers in every position: a direct child, in a list, shared, in a child, beside others."""

    def __init__(self):
        super().__init__()
        self.first = TORCH(4, 5, 6)
        self.again = self.first
        self.many = torch.nn.ModuleList([TORCH(6, 6, 2, bias=False), torch.nn.Linear(6, 6)])
        self.inner = torch.nn.ModuleDict({"score": TORCH(6, 6, 1, dtype=torch.float64)})

    def forward(self, x, y):
        hidden = self.first(x, y) + self.again(x, y)
        two = self.many[0](hidden, self.many[1](hidden))
        return two + self.inner["score"](hidden.double(), hidden.double()).float()


NAMES = ("first", "many.0", "inner.score")


def inputs():
    return torch.randn(7, 4), torch.randn(7, 5)


def snapshot(model):
    """Everything that a swap must not change."""
    return {
        "modules": [
            (name, id(module), module.training) for name, module in model.named_modules(remove_duplicate=False)
        ],
        "parameters": [(name, id(value)) for name, value in model.named_parameters(remove_duplicate=False)],
        "buffers": [(name, id(value)) for name, value in model.named_buffers(remove_duplicate=False)],
        "requires_grad": [value.requires_grad for value in model.parameters()],
        "repr": repr(model),
    }


def test_replace_and_restore():
    model = Scorer()
    model.many.eval()
    model.first.weight.requires_grad_(False)
    before, (x, y) = snapshot(model), inputs()
    expected = model(x, y)
    report = tb.replace_bilinear(model)
    assert report == tb.Replacement(NAMES, {})
    assert snapshot(model) == before
    assert [type(model.get_submodule(name)) for name in NAMES] == [OURS] * 3
    with torch.profiler.profile() as profile:
        result = model(x, y)
    names = [event.key for event in profile.key_averages()]
    assert "aten::bilinear" not in names
    assert any(name.startswith("triton_bilinear::") for name in names)
    torch.testing.assert_close(result, expected)
    assert tb.replace_bilinear(model) == tb.Replacement((), {})
    assert tb.restore_bilinear(model) == report
    assert snapshot(model) == before
    assert [type(model.get_submodule(name)) for name in NAMES] == [TORCH] * 3
    assert tb.restore_bilinear(model) == tb.Replacement((), {})
    assert torch.equal(model(x, y), expected)


def test_the_model_itself_and_what_the_report_says():
    layer = TORCH(4, 5, 6)
    report = tb.replace_bilinear(layer)
    assert type(layer) is OURS
    assert report.replaced == ("",)
    assert str(report) == "replaced 1, skipped 0\n  replaced (the model)"


def test_an_optimizer_made_before_trains_the_layer_after():
    model, (x, y) = Scorer(), inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tb.replace_bilinear(model)
    weight = model.first.weight.clone()
    model(x, y).sum().backward()
    optimizer.step()
    assert not torch.equal(model.first.weight, weight)


def test_hooks_stay():
    layer, calls = TORCH(4, 5, 6), []
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    layer.register_forward_hook(lambda *_: calls.append("after"))
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    layer.register_state_dict_post_hook(lambda *_: calls.append("state"))
    layer.weight.register_hook(lambda _: calls.append("gradient"))
    tb.replace_bilinear(layer)
    x, y = inputs()
    layer(x.requires_grad_(), y).sum().backward()
    layer.state_dict()
    assert sorted(calls) == ["after", "backward", "before", "gradient", "state"]


class Scaled(TORCH):
    def forward(self, input1, input2):
        return 2 * super().forward(input1, input2)


class OurScaled(OURS):
    pass


def test_what_is_not_ours_to_replace_is_left_and_reported():
    model = torch.nn.ModuleDict({"plain": TORCH(4, 5, 6), "scaled": Scaled(4, 5, 6), "wrapped": TORCH(4, 5, 6)})
    model["wrapped"].forward = functools.partial(model["wrapped"].forward)
    report = tb.replace_bilinear(model)
    assert report.replaced == ("plain",)
    assert report.skipped == {
        "scaled": "test_replace.Scaled is a subclass of torch.nn.modules.linear.Bilinear",
        "wrapped": "its forward was set on the instance",
    }
    assert str(report).splitlines()[2:] == [f"  skipped {name}: {why}" for name, why in report.skipped.items()]
    assert (type(model["scaled"]), type(model["wrapped"])) == (Scaled, TORCH)
    ours = OurScaled(4, 5, 6)
    assert tb.replace_bilinear(ours) == tb.Replacement((), {})
    assert tb.restore_bilinear(ours).skipped == {
        "": "test_replace.OurScaled is a subclass of triton_bilinear.modules.Bilinear"
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_of_a_replaced_model(copied):
    model, (x, y) = Scorer(), inputs()
    tb.replace_bilinear(model)
    other = copied(model)
    assert type(other.first) is OURS
    assert other.first is other.again
    assert torch.equal(other(x, y), model(x, y))
    with torch.no_grad():
        model.first.weight.zero_()
    assert other.first.weight.any()


def test_a_restored_model_is_loaded_without_this_package(tmp_path):
    layer = tb.Bilinear(4, 5, 6)
    tb.restore_bilinear(layer)
    torch.save(layer, tmp_path / "layer.pt")
    code = f"""
import sys, torch
layer = torch.load({str(tmp_path / "layer.pt")!r}, weights_only=False)
print(type(layer) is torch.nn.Bilinear, "triton_bilinear" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"]


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    theirs, ours, (x, y) = Scorer(), Scorer(), inputs()
    tb.replace_bilinear(ours)
    # save_model knows that `first` and `again` are one layer.
    safetensors.save_model(theirs, tmp_path / "model.safetensors")
    assert safetensors.load_model(ours, tmp_path / "model.safetensors") == (set(), [])
    torch.testing.assert_close(ours(x, y), theirs(x, y))
    layer = tb.Bilinear(4, 5, 6)
    safetensors.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = TORCH(4, 5, 6)
    other.load_state_dict(safetensors.load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other.weight, layer.weight)


# Parametrisations. Each is applied before and after the swap; torch's layer with the same parameters is the oracle.


def weight_norm(layer):
    return parametrizations.weight_norm(layer, dim=0)


def spectral_norm(layer):
    # In training its power iteration moves at every forward.
    return parametrizations.spectral_norm(layer).eval()


class Symmetric(torch.nn.Module):
    def forward(self, weight):
        return weight + weight.mT


def symmetric(layer):
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(layer)


def old_spectral_norm(layer):
    return torch.nn.utils.spectral_norm(layer).eval()


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.5)


def structured(layer):
    return prune.ln_structured(layer, "weight", amount=1, n=2, dim=1)


CHANGES = [weight_norm, spectral_norm, symmetric, old_weight_norm, old_spectral_norm, pruned, structured]


def gradients(layer, x, y):
    result = layer(x, y)
    return [result, *torch.autograd.grad(result.square().sum(), list(layer.parameters()))]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights(change, order):
    layer = TORCH(5, 5, 6, dtype=torch.float64)
    x, y = torch.randn(7, 5).double(), torch.randn(7, 5).double()
    oracle = copy.deepcopy(layer)
    torch.manual_seed(1)
    change(oracle)
    if order == "before":
        torch.manual_seed(1)
        change(layer)
    assert tb.replace_bilinear(layer).replaced == ("",)
    assert isinstance(layer, OURS)
    if order == "after":
        torch.manual_seed(1)
        change(layer)
    assert list(layer.state_dict()) == list(oracle.state_dict())
    torch.testing.assert_close(gradients(layer, x, y), gradients(oracle, x, y))
    with parametrize.cached():
        torch.testing.assert_close(layer(x, y), oracle(x, y))
    twin = copy.deepcopy(layer) if parametrize.is_parametrized(layer) else None
    assert tb.restore_bilinear(layer).replaced == ("",)
    assert isinstance(layer, TORCH)
    assert not isinstance(layer, OURS)
    assert torch.equal(layer(x, y), oracle(x, y))
    # A copy made before shares the class that parametrize had made: it must not have been changed with it.
    if twin is not None:
        assert isinstance(twin, OURS)
        parametrize.remove_parametrizations(twin, "weight")
        assert type(twin) is OURS
        torch.testing.assert_close(twin(x, y), oracle(x, y))


def test_functional_call_of_a_replaced_model():
    model, (x, y) = Scorer(), inputs()
    tb.replace_bilinear(model)
    zeros = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    with pytest.warns(FutureWarning):
        assert not stateless.functional_call(model, zeros, (x, y), tie_weights=True).any()
    assert not torch.func.functional_call(model, zeros, (x, y)).any()
    assert model(x, y).any()


# Construction.


def test_meta_device_to_empty_and_replacement():
    with torch.device("meta"):
        model = Scorer()
    tb.replace_bilinear(model)
    x, y = inputs()
    assert model(x.to("meta"), y.to("meta")).shape == (7, 2)
    model.to_empty(device="cpu")
    state = Scorer().state_dict()
    model.load_state_dict(state)
    expected = Scorer()
    expected.load_state_dict(state)
    torch.testing.assert_close(model(x, y), expected(x, y))
    with torch.device("meta"):
        layer = tb.Bilinear(4, 5, 6)
    values = tb.Bilinear(4, 5, 6).state_dict()
    layer.load_state_dict(values, assign=True)
    assert torch.equal(layer.weight, values["weight"])


@pytest.mark.parametrize("module", [tb.Bilinear, tb.PairwiseBilinear])
def test_skip_init(module):
    state = torch.random.get_rng_state()
    layer = torch.nn.utils.skip_init(module, 4, 5, 6, dtype=torch.float64)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (layer.weight.shape, layer.weight.dtype, layer.weight.device.type) == ((6, 4, 5), torch.float64, "cpu")


@pytest.mark.parametrize("module", [tb.Bilinear, tb.PairwiseBilinear])
def test_dtypes_and_devices_move(module):
    layer = module(4, 5, 6)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert layer.to(dtype) is layer
        assert {value.dtype for value in layer.parameters()} == {dtype}
        x, y = torch.randn(3, 4, dtype=dtype), torch.randn(3, 5, dtype=dtype)
        assert layer(x, y).dtype == dtype
    assert layer.to("meta")(x.to("meta"), y.to("meta")).device.type == "meta"
    with pytest.raises(RuntimeError, match="same dtype"):
        module(4, 5, 6)(x, y)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
class TestLazy:
    """As torch.nn.LazyLinear behaves."""

    @pytest.mark.parametrize("bias", [True, False])
    def test_first_inputs_decide(self, bias):
        lazy, (x, y) = tb.LazyBilinear(6, bias=bias, dtype=torch.float64), inputs()
        assert lazy.has_uninitialized_params()
        assert list(lazy.state_dict()) == (["weight", "bias"] if bias else ["weight"])
        torch.manual_seed(3)
        lazy(x.double(), y.double())
        torch.manual_seed(3)
        layer = tb.Bilinear(4, 5, 6, bias=bias, dtype=torch.float64)
        assert type(lazy) is tb.Bilinear
        assert repr(lazy) == repr(layer)
        assert lazy.weight.dtype == torch.float64
        for ours, theirs in zip(lazy.parameters(), layer.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        lazy(x.double(), y.double()).sum().backward()
        assert lazy.weight.grad is not None

    def test_states_load_either_way(self):
        layer, (x, y) = tb.Bilinear(4, 5, 6), inputs()
        lazy = tb.LazyBilinear(6)
        lazy.load_state_dict(layer.state_dict())
        assert not lazy.has_uninitialized_params()
        assert torch.equal(lazy(x, y), layer(x, y))
        assert repr(lazy) == repr(layer)
        fresh = tb.LazyBilinear(6)
        fresh.load_state_dict(tb.LazyBilinear(6).state_dict())
        assert fresh.has_uninitialized_params()

    def test_copies_before_the_first_call(self):
        x, y = inputs()
        for copied in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))):
            assert copied(tb.LazyBilinear(6))(x, y).shape == (7, 6)

    def test_no_features(self):
        with pytest.raises(ValueError, match="in1_features must be > 0"):
            tb.LazyBilinear(6)(torch.ones(3, 0), torch.ones(3, 2))
