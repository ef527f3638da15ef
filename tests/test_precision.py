"""How exact results are: half precision against einsum in the same dtype, float32 as torch's own setting says."""

from __future__ import annotations

import oracle
import pytest
import torch
from torch import Tensor

import triton_bilinear as tb
from triton_bilinear.cpu import matrix_unit

NAMES = ("forward", "grad x", "grad y", "grad weight", "grad bias")


def leaves(L: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = ((96, 24), (96, 32), (L, 24, 32), (L,))
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def by_einsum(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bm,lmn,bn->bl", x, weight, y) + bias


def errors(function, tensors: list[Tensor]) -> dict[str, float]:
    """Relative errors, by norms, of the result and of every gradient."""
    result = function(*tensors)
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
    found = [result, *torch.autograd.grad(result, tensors, cotangent)]
    exact = [oracle.bilinear(*tensors), *oracle.gradients(oracle.bilinear, tensors, cotangent)]
    return {
        name: ((actual.double() - value).norm() / value.norm()).item()
        for name, actual, value in zip(NAMES, found, exact, strict=True)
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("L", [1, 2, 3, 16, 128, 1024])
def test_half_precision_is_as_exact_as_einsum(L: int, dtype: torch.dtype) -> None:
    """To a twentieth: where both round the same things once, chance decides."""
    tensors = leaves(L, dtype)
    with tb.use_backend("torch"):
        ours = errors(tb.bilinear, tensors)
    theirs = errors(by_einsum, tensors)
    assert {name: error for name, error in ours.items() if error > 1.05 * theirs[name]} == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_error_does_not_grow_with_the_outputs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but results is rounded. By a matrix unit products are too: test_cpu_matrix_unit.py."""
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: False)
    with tb.use_backend("torch"):
        few, many = (errors(tb.bilinear, leaves(L, dtype)) for L in (16, 1024))
    del few["grad bias"]  # sixteen elements, one rounding of each: chance
    assert {name: many[name] for name, error in few.items() if many[name] > 1.1 * error} == {}
    assert max(many.values()) < torch.finfo(dtype).eps / 2


# As set by each of torch's names, one after another; and what products of float32 are then.
SETTINGS = [
    ("torch.backends.cuda.matmul.fp32_precision = 'none'", False),
    ("torch.backends.cuda.matmul.allow_tf32 = True", True),
    ("torch.backends.cuda.matmul.allow_tf32 = False", False),
    ("torch.set_float32_matmul_precision('high')", True),
    ("torch.set_float32_matmul_precision('highest')", False),
    ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", True),
    ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", False),
    ("torch.backends.cuda.matmul.fp32_precision = 'none'", False),
    ("torch.backends.fp32_precision = 'tf32'", True),
    ("torch.backends.fp32_precision = 'none'", False),
]


@pytest.mark.parametrize(
    ("device", "full", "allowed"),
    [
        ("NVIDIA H100 80GB HBM3", "tf32x3", "tf32"),
        ("AMD Instinct MI300X", "ieee", "tf32"),
        ("AMD Radeon RX 7900 XTX", "ieee", "ieee"),
    ],
)
def test_float32_products_follow_torchs_setting(device: str, full: str, allowed: str) -> None:
    pytest.importorskip("triton")
    from standin import run_standin

    found = run_standin("standin_calls:float32_precisions", device, [setting for setting, _ in SETTINGS]).value
    assert found == [allowed if tf32 else full for _, tf32 in SETTINGS]
