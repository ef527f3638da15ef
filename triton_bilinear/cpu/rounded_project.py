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
    for piece, left, right in zip(*(row_pieces(t, plan.rows) for t in (out, u, v)), strict=True):
        left, right = padded_rows(work, "u", left, q), padded_rows(work, "v", right, r).unsqueeze(1)
        target = work.target("out", piece)
        for outputs in spans(weight.shape[0], plan.columns // r):
            z = project(work, left, weight[outputs], q, r, plan.outputs)
            # All pairs of one row and one row.
            OutputsOuter.dot(work, z, right, outputs, bias, target[:, :, None, None])
        work.store(piece, target)


def project(work: Workspace, left: Tensor, weight: Tensor, m: int, n: int, copied: int) -> Tensor:
    """left (rows, m) times a weight (l, M, N), as z (rows, l n); the weight of `copied` outputs is copied at a time."""
    z = work.take("z", len(left), len(weight), n)
    for columns, matrix in slabs(work, weight, m, n, copied):
        torch.mm(left, matrix, out=z.flatten(1)[:, columns])
    z[:, :, weight.shape[2] :] = 0  # even where a factor is infinite
    return z.flatten(1)
