"""The work of a step, counted from what the interpreted kernels execute: matrix products, atomics, launches.

One unit is 2*B*L*M*N floating-point operations. Tiles are counted whole, so sizes are multiples of the tiles: what is
counted is then the order of the contraction, and no padding.
"""

from __future__ import annotations

from itertools import chain, combinations, product

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from conftest import INTERPRETED
from instrument import Counts, counted

import triton_bilinear as tb
from triton_bilinear.inspection.problem import StepProblem
from triton_bilinear.inspection.step import step_ops
from triton_bilinear.tuning.devices import find_device

interpreted = pytest.mark.skipif(not INTERPRETED, reason="counts what Triton's interpreter runs")

B, M, N = 128, 64, 64
NAMES = ("x", "y", "weight", "bias")


def step(L: int, dtype: torch.dtype, wanted: tuple[str, ...] = NAMES, M: int = M) -> Counts:
    """The public function and autograd's backward for the gradients wanted."""
    shapes = {"x": (B, M), "y": (B, N), "weight": (L, M, N), "bias": (L,)}
    tensors = {name: torch.randn(shape).to(dtype).requires_grad_(name in wanted) for name, shape in shapes.items()}
    with tb.use_backend("triton"), counted() as counts:
        result = tb.bilinear(*tensors.values())
        if wanted:
            torch.autograd.grad(result, [tensors[name] for name in wanted], torch.randn_like(result))
    return counts


def units(counts: Counts, L: int, M: int = M) -> float:
    return counts.dot_flops / (2 * B * L * M * N)


def kernels(counts: Counts) -> list[str]:
    return [launch.kernel for launch in counts.launches if launch.dots]


DTYPES = [torch.float16, torch.float32]


@interpreted
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_costs_three_units(dtype: torch.dtype) -> None:
    counts = step(64, dtype, M=16)
    assert units(counts, 64, M=16) == 3
    assert "grad_inputs_kernel" in kernels(counts)
    assert counts.atomics == 0


@interpreted
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("L", [4, 16])
def test_a_step_of_few_outputs_costs_four_at_most(L: int, dtype: torch.dtype) -> None:
    counts = step(L, dtype)
    assert units(counts, L) <= 4
    assert counts.atomics == 0


DEVICES = ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA B200", "NVIDIA L4", "AMD Instinct MI300X"]


def test_the_gradients_of_both_inputs_are_one_product_from_16_outputs() -> None:
    for device, dtype, L in product(DEVICES, DTYPES, (16, 32, 64, 256)):
        ops = step_ops(StepProblem((4096, L, 128, 128), dtype), find_device(device))
        assert "grad_inputs" in [op.name for op in ops], (device, dtype, L)


SUBSETS = list(chain.from_iterable(combinations(NAMES[:3], count) for count in range(4)))


@interpreted
@pytest.mark.parametrize("wanted", SUBSETS, ids="-".join)
def test_a_step_costs_what_the_gradients_asked_for_need(wanted: tuple[str, ...]) -> None:
    """The forward pass, the joint or a single product for the inputs, and one for the weight."""
    needed = 1 + bool({"x", "y"} & set(wanted)) + ("weight" in wanted)
    assert units(step(64, torch.float16, wanted, M=16), 64, M=16) == needed


@interpreted
@pytest.mark.parametrize("wanted", SUBSETS, ids="-".join)
@pytest.mark.parametrize("L", [1, 2])
def test_a_kept_product_saves_a_unit(L: int, wanted: tuple[str, ...]) -> None:
    """With x A kept, the gradient of y (of x, if that is wanted alone) needs no contraction."""
    needed = 1 + ({"x", "y"} <= set(wanted)) + ("weight" in wanted)
    counts = step(L, torch.float32, wanted)
    assert units(counts, L) == needed
    assert len(kernels(counts)) == needed


@interpreted
@pytest.mark.parametrize("L", [1, 2])
def test_a_kept_product_saves_a_unit_in_half_precision(L: int) -> None:
    counts = step(L, torch.float16)
    assert len(kernels(counts)) == 3
    assert units(counts, L) <= 4


@pytest.mark.parametrize("device", DEVICES)
def test_launches_do_not_depend_on_the_number_of_outputs(device: str) -> None:
    """A product and a second pass for each of forward, grad x, grad y and grad weight, at most."""
    for L, (rows, m, n) in product((1, 3, 17, 64, 4096), ((1, 64, 64), (512, 8, 129), (100_000, 32, 32))):
        ops = step_ops(StepProblem((rows, L, m, n), torch.float16), find_device(device))
        assert sum(len(op.launches) for op in ops) <= 8


# (batch, L, S, T, M, N), and the factor of work allowed: a tile's first product is made anew for each tile of columns.
PAIRWISE = [((1, 2, 64, 64, 64, 64), 1.0), ((1, 1, 256, 256, 64, 64), 2.0)]


def pairwise(sizes: tuple[int, ...], dtype: torch.dtype, wanted: tuple[str, ...]) -> Counts:
    batch, L, S, T, m, n = sizes
    shapes = {"x": (batch, S, m), "y": (batch, T, n), "weight": (L, m, n), "bias": (L,)}
    tensors: dict[str, Tensor] = {
        name: torch.randn(shape).to(dtype).requires_grad_(name in wanted) for name, shape in shapes.items()
    }
    with tb.use_backend("triton"), counted() as counts:
        result = tb.pairwise_bilinear(*tensors.values())
        if wanted:
            torch.autograd.grad(result, [tensors[name] for name in wanted], torch.randn_like(result))
    return counts


@interpreted
@pytest.mark.parametrize("wanted", [(), ("x",), ("y",), ("weight",), NAMES], ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("sizes", "factor"), PAIRWISE, ids=str)
def test_pairwise_is_factored(
    sizes: tuple[int, ...], factor: float, dtype: torch.dtype, wanted: tuple[str, ...]
) -> None:
    """Every result is two products of matrices for each form and sample; nothing is computed for each pair."""
    batch, L, S, T, m, n = sizes
    forms = 2 * batch * L
    costs = {
        "forward": forms * min(S * n * (m + T), m * T * (n + S)),
        "x": forms * min(S * n * (T + m), T * m * (n + S)),
        "y": forms * min(T * m * (S + n), S * n * (m + T)),
        "weight": forms * min(m * T * (S + n), S * n * (T + m)),
        "bias": 0,
    }
    counts = pairwise(sizes, dtype, wanted)
    assert counts.dot_flops <= factor * sum(costs[name] for name in ("forward", *wanted))
    assert counts.atomics == 0
