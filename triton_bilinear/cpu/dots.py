"""A product of a vector and a matrix for each row of a piece."""

from __future__ import annotations

from torch import Tensor, bmm

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
