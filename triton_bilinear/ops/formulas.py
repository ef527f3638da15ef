"""The derivatives of the ops as formulas, in terms of the ops: reverse mode, forward mode, any order.

Everything here follows from one object, linear in each of its four arguments:

    T(g, x, A, y) = sum g[l] x[m] A[l, m, n] y[n]

The forward result and its three gradients are the partial derivatives of T, and the derivatives of those are partial
derivatives of T again, with other tensors in the places of g, x, A and y.

A backward takes (needs, saved factors, options, the cotangent of each output) and returns a gradient for each tensor
argument; a jvp takes (saved factors, options, the tangent of each tensor argument) and returns one for each output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import library as ops
from .direct import call
from .sharding import is_distributed

MaybeTensor = Tensor | None


def _sum(terms: Sequence[MaybeTensor]) -> MaybeTensor:
    """The sum of the terms that are there."""
    total: MaybeTensor = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def _grad_bias(g: Tensor, feature_dim: int) -> Tensor:
    """The sum of g over every axis but the features' (items 2 and 12.4 (4))."""
    axes = [axis for axis in range(g.dim()) if axis != g.dim() + feature_dim]
    return g.sum(axes) if axes else g


def _as_features(vector: Tensor, feature_dim: int, shape: Sequence[int]) -> Tensor:
    """A vector of features, expanded over the batch axes of a result."""
    return vector.reshape(-1, *(1,) * (-1 - feature_dim)).expand(shape)


def _contract_grads(
    needs: Sequence[bool], u: Tensor, v: Tensor, weight: Tensor, feature_dim: int, g: Tensor
) -> tuple[MaybeTensor, MaybeTensor, MaybeTensor]:
    """Gradients of contract for u, v and weight (item 12.4), those that are needed."""
    grad_u = grad_v = grad_w = None
    if needs[0] and needs[1]:
        grad_u, grad_v = call(ops.grad_inputs, g, u, v, weight, feature_dim)
    elif needs[0]:
        grad_u = call(ops.contract, g, v, weight.permute(1, 0, 2), None, feature_dim)
    elif needs[1]:
        grad_v = call(ops.contract, g, u, weight.permute(2, 0, 1), None, feature_dim)
    if needs[2]:
        grad_w = call(ops.grad_weight, g, u, v, feature_dim)
    return grad_u, grad_v, grad_w


def contract_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], g: Tensor) -> tuple:
    (u, v, weight), (feature_dim,) = saved, options
    grad_bias = _grad_bias(g, feature_dim) if needs[3] else None
    return *_contract_grads(needs, u, v, weight, feature_dim, g), grad_bias


def contract_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    (u, v, weight), (feature_dim,) = saved, options
    tu, tv, tw, tb = tangents
    terms = [
        None if tu is None else ops.contract(tu, v, weight, None, feature_dim),
        None if tv is None else ops.contract(u, tv, weight, None, feature_dim),
        None if tw is None else ops.contract(u, v, tw, None, feature_dim),
    ]
    if tb is not None:
        shape = *u.shape[:feature_dim], weight.shape[0], *u.shape[feature_dim:][1:]
        terms.append(_as_features(tb, feature_dim, shape))
    return _sum(terms)


def grad_inputs_backward(
    needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], hx: MaybeTensor, hy: MaybeTensor
) -> tuple:
    (g, x, y, weight), (feature_dim,) = saved, options
    grad_g = grad_x = grad_y = grad_w = None
    if needs[0]:
        grad_g = _sum(
            [
                None if hx is None else ops.contract(hx, y, weight, None, feature_dim),
                None if hy is None else ops.contract(x, hy, weight, None, feature_dim),
            ]
        )
    # grad y depends on x, and so the cotangent hy of grad y is what x's gradient comes from; and the reverse.
    wants_x, wants_y = needs[1] and hy is not None, needs[2] and hx is not None
    if wants_x and wants_y:
        grad_x, grad_y = ops.grad_inputs(g, hx, hy, weight, feature_dim)
    elif wants_x:
        grad_x = ops.contract(g, hy, weight.permute(1, 0, 2), None, feature_dim)
    elif wants_y:
        grad_y = ops.contract(g, hx, weight.permute(2, 0, 1), None, feature_dim)
    if needs[3]:
        grad_w = _sum(
            [
                None if hx is None else ops.grad_weight(g, hx, y, feature_dim),
                None if hy is None else ops.grad_weight(g, x, hy, feature_dim),
            ]
        )
    return grad_g, grad_x, grad_y, grad_w


def grad_inputs_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> tuple:
    (g, x, y, weight), (feature_dim,) = saved, options
    tg, tx, ty, tw = tangents
    along_x: list[MaybeTensor] = []
    along_y: list[MaybeTensor] = []
    for grads, tensor in ((tg, weight), (g, tw)):
        if grads is not None and tensor is not None:
            of_x, of_y = ops.grad_inputs(grads, x, y, tensor, feature_dim)
            along_x.append(of_x)
            along_y.append(of_y)
    if ty is not None:
        along_x.append(ops.contract(g, ty, weight.permute(1, 0, 2), None, feature_dim))
    if tx is not None:
        along_y.append(ops.contract(g, tx, weight.permute(2, 0, 1), None, feature_dim))
    # Of several outputs each needs a tangent, be it zero.
    return _sum(along_x or [torch.zeros_like(x)]), _sum(along_y or [torch.zeros_like(y)])


def grad_weight_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], h: Tensor) -> tuple:
    (g, x, y), (feature_dim,) = saved, options
    grad_g = ops.contract(x, y, h, None, feature_dim) if needs[0] else None
    # With h in the weight's place the sum is T(g, x, h, y): its gradients for x and y are those of contract.
    grad_x, grad_y, _ = _contract_grads((needs[1], needs[2], False), x, y, h, feature_dim, g)
    return grad_g, grad_x, grad_y


