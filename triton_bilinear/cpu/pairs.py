"""All pairs of rows of x and of y, and the gradients: a product with the weight, and a small one for each sample.

Between the two lies z[b, s, l, n], either x times the weight or g times y. It is made in pieces: of rows (b, s), and of
columns (l, n). Names of sizes: x (B, S, M), y (B, T, N), weight (L, M, N), g (B, L, S, T), where B is any number of
batch axes, copied where no one stride walks them.

Each may start from the other side, where that takes less work: `x^T A y = y^T A^T x`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from . import pair_plans, rounded_pairs
from .budget import ROWS, piece_elements
from .columns import OutputsOuter, copied_elements, layout_of, matrices, target_matrices
from .costs import pair_work
from .huge_pages import advise
from .pieces import batched, pair_pieces, spans
from .workspace import ACCUMULATE, Workspace


def pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[b, l, s, t] = sum_{m,n} x[b, s, m] weight[l, m, n] y[b, t, n] + bias[l]."""
    advise(out)
    if not weight.numel() or not out.numel():
        out.zero_() if bias is None else out.copy_(bias[:, None, None].expand_as(out))
        return
    x, y, out = batched(x, 2), batched(y, 2), out.view(-1, *out.shape[-3:])
    if _work(y, x) < _work(x, y):
        x, y, weight, out = y, x, weight.mT, out.mT
    if plan := pair_plans.plan_pairwise(x, y, weight):
        rounded_pairs.pairwise(x, y, weight, bias, out, plan)
        return
    work = Workspace(out)
    pieces = Pieces(x.shape[:2], y, weight)
    slabs = pieces.layout.slabs(weight)
    for samples, rows in pieces.rows:
        left, right = work.matrix("x", x[samples, rows]), work.matrices("y", y[samples], *y.shape[1:])
        for piece in pieces.columns:
            z = _multiply(work, left, slabs[piece])
            pieces.layout.dot(work, z, right, piece, bias, out[samples, :, rows])


def pairwise_grad_x(g: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
    """out[b, s, m] = sum_{l,t,n} g[b, l, s, t] weight[l, m, n] y[b, t, n]."""
    advise(out)
    if not g.numel() or not weight.numel():
        out.zero_()
        return
    g, y, out = batched(g, 3), batched(y, 2), out.view(-1, *out.shape[-2:])
    if plan := pair_plans.plan_grad_x(g, y, weight):
        rounded_pairs.pairwise_grad_x(g, y, weight, out, plan)
        return
    if _work(y, out) < _work(out, y):
        _grad_x_from_y(g, y, weight, out)
        return
    work = Workspace(out)
    pieces = Pieces(out.shape[:2], y, weight)
    slabs = pieces.layout.slabs(weight)
    for samples, rows in pieces.rows:
        part = out[samples, rows]
        target, right = work.target("out", part), work.matrices("y", y[samples], *y.shape[1:])
        for piece in pieces.columns:
            z = work.take("z", len(target), slabs[piece, 0].numel())
            pieces.layout.spread(work, g[samples, :, rows], right, piece, z)
            for columns, matrix in matrices(work, slabs[piece]):
                started = piece.start > 0 or columns.start > 0
                work.multiply(z[:, columns], matrix.t(), target, started, together=True)
        work.store(part, target)


def _grad_x_from_y(g: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
    """The same from y times the weight, v[b, t, l, m]; its products with g are summed over l and t."""
    work = Workspace(out)
    pieces = Pieces(y.shape[:2], out, weight.mT, summed=True)
    slabs = weight.mT
    for samples, rows in pieces.rows:
        left = work.matrix("y", y[samples, rows])
        total = work.take("total", *out[samples].shape)
        for piece in pieces.columns:
            v = _multiply(work, left, slabs[piece]).view(*y[samples, rows].shape[:2], -1, weight.shape[1])
            for i, output in enumerate(range(piece.start, piece.stop)):
                started = rows.start > 0 or output > 0
                shared = g[samples, output, :, rows]
                shared = work.matrices("g", shared, *shared.shape[1:])
                work.multiply_samples(shared, v[:, :, i], total, add=started)
        if rows.stop == y.shape[1]:
            out[samples].copy_(total)


def pairwise_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """out[l, m, n] = sum_{b,s,t} g[b, l, s, t] x[b, s, m] y[b, t, n]."""
    advise(out)
    if not g.numel() or not out.numel():
        out.zero_()
        return
    g, x, y = batched(g, 3), batched(x, 2), batched(y, 2)
    if _work(y, x) < _work(x, y):
        g, x, y, out = g.mT, y, x, out.mT
    if plan := pair_plans.plan_grad_weight(g, x, y, out):
        rounded_pairs.pairwise_grad_weight(g, x, y, out, plan)
        return
    work = Workspace(out)
    pieces = Pieces(x.shape[:2], y, out)
    slabs = pieces.layout.slabs(out)
    for piece in pieces.columns:
        targets = target_matrices(work, slabs[piece])
        for count, (samples, rows) in enumerate(pieces.rows):
            left, right = work.matrix("x", x[samples, rows]), work.matrices("y", y[samples], *y.shape[1:])
            z = work.take("z", len(left), slabs[piece, 0].numel())
            pieces.layout.spread(work, g[samples, :, rows], right, piece, z)
            for columns, target in targets:
                work.multiply(left.t(), z[:, columns], target, count > 0, together=True)
        if len(targets) == 1:
            work.store(slabs[piece].transpose(0, 1), targets[0][1])


def _multiply(work: Workspace, left: Tensor, slabs: Tensor) -> Tensor:
    """Rows (rows, M) times slabs (outer, M, inner), side by side."""
    parts = matrices(work, slabs)
    if len(parts) == 1:
        return work.product("z", left, parts[0][1], together=True)
    product = work.take("z", len(left), len(slabs) * slabs.shape[2])
    for columns, matrix in parts:
        work.multiply(left, matrix, product[:, columns], together=True)
    return product


def _work(first: Tensor, other: Tensor) -> int:
    """Multiply-adds for each sample and output where rows `first` (B, S, M) meet the weight, and then `other`."""
    (rows, m), (others, n) = first.shape[1:], other.shape[1:]
    return pair_work(rows, others, m, n)


class Pieces:
    """How rows (b, s) and the columns of z are cut, so that no buffer exceeds the budget.

    shape: B, S. other: (B, T, N). weight: (L, M, N), or another tensor whose slabs are laid out as its. summed: whether
    results (T, N) of each sample are kept at hand.
    """

    def __init__(self, shape: Sequence[int], other: Tensor, weight: Tensor, summed: bool = False) -> None:
        (batch, rows), (t, n) = shape, other.shape[1:]
        budget = piece_elements(other.device)
        most = max(1, min(ROWS[-1], budget // max(t, *weight.shape)))
        in_place = not summed and other.dtype == ACCUMULATE[other.dtype]
        self.rows = list(pair_pieces(batch, rows, most, batch if in_place else budget // (t * n)))
        largest = self.rows[0][0].stop, self.rows[0][1].stop
        self.layout = OutputsOuter if summed else layout_of(weight, *largest, t)
        slabs = self.layout.slabs(weight)
        column = max(prod(largest) * max(t, slabs.shape[2]), copied_elements(slabs))
        self.columns = list(spans(len(slabs), max(1, budget // column)))
