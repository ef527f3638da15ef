"""Rows that are weighted, and added up, by torch's embedding_bag, for bfloat16.

torch's products of bfloat16 take a matrix of one row, or sums of one term, one after another at some 50 ns each; its
elementwise product converts what it reads; the loop of embedding_bag does this and nothing else, two to four times as
fast. It accumulates in float32, rounds a sum once, and returns a new tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .workspace import Workspace

# Elements of bfloat16 that it takes for each weighted row: where that is, its weight, dense, and that in float32; and
# where each row is a bag, where that begins, and two tensors that are not filled.
OF_TERM = 5
OF_PRODUCT = 11

_SUM = 0  # its mode


def products(work: Workspace, outer: Tensor, inner: Tensor, rows: int) -> Tensor:
    """outer[i, q] inner[i, r] as a matrix (rows Q, R), 0 beyond the rows of the factors. inner: of dense rows."""
    batch, q = outer.shape
    indices = work.latest("rows", (batch, q), lambda: _steps(work, batch, 1).repeat_interleave(q))
    # Each product is a bag of its own; behind those of the batch are empty ones.
    offsets = work.latest("bags", (batch, q, rows), lambda: _steps(work, rows * q + 1, 1).clamp_(max=batch * q))
    return _bags(inner, indices, offsets, outer)


def sums(work: Workspace, vectors: Tensor, matrices: Tensor) -> Tensor:
    """vectors[i] matrices[i], rounded once. Shapes: (rows, K), (rows, K, columns), contiguous; (rows, columns)."""
    rows, length = vectors.shape
    indices = work.latest("terms", (rows, length), lambda: _steps(work, rows * length, 1))
    offsets = work.latest("sums", (rows, length), lambda: _steps(work, rows + 1, length))
    return _bags(matrices.view(rows * length, -1), indices, offsets, vectors)


def _steps(work: Workspace, count: int, step: int) -> Tensor:
    """0, step, 2 step and so on."""
    return torch.arange(0, count * step, step, dtype=torch.int32, device=work.device)


def _bags(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Bag b is the sum over j of table[indices[j]] weights[j], where offsets[b] <= j < offsets[b + 1].

    The operator reads all of them as if they were dense.
    """
    weights = weights.contiguous().view(-1)
    made = torch._embedding_bag_forward_only(table, indices, offsets, False, _SUM, False, weights, True)
    bags: Tensor = made[0]
    return bags
