"""Items 7 and 9: the dot in each of its cases, and a vector times a 3-tensor.

Item 7 defines `x . y` by what x and y are; here each case has its own function, and its gradients are the product rule.
"""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """Item 7, two vectors: `z[j] = x[j] y[j]`.

    x (B,), y (B,) -> (B,).
    """
    return x * y


def multiply_backward(g: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Item 7, two vectors: `dx = g . y`, `dy = g . x`.

    g (B,), x (B,), y (B,) -> dx (B,), dy (B,).
    """
    return multiply(g, y), multiply(g, x)


def scale_columns(x: Tensor, Y: Tensor) -> Tensor:
    """Item 7, a row vector and a matrix: column j of the matrix is scaled, `Z[m,j] = x[0,j] Y[m,j]`.

    x (1, B), Y (M, B) -> (M, B).
    """
    return x * Y


def scale_columns_backward(g: Tensor, x: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Item 7, a row vector and a matrix: `dx = g . Y` (column by column), `dY = x . g`.

    g (M, B), x (1, B), Y (M, B) -> dx (1, B), dY (M, B).
    """
    return dot_columns(g, Y), scale_columns(x, g)


def scale_rows(x: Tensor, Y: Tensor) -> Tensor:
    """Item 7, a column vector and a matrix: row i of the matrix is scaled, `Z[i,m] = x[i,0] Y[i,m]`.

    x (B, 1), Y (B, M) -> (B, M).
    """
    return x * Y


def scale_rows_backward(g: Tensor, x: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Item 7, a column vector and a matrix: `dx = g . Y` (row by row), `dY = x . g`.

    g (B, M), x (B, 1), Y (B, M) -> dx (B, 1), dY (B, M).
    """
    return dot_rows(g, Y), scale_rows(x, g)


def dot_columns(X: Tensor, Y: Tensor) -> Tensor:
    """Item 7, two matrices, samples as columns: `z[0,j] = sum_m X[m,j] Y[m,j]`.

    X (M, B), Y (M, B) -> (1, B).
    """
    return (X * Y).sum(0, keepdim=True)


def dot_columns_backward(g: Tensor, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Item 7, two matrices, samples as columns: `dX = g . Y`, `dY = g . X`.

    g (1, B), X (M, B), Y (M, B) -> dX (M, B), dY (M, B).
    """
    return scale_columns(g, Y), scale_columns(g, X)


def dot_rows(X: Tensor, Y: Tensor) -> Tensor:
    """Item 7, two matrices, samples as rows: `z[i,0] = sum_m X[i,m] Y[i,m]`.

    X (B, M), Y (B, M) -> (B, 1).
    """
    return (X * Y).sum(1, keepdim=True)


def dot_rows_backward(g: Tensor, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Item 7, two matrices, samples as rows: `dX = g . Y`, `dY = g . X`.

    g (B, 1), X (B, M), Y (B, M) -> dX (B, M), dY (B, M).
    """
    return scale_rows(g, Y), scale_rows(g, X)


def combine(v: Tensor, A: Tensor) -> Tensor:
    """Item 9: `v . A = sum_l v[l] A[l]`, a matrix.

    v (L,), A (L, M, N) -> (M, N). Rows of coefficients (B, L) give one matrix each, (B, M, N).
    """
    return torch.tensordot(v, A, dims=1)


def combine_backward(g: Tensor, v: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Item 9: `dv[l] = sum_mn g[m,n] A[l,m,n]`, `dA[l] = v[l] g`.

    g (M, N), v (L,), A (L, M, N) -> dv (L,), dA (L, M, N).
    """
    return (g * A).sum((1, 2)), v[:, None, None] * g
