"""The layers as modules: parameters, state, printing, copying."""

from __future__ import annotations

import copy
import pickle

import oracle
import pytest
import torch
from oracle import assert_near

import triton_bilinear as tb

MODULES = [tb.Bilinear, tb.PairwiseBilinear]


@pytest.mark.parametrize("bias", [True, False])
def test_bilinear_is_a_torch_bilinear(bias):
    torch.manual_seed(1)
    theirs = torch.nn.Bilinear(3, 4, 5, bias=bias)
    torch.manual_seed(1)
    ours = tb.Bilinear(3, 4, 5, bias=bias)
    assert isinstance(ours, torch.nn.Bilinear)
    assert ours.extra_repr() == theirs.extra_repr()
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    assert_near(ours(x, y), theirs(x, y).double())


@pytest.mark.usefixtures("either_path")
def test_each_loads_the_others_state():
    theirs, ours = torch.nn.Bilinear(3, 4, 5), tb.Bilinear(3, 4, 5)
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    ours.load_state_dict(theirs.state_dict())
    assert_near(ours(x, y), theirs(x, y).double())
    other = tb.Bilinear(3, 4, 5)
    theirs.load_state_dict(other.state_dict())
    assert_near(other(x, y), theirs(x, y).double())


@pytest.mark.parametrize("module", [torch.nn.Bilinear, *MODULES])
def test_no_input_features(module):
    with pytest.raises(ValueError, match=r"in1_features must be > 0, but got \(in1_features=0\)"):
        module(0, 3, 4)


@pytest.mark.parametrize("bias", [True, False])
def test_pairwise_bilinear(backend, device, bias):
    module = tb.PairwiseBilinear(4, 6, 2, bias=bias, device=device, dtype=torch.float64)
    x = torch.randn(2, 3, 4, device=device, dtype=torch.float64)
    y = torch.randn(2, 5, 6, device=device, dtype=torch.float64)
    assert_near(module(x, y), oracle.pairwise(x, y, module.weight, module.bias))
    assert module.extra_repr() == f"in1_features=4, in2_features=6, out_features=2, bias={bias}"
    assert list(module.state_dict()) == (["weight", "bias"] if bias else ["weight"])


def test_pairwise_is_initialised_as_bilinear():
    torch.manual_seed(1)
    pairwise = tb.PairwiseBilinear(4, 6, 2)
    torch.manual_seed(1)
    bilinear = torch.nn.Bilinear(4, 6, 2)
    for ours, theirs in zip(pairwise.parameters(), bilinear.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("either_path")
def test_copies_compute_the_same(module, tmp_path):
    layer = module(3, 4, 5)
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    torch.save(layer, tmp_path / "layer.pt")
    copies = (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(tmp_path / "layer.pt", weights_only=False),
    )
    for other in copies:
        assert type(other) is module
        assert torch.equal(other(x, y), layer(x, y))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("either_path")
def test_meta_construction(module):
    layer = module(3, 4, 5, device="meta")
    x, y = torch.randn(2, 3, device="meta"), torch.randn(2, 4, device="meta")
    expected = (2, 5) if module is tb.Bilinear else (5, 2, 2)
    assert layer(x, y).shape == expected
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer(torch.randn(2, 3), torch.randn(2, 4)).isfinite().all()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("either_path")
def test_functional_call(module):
    layer = module(3, 4, 5)
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    zeros = {name: torch.zeros_like(value) for name, value in layer.named_parameters()}
    assert not torch.func.functional_call(layer, zeros, (x, y)).any()


@pytest.mark.usefixtures("either_path")
def test_training_follows_torch():
    """Ten steps of SGD from one state: the same losses."""
    torch.manual_seed(0)
    theirs = torch.nn.Bilinear(5, 6, 3).double()
    ours = tb.Bilinear(5, 6, 3).double()
    ours.load_state_dict(theirs.state_dict())
    x, y, target = (torch.randn(16, size, dtype=torch.float64) for size in (5, 6, 3))

    def losses(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for _ in range(10):
            loss = (module(x, y) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    assert list(losses(ours)) == pytest.approx(list(losses(theirs)), rel=1e-12)
