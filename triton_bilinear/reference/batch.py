"""Items 11 and 12: L forms of a batch, features first (by two methods) and samples first with bias."""

from __future__ import annotations

import torch
from torch import Tensor

from .dots import combine
from .forms import batch_form, batch_form_backward, forms, forms_backward
from .linear import add_bias, add_bias_backward


def batch_forms_method1(X: Tensor, Y: Tensor, A: Tensor) -> Tensor:
    """Item 11, method 1: `Z[l,j] = x_j^T A_l y_j`, row l of Z by item 8.

    X (M, B), Y (N, B), A (L, M, N) -> (L, B).
    """
    Z = X.new_empty(A.shape[0], X.shape[1])
    for row, A_l in enumerate(A):
        Z[row] = batch_form(X, Y, A_l)
    return Z


def batch_forms_method1_backward(g: Tensor, X: Tensor, Y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 11, method 1: item 8 for each l; dX and dY are sums over l, and `dA_l` is that of item 8.

    g (L, B), X (M, B), Y (N, B), A (L, M, N) -> dX (M, B), dY (N, B), dA (L, M, N).
    """
    dX, dY, dA = torch.zeros_like(X), torch.zeros_like(Y), torch.empty_like(A)
    for row, A_l in enumerate(A):
        dX_l, dY_l, dA[row] = batch_form_backward(g[row : row + 1], X, Y, A_l)
        dX += dX_l
        dY += dY_l
    return dX, dY, dA


def batch_forms_method2(X: Tensor, Y: Tensor, A: Tensor) -> Tensor:
    """Item 11, method 2: `Z[l,j] = x_j^T A_l y_j`, column j of Z by item 10.

    X (M, B), Y (N, B), A (L, M, N) -> (L, B).
    """
    Z = X.new_empty(A.shape[0], X.shape[1])
    for j in range(X.shape[1]):
        Z[:, j] = forms(X[:, j], Y[:, j], A)
    return Z


def batch_forms_method2_backward(g: Tensor, X: Tensor, Y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Item 11, method 2: item 10 for each sample j; dA is a sum over samples, `dx_j` and `dy_j` are those of item 10.

    g (L, B), X (M, B), Y (N, B), A (L, M, N) -> dX (M, B), dY (N, B), dA (L, M, N).
    """
    dX, dY, dA = torch.empty_like(X), torch.empty_like(Y), torch.zeros_like(A)
    for j in range(X.shape[1]):
        dX[:, j], dY[:, j], dA_j = forms_backward(g[:, j], X[:, j], Y[:, j], A)
        dA += dA_j
    return dX, dY, dA


def bilinear(X: Tensor, Y: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Item 12.3: `Z[i,l] = sum_mn X[i,m] A[l,m,n] Y[i,n] + b[l]`.

    X (B, M), Y (B, N), A (L, M, N), b (L,) -> (B, L).
    """
    XA = X @ A  # (L, B, N)
    return add_bias((XA * Y).sum(2).T, b)


def bilinear_backward(g: Tensor, X: Tensor, Y: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Item 12.4, with `(g . A)[i,m,n] = sum_l g[i,l] A[l,m,n]`:

        (1) `dX[i,m] = sum_n (g . A)[i,m,n] Y[i,n]`
        (2) `dY[i,n] = sum_m (g . A)[i,m,n] X[i,m]`
        (3) `dA[l,m,n] = sum_i g[i,l] X[i,m] Y[i,n]`
        (4) `db[l] = sum_i g[i,l]`

    g (B, L), X (B, M), Y (B, N), A (L, M, N) -> dX (B, M), dY (B, N), dA (L, M, N), db (L,).
    """
    dZ, db = add_bias_backward(g)
    gA = combine(dZ, A)
    dX = (gA @ Y.unsqueeze(2)).squeeze(2)
    dY = (gA.mT @ X.unsqueeze(2)).squeeze(2)
    gX = dZ.T.unsqueeze(2) * X  # (L, B, M)
    return dX, dY, gX.mT @ Y, db
