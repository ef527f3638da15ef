"""A product of a vector and a matrix for each row of a piece."""

from __future__ import annotations

from torch import Tensor, bmm

from . import bags, matrix_unit
from .workspace import Workspace


def add_products(workspace: Workspace, vectors: Tensor, matrices: Tensor, target: Tensor, started: bool) -> None:
    """target[i] = vectors[i] matrices[i], added to what is there if it was started.

    As products of matrices of one row: of all ways to reduce a tile these read it the fastest. Into rows that are not
    dense torch makes them one after another; there they go by way of a buffer.
    """
    vectors, target = vectors.unsqueeze(1), target.unsqueeze(1)
    dense = target.is_contiguous()
    if dense and started:
        target.baddbmm_(vectors, matrices)
        return
    product = target if dense else workspace.take("dots", *target.shape)
    bmm(vectors, matrices, out=product)
    if not dense:
        target.add_(product) if started else target.copy_(product)


def rounded_products(work: Workspace, vectors: Tensor, matrices: Tensor, bias: Tensor | None = None) -> Tensor:
    """The sums vectors[i] matrices[i] + bias, rounded once. Shapes: (rows, K), (rows, K, columns), (columns,).

    As sums of the rows of each matrix. Where these are not dense, or of one column, or there is a bias to start from,
    as products by a matrix unit: of a matrix of one row and each matrix; of one that is stored as its transpose and a
    matrix of one column, unless the unit reads transposes faster.
    """
    if bias is None and matrices.is_contiguous() and matrices.shape[2] > 1:
        return bags.sums(work, vectors, matrices)
    result = work.take("dots", len(vectors), matrices.shape[2])
    if bias is not None:
        result.copy_(bias)
    beta = 0 if bias is None else 1
    if matrices.stride(2) == 1 or matrix_unit.kind().reads_transposes:
        result.unsqueeze(1).baddbmm_(vectors.unsqueeze(1), matrices, beta=beta)
    else:
        result.unsqueeze(2).baddbmm_(matrices.mT, vectors.unsqueeze(2), beta=beta)
    return result
