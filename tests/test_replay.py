"""A call whose tensors lie as those of an earlier one takes its launches, and nothing else of it."""

from __future__ import annotations

import gc
import importlib
import weakref
from unittest import mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from conftest import INTERPRETED
from standin import run_standin

from triton_bilinear import gpu
from triton_bilinear.gpu import replay
from triton_bilinear.planning import Plan, forget_plans
from triton_bilinear.planning.config import config
from triton_bilinear.tuning.devices import find_device

PROJECT = config("project", 4, 2, B=16, P=4, Q=16, R=16)
WEIGHT = config("grad_weight", 4, 2, B=16, P=1, Q=16, R=16)

interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs kernels in Triton's interpreter")


def result(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    out = torch.full((*x.shape[:-1], weight.shape[0]), torch.nan, dtype=x.dtype)
    gpu.contract(x, y, weight, None, out)
    return out


def check(x: Tensor, y: Tensor, weight: Tensor) -> None:
    torch.testing.assert_close(result(x, y, weight), torch.einsum("...m,...n,lmn->...l", x, y, weight))


@pytest.fixture(autouse=True)
def nothing_planned():
    forget_plans()


def random(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@interpreted
def test_launches_are_planned_once_for_a_layout():
    module = importlib.import_module("triton_bilinear.gpu.contract")
    made = mock.Mock(wraps=module.contract_launches)
    with mock.patch.object(module, "contract_launches", made):
        for _ in range(3):
            check(*random((20, 5), (20, 6), (7, 5, 6)))
        assert made.call_count == 1
        x, y, weight = random((20, 5), (20, 6), (7, 6, 5))
        check(x, y, weight.mT)
        assert made.call_count == 2
        forget_plans()
        check(*random((20, 5), (20, 6), (7, 5, 6)))
        assert made.call_count == 3


@interpreted
def test_tensors_that_were_one_and_are_two():
    """Launches of x and x are not those of x and y, nor the other way round."""
    x, y, weight = random((20, 6), (20, 6), (7, 6, 6))
    check(x, x, weight)
    check(x, y, weight)
    check(y, y, weight)
    check(y, x, weight)


@interpreted
def test_tensors_that_begin_elsewhere():
    x, y, weight = torch.randn(20, 8), torch.randn(20, 8), torch.randn(8, 8, 8)
    check(x, y, weight)
    check(torch.randn(161)[1:].view(20, 8), y, weight)
    check(x[:, :7], y, weight[:, :7])


@interpreted
@pytest.mark.parametrize("name", ["contract", "grad_weight"])
def test_partial_sums_go_through_a_workspace_of_the_call(name):
    """Two calls by a plan of three splits, whose second pass adds what this call's first one wrote."""
    module = importlib.import_module(f"triton_bilinear.gpu.{name}")
    plan = Plan({"contract": PROJECT, "grad_weight": WEIGHT}[name], tuple("pqr"), 3, None)
    with mock.patch.object(module, f"plan_{name}", return_value=plan):
        for _ in range(2):
            if name == "contract":
                check(*random((20, 33), (20, 48), (7, 33, 48)))
            else:
                g, x, y = random((50, 3), (50, 4), (50, 5))
                out = torch.full((3, 4, 5), torch.nan, dtype=torch.float64)
                gpu.grad_weight(g, x, y, out)
                torch.testing.assert_close(out, torch.einsum("bl,bm,bn->lmn", g, x, y))
    (recipe,) = replay._recipes.values()
    assert len(recipe.replays) == 2
    assert len(recipe._workspaces) == 1


@interpreted
def test_no_tensor_is_kept():
    x, y, weight = torch.randn(20, 5), torch.randn(20, 6), torch.randn(7, 5, 6)
    kept = [weakref.ref(tensor) for tensor in (x, y, weight, result(x, y, weight))]
    del x, y, weight
    gc.collect()
    assert [tensor() for tensor in kept] == [None] * 4


@interpreted
def test_layouts_are_forgotten_rather_than_piled_up(monkeypatch):
    monkeypatch.setattr(replay, "_MOST", 3)
    for rows in range(1, 9):
        check(*random((rows, 5), (rows, 6), (7, 5, 6)))
        assert len(replay._recipes) <= 3


@pytest.mark.parametrize("device", ["NVIDIA H100 80GB HBM3", "AMD Instinct MI300X"])
def test_a_second_call_launches_what_the_first_did(device):
    """Through the compiled kernels, without Triton's binding of arguments: the driver sees no difference."""
    first, second, third = run_standin("standin_calls:repeated_steps", device).value
    assert first == second
    assert [launch.kernel for launch in third] == [launch.kernel for launch in first]
    # x of the third begins elsewhere than at a multiple of 16 bytes: no kernel compiled for such a pointer gets it.
    products = [launch for launch in third if "reduce" not in launch.kernel]
    assert len(products) == 3
    for launch in products:
        odd = {name for name, value in launch.arguments.items() if getattr(value, "offset", 0)}
        assert odd
        assert not odd & launch.divisible


def test_storages_beyond_two_gigabytes_are_layouts_of_their_own_on_amd():
    """Triton compiles for offsets that fit 32 bits where the whole storage does."""
    small = torch.empty(20, 5, device="meta")
    large = torch.empty(2**30, device="meta")[:100].view(20, 5)
    for name, same in (("AMD Instinct MI300X", False), ("NVIDIA H100 80GB HBM3", True)):
        device = find_device(name)
        assert (replay._layout([small], device) == replay._layout([large], device)) == same
