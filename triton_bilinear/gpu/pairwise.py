"""All pairs of rows of x and of y, and the gradients, as products of three matrices for `chain`.

`chain` takes p (b, o, k, a, e), q (b, o, k, e, c), r (b, o, k, c, d) and out (b, o, a, d): expanded views, no copies of
matrices. Names of sizes: x (B, S, M), y (B, T, N), weight (L, M, N), g (B, L, S, T).
"""

from __future__ import annotations

from torch import Tensor

from .chain import chain

ChainOperands = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]


def pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    chain(*pairwise_operands(x, y, weight, bias, out))


def pairwise_grad_x(g: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    chain(*pairwise_grad_x_operands(g, y, weight, out))


def pairwise_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    chain(*pairwise_grad_weight_operands(g, x, y, out))


def pairwise_operands(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> ChainOperands:
    """What `chain` is given for the forward pass."""
    lead = (x.shape[0], weight.shape[0], 1)
    return (
        x[:, None, None].expand(*lead, -1, -1),
        weight[None, :, None].expand(*lead, -1, -1),
        y.mT[:, None, None].expand(*lead, -1, -1),
        bias,
        out,
    )


def pairwise_grad_x_operands(g: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> ChainOperands:
    """What `chain` is given for the gradient of x."""
    lead = (g.shape[0], 1, weight.shape[0])
    return (
        g[:, None],
        y[:, None, None].expand(*lead, -1, -1),
        weight.mT[None, None].expand(*lead, -1, -1),
        None,
        out[:, None],
    )


def pairwise_grad_weight_operands(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> ChainOperands:
    """What `chain` is given for the gradient of the weight."""
    lead = (1, g.shape[1], g.shape[0])
    return (
        x.mT[None, None].expand(*lead, -1, -1),
        g.transpose(0, 1)[None],
        y[None, None].expand(*lead, -1, -1),
        None,
        out[None],
    )
