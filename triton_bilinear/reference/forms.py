"""Items 5, 6, 8, 10: a bilinear form; every pair of samples; a batch; several forms of one sample."""

from __future__ import annotations

import torch
from torch import Tensor

from .dots import combine, dot_columns, scale_columns


def form(x: Tensor, y: Tensor, A: Tensor) -> Tensor:
    """Item 5: `z = x^T A y`, a scalar.

    x (M,), y (N,), A (M, N) -> ().
    """
    return x @ A @ y


def form_backward(g: Tensor, x: Tensor, y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 5: `dx = g A y`, `dy = g A^T x`, `dA = g x y^T`.

    g (), x (M,), y (N,), A (M, N) -> dx (M,), dy (N,), dA (M, N).
    """
    return g * (A @ y), g * (A.T @ x), g * torch.outer(x, y)


def pairwise(X: Tensor, Y: Tensor, A: Tensor) -> Tensor:
    """Item 6: `Z = X^T A Y`, that is `Z[s,t] = x_s^T A y_t` for every pair of columns.

    X (M, S), Y (N, T), A (M, N) -> (S, T).
    """
    return X.T @ A @ Y


def pairwise_backward(g: Tensor, X: Tensor, Y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 6: `dX = A Y g^T`, `dY = A^T X g`, `dA = X g Y^T`.

    g (S, T), X (M, S), Y (N, T), A (M, N) -> dX (M, S), dY (N, T), dA (M, N).
    """
    return A @ Y @ g.T, A.T @ X @ g, X @ g @ Y.T


def batch_form(X: Tensor, Y: Tensor, A: Tensor) -> Tensor:
    """Item 8: `z = X . (A Y)`, one form for every sample, samples as columns.

    X (M, B), Y (N, B), A (M, N) -> (1, B).
    """
    return dot_columns(X, A @ Y)


def batch_form_backward(g: Tensor, X: Tensor, Y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 8: `dX = g . A Y`, `dY = g . A^T X`, `dA = (g . X) Y^T`.

    g (1, B), X (M, B), Y (N, B), A (M, N) -> dX (M, B), dY (N, B), dA (M, N).
    """
    return scale_columns(g, A @ Y), scale_columns(g, A.T @ X), scale_columns(g, X) @ Y.T


def forms(x: Tensor, y: Tensor, A: Tensor) -> Tensor:
    """Item 10: `z[l] = x^T A_l y`, L forms of one sample.

    x (M,), y (N,), A (L, M, N) -> (L,).
    """
    return A @ y @ x


def forms_backward(g: Tensor, x: Tensor, y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 10: `dx = (g . A) y`, `dy = (g . A)^T x`, `dA_l = g[l] x y^T`.

    g (L,), x (M,), y (N,), A (L, M, N) -> dx (M,), dy (N,), dA (L, M, N).
    """
    gA = combine(g, A)
    return gA @ y, gA.T @ x, g[:, None, None] * torch.outer(x, y)
