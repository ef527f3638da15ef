"""The primitives through torch's own matrix products, in pieces that fit the caches.

For every device without Triton. Each function writes its results into tensors that the caller made; inputs and results
may have any strides, with features on the last axis. Sums are accumulated in float32 (float64 for float64) and rounded
once; on a matrix unit what lies between two products is too (see `matrix_unit`). Products are MKL's, dealt to the
threads by `shares`, or on some CPUs those of `onednn`. Beside the results a call takes a workspace of bounded size,
whatever the batch.
"""

from __future__ import annotations

from torch import Tensor

from . import (
    features_first,
    joint,
    khatri_rao,
    matrix_unit,
    project,
    rounded,
    rounded_features_first,
    rounded_joint,
    rounded_joint_tiles,
    rounded_project,
    weight_grad,
    whole,
)
from .budget import Budget, budget_of, piece_elements
from .costs import Plan, Weight
from .huge_pages import advise
from .orders import plan_contract, plan_joint, plan_weight
from .pairs import pairwise, pairwise_grad_weight, pairwise_grad_x
from .pieces import flatten_batch
from .workspace import ACCUMULATE

__all__ = [
    "contract",
    "contract_keep",
    "grad_inputs",
    "grad_weight",
    "pairwise",
    "pairwise_grad_weight",
    "pairwise_grad_x",
]

_ORDERS = {
    "features_first": features_first,
    "joint": joint,
    "khatri_rao": khatri_rao,
    "project": project,
    "rounded": rounded,
    "rounded_features_first": rounded_features_first,
    "rounded_joint": rounded_joint,
    "rounded_joint_tiles": rounded_joint_tiles,
    "rounded_project": rounded_project,
    "weight": weight_grad,
}


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p].

    Shapes: u (*batch, Q), v (*batch, R), weight (P, Q, R), bias (P,) or None, out (*batch, P).
    """
    advise(out)
    if _empty(out, weight, bias):
        return
    u, v, out = flatten_batch(u, v, out)
    _contract(u, v, weight, bias, out)


def contract_keep(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor) -> None:
    """As `contract`, and kept[..., p, r] = sum_q u[..., q] weight[p, q, r], for few outputs.

    Shapes: as in `contract`; kept (*batch, P, R), contiguous.
    """
    advise(out, kept)
    if _empty(out, weight, bias):
        kept.zero_()
        return
    piece, (p, q, r) = piece_elements(out.device), weight.shape
    u, v, out, kept = flatten_batch(u, v, out, kept.flatten(-2))
    if whole.suits(out, weight):
        whole.run(out, weight, whole.contract_keep, (u, v, weight, bias), out, kept.view(-1, p, r))
        return
    rows = max(1, piece // max(kept.shape[-1], q, r))
    columns = kept.shape[-1] if _seen(weight).lies_as((1, 0, 2)) else max(1, piece // q)
    project.contract_keep(u, v, weight, bias, out, kept, rows, columns)


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor) -> None:
    """out_x[..., m] = sum_{l,n} g[..., l] weight[l, m, n] y[..., n] and out_y[..., n] = sum_{l,m} g weight x.

    Shapes: g (*batch, L), x and out_x (*batch, M), y and out_y (*batch, N), weight (L, M, N).
    """
    advise(out_x, out_y)
    if weight.numel() == 0 or g.numel() == 0:
        out_x.zero_()
        out_y.zero_()
        return
    g, x, y, out_x, out_y = flatten_batch(g, x, y, out_x, out_y)
    if whole.suits(g, weight):
        whole.run(g, weight, whole.grad_inputs, (g, x, y, weight), out_x, out_y)
        return
    for_x, for_y = weight.transpose(0, 1), weight.permute(2, 0, 1)
    budget = _budget(g, weight)
    one = plan_joint(_rows(g), _seen(weight), budget)
    if _plan_contract(out_x, for_x, budget).cost + _plan_contract(out_y, for_y, budget).cost < one.cost:
        _contract(g, y, for_x, None, out_x, budget)
        _contract(g, x, for_y, None, out_y, budget)
    else:
        _ORDERS[one.order].grad_inputs(g, x, y, weight, out_x, out_y, one)


def grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """out[l, m, n] = sum_batch g[..., l] x[..., m] y[..., n].

    Shapes: g (*batch, L), x (*batch, M), y (*batch, N), out (L, M, N).
    """
    advise(out)
    if out.numel() == 0 or g.numel() == 0:
        out.zero_()
        return
    g, x, y = flatten_batch(g, x, y)
    if whole.suits(g, out):
        whole.run(g, out, whole.grad_weight, (g, x, y), out)
        return
    as_they_lie = all(rounded.lies_right(factor) for factor in (g, x, y))
    plan = plan_weight(_rows(g), _seen(out), _budget(g, out), as_they_lie)
    alone, outer, inner = ((g, x, y)[axis] for axis in plan.axes)
    _ORDERS[plan.order].grad_weight(alone, outer, inner, out.permute(plan.axes), plan)


def _plan_contract(out: Tensor, weight: Tensor, budget: Budget) -> Plan:
    return plan_contract(tuple(out.shape[:-1]), _seen(weight), budget)


def _contract(
    u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, budget: Budget | None = None
) -> None:
    """Of at least one sum, and one axis of the batch or few. budget: of the step that it is part of."""
    if whole.suits(out, weight):
        whole.run(out, weight, whole.contract, (u, v, weight, bias), out)
        return
    plan = _plan_contract(out, weight, budget or _budget(out, weight))
    if plan.axes == (0, 2, 1):
        u, v, weight = v, u, weight.mT
    _ORDERS[plan.order].contract(u, v, weight, bias, out, plan)


def _budget(rows: Tensor, weight: Tensor) -> Budget:
    p, q, r = weight.shape
    return budget_of(rows.device, weight.dtype, _rows(rows), (p, q, r))


def _rows(tensor: Tensor) -> int:
    return tensor.numel() // tensor.shape[-1]


def _seen(weight: Tensor) -> Weight:
    """A weight, or its gradient, as the planner sees it."""
    (p, q, r), (step_p, step_q, step_r) = weight.shape, weight.stride()
    as_stored = weight.dtype == ACCUMULATE[weight.dtype]
    return Weight((p, q, r), (step_p, step_q, step_r), as_stored, matrix_unit.serves(weight))


def _empty(out: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Completes `out` where there is nothing to sum, and says whether that was so."""
    if out.numel() and weight.numel():
        return False
    if bias is None:
        out.zero_()
    else:
        out.copy_(bias.expand_as(out))
    return True
