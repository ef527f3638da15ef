"""Items 2, 3, 4: bias, linear layer, matrix product."""

from __future__ import annotations

from torch import Tensor


def add_bias(Y: Tensor, b: Tensor) -> Tensor:
    """Item 2: `Z = Y + b`, the same `b` for every sample.

    Y (B, L), b (L,) -> (B, L).
    """
    return Y + b


def add_bias_backward(g: Tensor) -> tuple[Tensor, Tensor]:
    """Item 2: `dY = g`, `db = sum over samples of g`.

    g (B, L) -> dY (B, L), db (L,).
    """
    return g, g.sum(0)


def linear(X: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Item 3, samples as rows: `Y = X A^T + b`.

    X (B, N), A (M, N), b (M,) -> (B, M).
    """
    return add_bias(X @ A.T, b)


def linear_backward(g: Tensor, X: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 3, samples as rows: `dX = g A`, `dA = g^T X`, `db = g^T 1`.

    g (B, M), X (B, N), A (M, N) -> dX (B, N), dA (M, N), db (M,).
    """
    dXA, db = add_bias_backward(g)
    return dXA @ A, dXA.T @ X, db


def linear_columns(X: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Item 3, samples as columns: `Y = A X + b 1^T`.

    X (N, B), A (M, N), b (M,) -> (M, B).
    """
    return product(X, A) + b.unsqueeze(1)


def linear_columns_backward(g: Tensor, X: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 3, samples as columns: `dX = A^T g`, `dA = g X^T`, `db = g 1`.

    g (M, B), X (N, B), A (M, N) -> dX (N, B), dA (M, N), db (M,).
    """
    dX, dA = product_backward(g, X, A)
    return dX, dA, g.sum(1)


def product(X: Tensor, A: Tensor) -> Tensor:
    """Item 4: `Y = A X`, followed by any scalar `Z(Y)`.

    X (N, B), A (M, N) -> (M, B).
    """
    return A @ X


def product_backward(dY: Tensor, X: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Item 4: `dX = A^T dY`, `dA = dY X^T`, whatever the scalar is.

    dY (M, B), X (N, B), A (M, N) -> dX (N, B), dA (M, N).
    """
    return A.T @ dY, dY @ X.T
