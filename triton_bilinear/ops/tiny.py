"""A tiny layer on a CPU, as torch's own differentiable products: there the number of calls is what it costs.

The product of every m with every n is the Khatri-Rao order of `cpu`, of a bounded size; its gradients are torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import is_automatic
from .derivatives import is_plain

# Elements of the product, which autograd keeps for backward.
LARGEST = 2**14

# Of which sums are accumulated in the dtype itself.
_DTYPES = (torch.float32, torch.float64)


def suits(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int) -> bool:
    """Whether the layer is that small, and nothing (a mode, a transform, a compiler) looks for its ops."""
    return (
        x.dim() == 2
        and feature_dim == -1
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and is_automatic()
        and is_plain(x, y, weight, bias)  # before sizes are looked at, on which a compiler would then rely
        and 0 < x.numel() * y.shape[1] <= LARGEST
        and weight.shape[0] > 0
    )


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`z[i, l] = sum_mn x[i, m] weight[l, m, n] y[i, n] + bias[l]`: x (B, M), y (B, N), weight (L, M, N), bias (L,)."""
    products = (x.unsqueeze(2) * y.unsqueeze(1)).flatten(1)
    matrix = weight.flatten(1).t()
    return torch.mm(products, matrix) if bias is None else torch.addmm(bias, products, matrix)
