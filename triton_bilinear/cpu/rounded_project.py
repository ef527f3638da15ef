"""The project-then-dot order in bfloat16 on a CPU's matrix unit: u times the weight rounded once, both sums whole."""

from __future__ import annotations

import torch
from torch import Tensor

from .costs import Plan
from .dots import rounded_products
from .matrix_unit import padded
from .padded import padded_rows, slabs
from .pieces import row_pieces, spans
from .workspace import Workspace


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    work = Workspace(out, rounded=True)
    q, r = padded(1, weight.shape[1]), padded(1, weight.shape[2])
    projected = _of_outputs_inner if weight.stride(0) == 1 else _of_outputs_outer
    for piece, left, right in zip(*(row_pieces(t, plan.rows) for t in (out, u, v)), strict=True):
        left, right = padded_rows(work, "u", left, q), padded_rows(work, "v", right, r)
        target = work.target("out", piece)
        for outputs in spans(weight.shape[0], plan.columns // r):
            z = projected(work, left, weight[outputs], r, plan.outputs * r)
            start = None if bias is None else bias[outputs]
            target[:, outputs].copy_(rounded_products(work, right, z, start))
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


def _of_outputs_outer(work: Workspace, left: Tensor, weight: Tensor, r: int, columns: int) -> Tensor:
    """z (rows, r, p), stored (rows, p, r)."""
    return project(work, left, weight, len(weight), r, columns).mT


def _of_outputs_inner(work: Workspace, left: Tensor, weight: Tensor, r: int, columns: int) -> Tensor:
    """z (rows, r, p) as it is stored, for a weight whose p is dense."""
    return project(work, left, weight.permute(2, 1, 0), r, len(weight), columns)
