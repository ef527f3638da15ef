"""All pairs in bfloat16 on a CPU's matrix unit: z is rounded once, and every sum is taken whole, by one product.

Names of sizes and z as in `pairs`. Sums are as long as the unit takes them, with an end of 0 (see `matrix_unit`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .columns import OutputsOuter
from .matrix_unit import even
from .padded import padded_rows, padded_transpose, sides
from .pair_plans import GradWeightPlan, GradXPlan, PairwisePlan
from .pieces import pair_pieces, spans
from .rounded_project import project
from .workspace import Workspace


def pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: PairwisePlan) -> None:
    """out[b, l, s, t] = sum_{m,n} x[b, s, m] weight[l, m, n] y[b, t, n] + bias[l]."""
    work = Workspace(out, rounded=True)
    for samples, rows in pair_pieces(x.shape[0], x.shape[1], plan.rows, plan.samples):
        left = padded_rows(work, "x", x[samples, rows], plan.m)
        right = work.matrices("y", y[samples], y.shape[1], plan.n)
        for piece in spans(weight.shape[0], plan.outputs):
            z = project(work, left, weight[piece], piece.stop - piece.start, plan.n, plan.copied * plan.n)
            OutputsOuter.dot(work, z.flatten(1), right, piece, bias, out[samples, :, rows])


def pairwise_grad_x(g: Tensor, y: Tensor, weight: Tensor, out: Tensor, plan: GradXPlan) -> None:
    """out[b, s, m] = sum_{l,t,n} g[b, l, s, t] weight[l, m, n] y[b, t, n]."""
    work = Workspace(out, rounded=True)
    outputs, _, n = weight.shape
    matrices = sides(work, weight.transpose(0, 1), outputs, plan.n, plan.features)
    for samples, rows in pair_pieces(out.shape[0], out.shape[1], plan.rows, plan.samples):
        part = out[samples, rows]
        target = work.target("out", part)
        z = work.take("z", len(target), outputs, plan.n)
        right = work.matrices("y", y[samples], plan.t, plan.n)
        OutputsOuter.spread(work, g[samples, :, rows], right, slice(0, outputs), z.flatten(1))
        z[:, :, n:] = 0  # even where g is infinite
        for features, matrix in matrices:
            torch.mm(z.flatten(1), matrix, out=target[:, features])
        work.store(part, target)


def pairwise_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor, plan: GradWeightPlan) -> None:
    """out[l, m, n] = sum_{b,s,t} g[b, l, s, t] x[b, s, m] y[b, t, n]."""
    work = Workspace(out, rounded=True)
    batch, s, m = x.shape
    left = padded_transpose(work, "x", x, even(m), plan.length)
    for piece in spans(out.shape[0], plan.outputs):
        part = out[piece].transpose(0, 1)
        z = work.take("z", plan.length, part[0].numel())
        z[batch * s :] = 0
        for samples in spans(batch, plan.samples):
            right = work.matrices("y", y[samples], plan.t, y.shape[2])
            OutputsOuter.spread(work, g[samples], right, piece, z[samples.start * s : samples.stop * s])
        product = torch.mm(left, z, out=work.take("out", len(left), z.shape[1]))
        part.copy_(product[:m].view(part.shape))
