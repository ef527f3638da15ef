"""The columns of z[b, s, l, n], which lies between the two products of a pairwise form: their order and their products.

Names of sizes: x (B, S, M), y (B, T, N), weight (L, M, N), g (B, L, S, T). A layout says which of l and n is the inner
axis of the columns: so a weight stored (M, N, L) is served as it lies, like one stored (L, M, N).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .workspace import ACCUMULATE, Workspace, blas_ready, is_fused

# Elements of a matrix that is too large to be copied for the sake of fewer calls.
LARGE = 2**16

# Elements of the sums of a piece of the batch.
SUMS = 2**20

# Multiply-adds of a sample that are worth a call of their own.
CALL = 2**19


class Layout(Protocol):
    """A piece is a slice of the slabs, the outer axis of the columns.

    y: in the dtype of the buffers. `OutputsOuter` takes one that is padded by 0, so that sums are longer: by rows in
    `spread`, by columns (z too) in `dot`.
    """

    @staticmethod
    def slabs(weight: Tensor) -> Tensor:
        """A weight (L, M, N) as matrices (M, inner columns), one for each outer column."""

    @staticmethod
    def spread(work: Workspace, g: Tensor, y: Tensor, piece: slice, z: Tensor) -> None:
        """z (B S, columns) = sum_t g[b, l, s, t] y[b, t, n] of these columns."""

    @staticmethod
    def dot(work: Workspace, z: Tensor, y: Tensor, piece: slice, bias: Tensor | None, out: Tensor) -> None:
        """out[b, l, s, t] = bias[l] + sum_n z[b, s, l, n] y[b, t, n]; of pieces of n, the last one writes it."""


class OutputsOuter:
    """Columns (l, n). Of a sample, all rows and outputs are the rows of one product."""

    @staticmethod
    def slabs(weight: Tensor) -> Tensor:
        return weight

    @staticmethod
    def spread(work: Workspace, g: Tensor, y: Tensor, piece: slice, z: Tensor) -> None:
        left = g[:, piece].transpose(1, 2)
        samples, rows, outputs = left.shape[:3]
        left = work.padded("g", left, samples, rows, outputs, y.shape[1]).flatten(1, 2)
        work.multiply_samples(left, y, z.view(samples, rows * outputs, -1))

    @staticmethod
    def dot(work: Workspace, z: Tensor, y: Tensor, piece: slice, bias: Tensor | None, out: Tensor) -> None:
        samples, outputs, rows, t = out[:, piece].shape
        product = work.take("product", samples, rows * outputs, t)
        if bias is not None:
            product.view(samples, rows, outputs, t).copy_(bias[piece, None])
        work.multiply_samples(z.view(samples, rows * outputs, -1), y.mT, product, add=bias is not None)
        out[:, piece].copy_(product.view(samples, rows, outputs, t).transpose(1, 2))


class FeaturesOuter:
    """Columns (n, l). Each row of a sample is a product of its own, and z is summed over its pieces."""

    @staticmethod
    def slabs(weight: Tensor) -> Tensor:
        return weight.permute(2, 1, 0)

    @staticmethod
    def spread(work: Workspace, g: Tensor, y: Tensor, piece: slice, z: Tensor) -> None:
        samples, outputs, rows, _ = g.shape
        left = y[:, :, piece].mT
        targets = z.view(samples, rows, left.shape[1], outputs)
        for target, shared, right in zip(targets, left, g.permute(0, 2, 3, 1), strict=True):
            right = work.matrices("g", right, *right.shape[1:])
            torch.bmm(shared.expand(rows, -1, -1), right, out=target)

    @staticmethod
    def dot(work: Workspace, z: Tensor, y: Tensor, piece: slice, bias: Tensor | None, out: Tensor) -> None:
        samples, outputs, rows, t = out.shape
        left = y[:, :, piece]
        product = work.take("product", samples, rows, t, outputs)
        if bias is not None and not piece.start:
            product.copy_(bias)
        for target, shared, right in zip(product, left, z.view(samples, rows, -1, outputs), strict=True):
            target.baddbmm_(shared.expand(rows, -1, -1), right, beta=0 if bias is None and not piece.start else 1)
        if piece.stop == y.shape[2]:
            out.copy_(product.permute(0, 3, 1, 2))


def layout_of(weight: Tensor, samples: int, rows: int, t: int) -> Layout:
    """What suits how the weight (L, M, N) is stored, where the products are large enough for it.

    samples, rows: of a piece of the batch.
    """
    outputs, _, n = weight.shape
    outputs_dense = weight.stride(0) == 1 and weight.stride(1) != 1 and weight.stride(2) != 1
    if outputs_dense and rows * outputs * n * t >= CALL and samples * rows * outputs * t <= SUMS:
        return FeaturesOuter
    return OutputsOuter


def matrices(work: Workspace, slabs: Tensor) -> list[tuple[slice, Tensor]]:
    """The slabs (outer, M, inner) side by side: columns of z, and the matrix (M, columns) that makes or meets them."""
    if _one_by_one(slabs, work.dtype):
        return _each(slabs)
    return [(slice(0, slabs[:, 0].numel()), work.fused("weight", slabs.transpose(0, 1)))]


def target_matrices(work: Workspace, slabs: Tensor) -> list[tuple[slice, Tensor]]:
    """The same of slabs that are a result; if there is one matrix only, it may be a buffer, and must be stored."""
    if _one_by_one(slabs, work.dtype):
        return _each(slabs)
    return [(slice(0, slabs[:, 0].numel()), work.fused_target("out", slabs.transpose(0, 1)))]


def copied_elements(slabs: Tensor) -> int:
    """Elements of a slab that `matrices` copies."""
    dtype = ACCUMULATE[slabs.dtype]
    as_they_lie = is_fused(slabs.transpose(0, 1), dtype) or _one_by_one(slabs, dtype)
    return 0 if as_they_lie else slabs[0].numel()


def _each(slabs: Tensor) -> list[tuple[slice, Tensor]]:
    inner = slabs.shape[2]
    return [(slice(i * inner, (i + 1) * inner), slab) for i, slab in enumerate(slabs)]


def _one_by_one(slabs: Tensor, dtype: torch.dtype) -> bool:
    """Whether the slabs are matrices as they lie, of a size that makes up for a call for each."""
    outer, m, inner = slabs.shape
    return outer > 1 and m * inner >= LARGE and slabs.dtype == dtype and blas_ready(slabs[0])
