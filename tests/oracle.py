"""What results are compared with: einsum in float64, and the errors that a dtype allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None, feature_dim: int = -1) -> Tensor:
    """spec item 12 in float64."""
    x, y, weight = (tensor.double() for tensor in (x.movedim(feature_dim, -1), y.movedim(feature_dim, -1), weight))
    result = torch.einsum("...m,lmn,...n->...l", x, weight, y)
    return (result if bias is None else result + bias.double()).movedim(-1, feature_dim)


def pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """spec item 6 in float64, for a weight (L, M, N)."""
    result = torch.einsum("...sm,lmn,...tn->...lst", x.double(), weight.double(), y.double())
    return result if bias is None else result + bias.double()[:, None, None]


def gradients(function, tensors: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a float64 function, by autograd."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*leaves), leaves, cotangent.double())


def assert_near(actual: Tensor, exact: Tensor, factor: float = 4) -> None:
    """The error, relative to the largest element, is at most `factor` roundings of the dtype."""
    assert actual.shape == exact.shape
    assert not actual.isnan().any()
    if exact.numel():
        scale = exact.abs().max().clamp_min(torch.finfo(actual.dtype).tiny)
        error = ((actual.double() - exact).abs().max() / scale).item()
        assert error <= factor * torch.finfo(actual.dtype).eps, f"relative error {error:.2e} in {actual.dtype}"


def skip_reason(dtype: torch.dtype, backend: str, device: torch.device) -> str | None:
    """Why a dtype cannot be tested here."""
    if dtype == torch.bfloat16 and backend == "triton" and device.type == "cpu":
        return "Triton's interpreter computes bfloat16 wrongly"
    return None
