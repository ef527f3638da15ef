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
from triton_bilinear.planning import forget_plans

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
def test_split_results_have_a_workspace_of_their_own_each_time():
    """Grad weight of many rows is added up from partial sums."""
    results = []
    for _ in range(2):
        g, x, y = (torch.randn(5000, size) for size in (3, 4, 5))
        out = torch.full((3, 4, 5), torch.nan)
        gpu.grad_weight(g, x, y, out)
        torch.testing.assert_close(out, torch.einsum("bl,bm,bn->lmn", g, x, y), rtol=1e-4, atol=1e-3)
        results.append(out)
    assert not torch.equal(*results)


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
    assert third != first
