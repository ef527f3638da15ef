"""A tiny layer on a CPU, as torch's own differentiable products: there the number of calls is what it costs.

The product of every m with every n is the Khatri-Rao order of `cpu`, of a bounded size; its gradients are torch's.
In half precision all of it is in float32, but for a rounding of each result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import is_automatic
from ..cpu.workspace import ACCUMULATE, fusible
from .direct import is_plain

# Elements of the product, and of a copied weight, which autograd keeps for backward.
LARGEST = 2**14


def suits(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int) -> bool:
    """Whether the layer is that small, and nothing (a mode, a transform, a compiler) looks for its ops."""
    return (
        feature_dim == -1
        and x.device.type == "cpu"
        and x.dtype in ACCUMULATE
        and is_automatic()
        and is_plain(x, y, weight, bias)  # before sizes are looked at, on which a compiler would then rely
        and 0 < x.numel() * y.shape[-1] <= LARGEST
        and weight.shape[0] > 0
        and (weight.numel() <= LARGEST or (weight.dtype == ACCUMULATE[weight.dtype] and fusible(weight, 1)))
    )


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`z[..., l] = sum_mn x[..., m] weight[l, m, n] y[..., n] + bias[l]`: x (*, M), y (*, N), weight (L, M, N)."""
    dtype = ACCUMULATE[x.dtype]
    if x.dtype != dtype:
        wide = bilinear(x.to(dtype), y.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        return wide.to(x.dtype)
    products = (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)
    matrix = weight.flatten(1)
    if bias is None or products.dim() == 2:
        return torch.nn.functional.linear(products, matrix, bias)
    # With a bias it would return a view, which some in-place changes are forbidden to.
    return torch.nn.functional.linear(products, matrix).add_(bias)
