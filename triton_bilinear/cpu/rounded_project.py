"""The project-then-dot order in bfloat16 on a CPU's matrix unit: u times the weight rounded once, both sums whole."""

from __future__ import annotations

import torch
from torch import Tensor

from .columns import OutputsOuter
from .costs import Plan
from .matrix_unit import padded
from .padded import padded_rows, slabs
from .pieces import row_pieces, spans
from .workspace import Workspace


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    work = Workspace(out, rounded=True)
    q, r = padded(1, weight.shape[1]), padded(1, weight.shape[2])
    dot = _dot_of_outputs_inner if weight.stride(0) == 1 else _dot_of_outputs_outer
    for piece, left, right in zip(*(row_pieces(t, plan.rows) for t in (out, u, v)), strict=True):
        left, right = padded_rows(work, "u", left, q), padded_rows(work, "v", right, r).unsqueeze(1)
        target = work.target("out", piece)
        for outputs in spans(weight.shape[0], plan.columns // r):
            start = None if bias is None else bias[outputs]
            dot(work, left, right, weight[outputs], start, target[:, outputs], plan.outputs * r)
        work.store(piece, target)


def project(work: Workspace, left: Tensor, weight: Tensor, outer: int, inner: int, columns: int) -> Tensor:
    """left (rows, m) times a weight (O, M, I), as z (rows, outer, inner), 0 beyond O and I; M <= m.

    A weight that must be copied is, for so many columns at a time.
    """
    z = work.take("z", len(left), outer, inner)
    for where, matrix in slabs(work, weight, left.shape[1], inner, max(1, columns // inner)):
        torch.mm(left, matrix, out=z.flatten(1)[:, where])
    z[:, len(weight) :], z[:, :, weight.shape[2] :] = 0, 0  # even where a factor is infinite
    return z


def _dot_of_outputs_outer(
    work: Workspace, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, columns: int
) -> None:
    """out (rows, p), by way of z (rows, p, r): all pairs of one row and one row."""
    z = project(work, left, weight, len(weight), right.shape[2], columns)
    OutputsOuter.dot(work, z.flatten(1), right, slice(0, len(weight)), bias, out[:, :, None, None])


def _dot_of_outputs_inner(
    work: Workspace, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, columns: int
) -> None:
    """The same by way of z (rows, r, p), for a weight whose p is dense."""
    z = project(work, left, weight.permute(2, 1, 0), right.shape[2], len(weight), columns)
    dots = work.take("dots", len(left), 1, len(weight))
    if bias is not None:
        dots.copy_(bias)
    out.copy_(dots.baddbmm_(right, z, beta=0 if bias is None else 1).squeeze(1))
