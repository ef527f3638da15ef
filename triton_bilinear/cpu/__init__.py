"""The primitives through torch's own matrix products, in pieces that fit the caches.

For every device without Triton. Each function writes its results into tensors that the caller made; inputs and results
may have any strides, with features on the last axis. Sums are accumulated in float32 (float64 for float64) and
rounded once. Beside the results a call takes a workspace of bounded size, whatever the batch.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from . import joint, khatri_rao, project, weight_grad
from .chain import chain
from .orders import CPU_PIECE, DEVICE_PIECE, plan_contract, plan_joint, plan_weight
from .pieces import flatten_batch
from .workspace import fusible

__all__ = ["chain", "contract", "contract_keep", "grad_inputs", "grad_weight"]


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p].

    Shapes: u (*batch, Q), v (*batch, R), weight (P, Q, R), bias (P,) or None, out (*batch, P).
    """
    if _empty(out, weight.shape[1], weight.shape[2], bias):
        return
    u, v, out = flatten_batch(u, v, out)
    plan = plan_contract(prod(out.shape[:-1]), *weight.shape, _fusible_axes(weight), _budget(out))
    if plan.swap:
        u, v, weight = v, u, weight.transpose(1, 2)
    order = khatri_rao if plan.order == "khatri_rao" else project
    order.contract(u, v, weight, bias, out, plan)


def contract_keep(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor) -> None:
    """As `contract`, and kept[..., p, r] = sum_q u[..., q] weight[p, q, r], for P of 1 or 2.

    Shapes: as in `contract`; kept (*batch, P, R), contiguous.
    """
    if _empty(out, weight.shape[1], weight.shape[2], bias):
        kept.zero_()
        return
    u, v, out, kept = flatten_batch(u, v, out, kept.flatten(-2))
    rows = max(1, _budget(out) // kept.shape[-1])
    project.contract_keep(u, v, weight, bias, out, kept, rows)


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor) -> None:
    """out_x[..., m] = sum_{l,n} g[..., l] weight[l, m, n] y[..., n] and out_y[..., n] = sum_{l,m} g weight x.

    Shapes: g (*batch, L), x and out_x (*batch, M), y and out_y (*batch, N), weight (L, M, N).
    """
    for_x, for_y = weight.permute(1, 0, 2), weight.permute(2, 0, 1)
    if 0 in weight.shape or g.numel() == 0:
        out_x.zero_()
        out_y.zero_()
        return
    batch, budget = prod(g.shape[:-1]), _budget(g)
    one = plan_joint(batch, *weight.shape, fusible(weight, 1), budget)
    two = [plan_contract(batch, *t.shape, _fusible_axes(t), budget) for t in (for_x, for_y)]
    if sum(plan.cost for plan in two) < one.cost:
        contract(g, y, for_x, None, out_x)
        contract(g, x, for_y, None, out_y)
        return
    g, x, y, out_x, out_y = flatten_batch(g, x, y, out_x, out_y)
    joint.grad_inputs(g, x, y, weight, out_x, out_y, one)


def grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """out[l, m, n] = sum_batch g[..., l] x[..., m] y[..., n].

    Shapes: g (*batch, L), x (*batch, M), y (*batch, N), out (L, M, N).
    """
    if out.numel() == 0 or g.numel() == 0:
        out.zero_()
        return
    fused = " ".join(f"{a}{b}" for a in range(3) for b in range(3) if a != b and _pair_fusible(out, a, b))
    axes, plan = plan_weight(prod(g.shape[:-1]), tuple(out.shape), fused, _budget(out))
    operands = list(flatten_batch(g, x, y))
    alone, outer, inner = (operands[axis] for axis in axes)
    weight_grad.grad_weight(alone, outer, inner, out.permute(axes), plan)


def _budget(out: Tensor) -> int:
    """Elements of the largest buffer."""
    return CPU_PIECE if out.device.type == "cpu" else DEVICE_PIECE


def _empty(out: Tensor, q: int, r: int, bias: Tensor | None) -> bool:
    """Completes `out` where there is nothing to sum, and says whether that was so."""
    if out.numel() and q and r:
        return False
    if bias is None:
        out.zero_()
    else:
        out.copy_(bias.expand_as(out))
    return True


def _pair_fusible(weight: Tensor, outer: int, inner: int) -> bool:
    order = (3 - outer - inner, outer, inner)
    return fusible(weight.permute(order), 1)


def _fusible_axes(weight: Tensor) -> str:
    """The pairs of axes of a weight (p, q, r) that its strides let be one axis."""
    names = "pqr"
    return " ".join(names[a] + names[b] for a, b in ((1, 2), (2, 1), (0, 2), (0, 1)) if _pair_fusible(weight, a, b))
