"""All pairs in bfloat16 on a CPU's matrix unit: z is rounded once, and every sum is taken whole, by one product.

Names of sizes and z as in `pairs`. Sums are as long as the unit takes them, with an end of 0 (see `matrix_unit`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .columns import padded_matrices
from .pair_plans import PairPlan
from .pieces import pair_pieces, spans
from .rounded import sides, transposed
from .workspace import Workspace


def pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: PairPlan) -> None:
    """out[b, l, s, t] = sum_{m,n} x[b, s, m] weight[l, m, n] y[b, t, n] + bias[l]."""
    work = Workspace(out, out.dtype)
    slabs = plan.layout.slabs(weight)
    for samples, rows in pair_pieces(x.shape[0], x.shape[1], plan.rows, plan.together):
        part = x[samples, rows]
        left = work.padded("x", part, *part.shape[:2], plan.m).view(-1, plan.m)
        right = work.matrices("y", y[samples], y.shape[1], plan.n)
        for piece in spans(plan.outer, plan.columns):
            z = work.take("z", len(left), (piece.stop - piece.start) * plan.inner)
            z[:, len(slabs[piece]) * plan.inner :] = 0
            for columns, matrix in padded_matrices(work, slabs[piece], plan.m, plan.inner):
                torch.mm(left, matrix, out=z[:, columns])
            plan.layout.dot(work, z, right, piece, bias, out[samples, :, rows])


def pairwise_grad_x(g: Tensor, y: Tensor, weight: Tensor, out: Tensor, plan: PairPlan) -> None:
    """out[b, s, m] = sum_{l,t,n} g[b, l, s, t] weight[l, m, n] y[b, t, n]."""
    work = Workspace(out, out.dtype)
    matrices = sides(work, plan.layout.slabs(weight).transpose(0, 1), plan.outer, plan.inner, plan.at_once)
    for samples, rows in pair_pieces(out.shape[0], out.shape[1], plan.rows, plan.together):
        part = out[samples, rows]
        target = work.target("out", part)
        z = work.take("z", len(target), plan.outer * plan.inner)
        right = work.matrices("y", y[samples], plan.t, plan.n)
        plan.layout.spread(work, g[samples, :, rows], right, slice(0, plan.outer), z)
        for columns, matrix in matrices:
            torch.mm(z, matrix, out=target[:, columns])
        work.store(part, target)


def pairwise_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor, plan: PairPlan) -> None:
    """out[l, m, n] = sum_{b,s,t} g[b, l, s, t] x[b, s, m] y[b, t, n]."""
    work = Workspace(out, out.dtype)
    batch = x.shape[0] * x.shape[1]
    left, right = transposed(work, "x", x, plan.rows), work.matrices("y", y, plan.t, plan.n)
    slabs = plan.layout.slabs(out)
    for piece in spans(plan.outer, plan.columns):
        part = slabs[piece].transpose(0, 1)
        z = work.take("z", plan.rows, part[0].numel())
        z[batch:] = 0
        plan.layout.spread(work, g, right, piece, z[:batch])
        target = work.fused_target("out", part)
        work.store(part, torch.mm(left, z, out=target))