def grad_weight_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    (g, x, y), (feature_dim,) = saved, options
    tg, tx, ty = tangents
    return _sum(
        [
            None if tg is None else ops.grad_weight(tg, x, y, feature_dim),
            None if tx is None else ops.grad_weight(g, tx, y, feature_dim),
            None if ty is None else ops.grad_weight(g, x, ty, feature_dim),
        ]
    )


def _pairwise_grad_y(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`dY = A^T X g` of item 6: grad x with the roles of x and y exchanged."""
    return ops.pairwise_grad_x(g.mT, x, weight.mT)


def pairwise_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], g: Tensor) -> tuple:
    x, y, weight = saved
    return (
        ops.pairwise_grad_x(g, y, weight) if needs[0] else None,
        _pairwise_grad_y(g, x, weight) if needs[1] else None,
        ops.pairwise_grad_weight(g, x, y) if needs[2] else None,
        _grad_bias(g, -3) if needs[3] else None,
    )


def pairwise_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    x, y, weight = saved
    tx, ty, tw, tb = tangents
    terms = [
        None if tx is None else ops.pairwise(tx, y, weight, None),
        None if ty is None else ops.pairwise(x, ty, weight, None),
        None if tw is None else ops.pairwise(x, y, tw, None),
    ]
    if tb is not None:
        terms.append(_as_features(tb, -3, (*x.shape[:-2], weight.shape[0], x.shape[-2], y.shape[-2])))
    return _sum(terms)


def pairwise_grad_x_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], h: Tensor) -> tuple:
    g, y, weight = saved
    return (
        ops.pairwise(h, y, weight, None) if needs[0] else None,
        _pairwise_grad_y(g, h, weight) if needs[1] else None,
        ops.pairwise_grad_weight(g, h, y) if needs[2] else None,
    )


def pairwise_grad_x_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    g, y, weight = saved
    tg, ty, tw = tangents
    return _sum(
        [
            None if tg is None else ops.pairwise_grad_x(tg, y, weight),
            None if ty is None else ops.pairwise_grad_x(g, ty, weight),
            None if tw is None else ops.pairwise_grad_x(g, y, tw),
        ]
    )


def pairwise_grad_weight_backward(
    needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], h: Tensor
) -> tuple:
    g, x, y = saved
    return (
        ops.pairwise(x, y, h, None) if needs[0] else None,
        ops.pairwise_grad_x(g, y, h) if needs[1] else None,
        _pairwise_grad_y(g, x, h) if needs[2] else None,
    )


def pairwise_grad_weight_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    g, x, y = saved
    tg, tx, ty = tangents
    return _sum(
        [
            None if tg is None else ops.pairwise_grad_weight(tg, x, y),
            None if tx is None else ops.pairwise_grad_weight(g, tx, y),
            None if ty is None else ops.pairwise_grad_weight(g, x, ty),
        ]
    )


# contract_keep: what it keeps, `u A`, is an output like the other, and its derivatives are plain matrix products.


def contract_keep_backward(
    needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], g: MaybeTensor, h: MaybeTensor
) -> tuple:
    (u, v, weight, kept), (feature_dim,) = saved, options
    grad_u = grad_v = grad_w = grad_bias = None
    if g is not None:
        grad_u, _, grad_w = _contract_grads((needs[0], False, needs[2]), u, v, weight, feature_dim, g)
        if needs[1]:
            grad_v = _times_kept(g.movedim(feature_dim, -1), kept).movedim(-1, feature_dim)
        if needs[3]:
            grad_bias = _grad_bias(g, feature_dim)
    if h is not None:
        flat = h.reshape(*h.shape[:-2], h.shape[-2] * h.shape[-1])
        if needs[0]:
            product = torch.matmul(flat, weight.mT.flatten(0, 1))
            grad_u = _sum([grad_u, product.movedim(-1, feature_dim)])
        if needs[2]:
            axes = list(range(h.dim() - 2))
            product = torch.tensordot(u.movedim(feature_dim, -1), flat, dims=(axes, axes))
            grad_w = _sum([grad_w, product.reshape(u.shape[feature_dim], *h.shape[-2:]).transpose(0, 1)])
    return grad_u, grad_v, grad_w, grad_bias


def _kept(u: Tensor, weight: Tensor) -> Tensor:
    """What contract_keep keeps: sum over q of u[..., q] weight[p, q, r]."""
    product = torch.matmul(u, weight.transpose(0, 1).flatten(1))
    # unflatten has no batching rule of its own
    return product.reshape(*product.shape[:-1], weight.shape[0], weight.shape[2])


def _times_kept(g: Tensor, kept: Tensor) -> Tensor:
    """sum over p of g[..., p] kept[..., p, r], rounded once."""
    # Of a DTensor's partial sums a product takes some as they are, in torch 2.11 too, where `*` adds them up first.
    if kept.shape[-2] == 1 and not is_distributed(kept):
        return g * kept.squeeze(-2)
    return torch.matmul(g.unsqueeze(-2), kept).squeeze(-2)


def contract_keep_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> tuple:
    (u, _, weight), (feature_dim,) = saved, options
    tu, _, tw, _ = tangents
    last_u = u.movedim(feature_dim, -1)
    terms = [
        None if tu is None else _kept(tu.movedim(feature_dim, -1), weight),
        None if tw is None else _kept(last_u, tw),
    ]
    if tu is None and tw is None:
        terms = [last_u.new_zeros((*last_u.shape[:-1], weight.shape[0], weight.shape[2]))]
    return contract_jvp(saved, options, *tangents), _sum(terms)
