"""Weighted rows by embedding_bag, which reads its operands as if they were dense: whatever their strides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_cpu import check, make
from torch import Tensor

from triton_bilinear import cpu
from triton_bilinear.cpu import bags, whole
from triton_bilinear.cpu.workspace import Workspace

SIZES = [(1, 1, 1), (1, 5, 7), (5, 1, 16), (3, 4, 1), (9, 33, 17), (70, 8, 64), (2, 3, 700)]
LAYOUTS = {
    "dense": lambda tensor: tensor.clone(),
    "columns of more": lambda tensor: tensor.repeat(1, 3)[:, : tensor.shape[1]],
    "every second row": lambda tensor: tensor.repeat_interleave(2, 0)[::2],
    "one value expanded": lambda tensor: tensor[:, :1].expand(-1, tensor.shape[1]),
    "one row expanded": lambda tensor: tensor[:1].expand(tensor.shape[0], -1),
    "transposed": lambda tensor: tensor.t().contiguous().t(),
}


def assert_rounded_once(got: Tensor, exact: Tensor, terms: Tensor) -> None:
    """Within half a unit in the last place of bfloat16, and what float32 makes of the sum of such terms."""
    assert got.dtype == torch.bfloat16
    assert ((got.double() - exact).abs() <= exact.abs() * 2.0**-8 + terms * 2.0**-20).all()


@pytest.fixture
def work() -> Workspace:
    return Workspace(torch.empty(0, dtype=torch.bfloat16), rounded=True)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("rows", "q", "r"), SIZES)
def test_products(rows: int, q: int, r: int, layout: Callable[[Tensor], Tensor], work: Workspace) -> None:
    outer, inner = layout(torch.randn(rows, q).bfloat16()), torch.randn(rows, r).bfloat16()
    exact = (outer.double().unsqueeze(2) * inner.double().unsqueeze(1)).flatten(0, 1)
    for more in (0, 3):
        made = bags.products(work, outer, inner, rows + more)
        assert_rounded_once(made[: rows * q], exact, exact.abs())
        assert made.shape == ((rows + more) * q, r)
        assert not made[rows * q :].any()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("rows", "length", "columns"), SIZES)
def test_sums(rows: int, length: int, columns: int, layout: Callable[[Tensor], Tensor], work: Workspace) -> None:
    vectors, matrices = layout(torch.randn(rows, length).bfloat16()), torch.randn(rows, length, columns).bfloat16()
    terms = vectors.double().unsqueeze(2) * matrices.double()
    assert_rounded_once(bags.sums(work, vectors, matrices), terms.sum(1), terms.abs().sum(1))


def test_of_several_sizes_in_one_call(work: Workspace) -> None:
    """Where the rows are is kept for pieces of the same size only."""
    for rows, q in ((4, 3), (3, 4), (4, 3), (2, 6)):
        outer, inner = torch.randn(rows, q).bfloat16(), torch.randn(rows, 5).bfloat16()
        exact = (outer.double().unsqueeze(2) * inner.double().unsqueeze(1)).flatten(0, 1)
        assert_rounded_once(bags.products(work, outer, inner, rows), exact, exact.abs())
        matrices = torch.randn(rows, q, 5).bfloat16()
        terms = outer.double().unsqueeze(2) * matrices.double()
        assert_rounded_once(bags.sums(work, outer, matrices), terms.sum(1), terms.abs().sum(1))


def test_infinities_and_what_is_no_number(work: Workspace) -> None:
    outer = torch.tensor([[torch.inf, 0.0, torch.nan, 3e38]]).bfloat16()
    inner = torch.tensor([[1.0, 0.0, torch.nan, -torch.inf, 3e38]]).bfloat16()
    expected = outer.unsqueeze(2) * inner.unsqueeze(1)
    torch.testing.assert_close(bags.products(work, outer, inner, 1), expected[0], equal_nan=True)


@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
def test_another_default_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call makes lies where its operands do."""
    monkeypatch.setattr(whole, "LARGEST", 0)
    inputs, results = make(name, torch.bfloat16, b=40, p=33, q=9, r=10)
    with torch.device("meta"):
        getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
