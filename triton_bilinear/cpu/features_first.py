"""The Khatri-Rao order with the rows of the batch innermost: the products u[q] v[r] as a matrix (q r, rows).

They meet a weight (p, q r) as it lies, and make a gradient (q r, p) as it lies, by matrix products of dense matrices in
row-major order, which are the fastest. What is transposed for it are the features of the rows, never the weight.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .budget import padded_share, piece_elements
from .costs import Plan
from .pieces import row_pieces, tiles
from .transposed import transposed
from .workspace import Workspace


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]; each thread makes the products it sums."""
    workspace = Workspace(out)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    matrices = workspace.tiles("weight", weight, grid)
    pieces = row_pieces(out, plan.rows), workspace.rows("u", u, plan.rows), workspace.rows("v", v, plan.rows)
    for piece, outer, inner in zip(*pieces, strict=True):
        count, share = padded_share(len(outer), workspace.threads)
        outer, inner = _dealt(workspace, "outer", outer, count, share), _dealt(workspace, "inner", inner, count, share)
        sums = workspace.take("sums", count, len(weight), share)
        if bias is not None:
            sums.copy_(bias.unsqueeze(1))
        for i, ((q, r), matrix) in enumerate(zip(grid, matrices, strict=True)):
            product = workspace.take("product", count, q.stop - q.start, r.stop - r.start, share)
            torch.mul(outer[:, q].unsqueeze(2), inner[:, r].unsqueeze(1), out=product)
            workspace.multiply_each(matrix, product.flatten(1, 2), sums, add=i > 0 or bias is not None)
        results = transposed(sums).flatten(0, 1)[: piece.numel() // len(weight)]
        piece.copy_(results.view(piece.shape))


def grad_weight(alone: Tensor, outer: Tensor, inner: Tensor, out: Tensor, plan: Plan) -> None:
    """out[a, o, i] = sum_batch alone[..., a] outer[..., o] inner[..., i]; `out` with its axes in that order.

    Each tile of `out` is finished before the next is begun, as in `weight_grad`.
    """
    workspace = Workspace(alone)

    def turned(o: slice, i: slice) -> Iterator[tuple[Tensor, Tensor]]:
        rows = workspace.rows("outer", outer[..., o], plan.rows), workspace.rows("inner", inner[..., i], plan.rows)
        for left, right in zip(*rows, strict=True):
            yield transposed(left), transposed(right)

    grid = list(tiles(outer.shape[-1], inner.shape[-1], plan.columns))
    again = len(grid) > 1 and outer.numel() + inner.numel() <= piece_elements(alone.device)
    kept = list(turned(slice(None), slice(None))) if again else None
    for o, i in grid:
        tile = out[:, o, i].permute(1, 2, 0)
        target = workspace.rows_target("out", tile)
        factors = turned(o, i) if kept is None else ((left[o], right[i]) for left, right in kept)
        for count, (rows, (left, right)) in enumerate(
            zip(workspace.rows("alone", alone, plan.rows), factors, strict=True)
        ):
            outputs, features, length = left.shape[0], *right.shape
            torch.mul(left.unsqueeze(1), right, out=workspace.take("product", outputs, features, length))
            product = workspace.take("product", outputs * features, length)
            workspace.multiply(product, rows, target, add=count > 0)
        workspace.store(tile, target)


def _dealt(workspace: Workspace, name: str, matrix: Tensor, count: int, share: int) -> Tensor:
    """A matrix (rows, features) as matrices (features, share), one for each of `count` threads, 0 beyond its rows."""
    rows, features = matrix.shape
    if rows < count * share or not matrix.is_contiguous():
        matrix = workspace.padded(name, matrix, count * share, features)
    return transposed(matrix.view(count, share, features))
