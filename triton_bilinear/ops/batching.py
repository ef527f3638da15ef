"""The ops' vmap rules, so that nothing falls back to torch's slow loop.

An op is linear in each tensor and treats all batch axes alike, so the mapped axis

* of tensors that have batch axes is one more of those, unless the op sums over them (`_in_front`);
* of a weight, or of one tensor whose batch the op sums over, joins an axis that the result has too (`_joined`).

Only where independent weights meet independent samples is there no single call: small batches then go through
batched matrix products, others take one call for each index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import library as ops

Dims = Sequence[int | None]
Mapped = tuple[Tensor, int]


def _in_front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped axis first; a tensor that has none is expanded."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _joined(tensor: Tensor, dim: int, axis: int) -> Tensor:
    """The mapped axis merged into `axis` (negative), as the slower-moving part."""
    return tensor.movedim(dim, axis - 1).flatten(axis - 1, axis)


def _parted(result: Tensor, tensor: Tensor, dim: int, axis: int, of_tensor: int) -> Mapped:
    """Undo `_joined(tensor, dim, of_tensor)` on an axis of the result."""
    moved = tensor.movedim(dim, 0)
    parted = result.unflatten(axis, (moved.shape[0], moved.shape[of_tensor]))
    return parted, parted.dim() + axis - 1


def _one_by_one(op: Callable[..., Tensor], size: int, dims: Dims, args: Sequence[Any]) -> Mapped:
    def call(index: int) -> Tensor:
        return op(*(arg if dim is None else arg.select(dim, index) for arg, dim in zip(args, dims, strict=True)))

    if size:
        return torch.stack([call(index) for index in range(size)]), 0
    # There is none to take a shape from but a sum over nothing.
    like = op(*(arg if dim is None else arg.sum(dim) for arg, dim in zip(args, dims, strict=True)))
    return like.expand(0, *like.shape), 0


def _as_matrices(tensor: Tensor, feature_dim: int) -> Tensor:
    """(size, *batch, features at feature_dim) as (size, batch, features)."""
    last = tensor.movedim(feature_dim, -1)
    return last.reshape(last.shape[0], last.shape[1:-1].numel(), last.shape[-1])


def _forward(op: Any, axis: int, info: Any, dims: Dims, tensors: Sequence[Any], options: Sequence[int] = ()) -> Mapped:
    """contract and pairwise: two tensors of samples, a weight and a bias whose outputs are the result's `axis`."""
    (x, y, weight, bias), (dim_x, dim_y, dim_w, dim_b), size = tensors, dims, info.batch_size
    shared_samples = dim_x is None and dim_y is None
    if shared_samples and dim_w is not None:
        biases = None if bias is None else _in_front(bias, dim_b, size).flatten()
        return _parted(op(x, y, _joined(weight, dim_w, -3), biases, *options), weight, dim_w, axis, -3)
    if bias is not None and (dim_w is not None or dim_b is not None):
        if shared_samples:
            plain = op(x, y, weight, None, *options).unsqueeze(0)
        else:
            result, dim = _forward(op, axis, info, (dim_x, dim_y, dim_w, None), (x, y, weight, None), options)
            plain = result.movedim(dim, 0)
        added = _in_front(bias, dim_b, size)
        ones = (1,) * (plain.dim() + axis - 1), (1,) * (-1 - axis)
        return plain + added.reshape(size, *ones[0], added.shape[-1], *ones[1]), 0
    if dim_w is None:
        return op(_in_front(x, dim_x, size), _in_front(y, dim_y, size), weight, bias, *options), 0
    if op is ops.contract:
        return _contract_each(size, dims, x, y, weight, axis)
    return _one_by_one(op, size, (*dims, *(None,) * len(options)), (*tensors, *options))


def _contract_each(size: int, dims: Dims, u: Tensor, v: Tensor, weight: Tensor, feature_dim: int) -> Mapped:
    """Each index has samples and a weight of its own."""
    us, vs, weights = (_in_front(tensor, dim, size) for tensor, dim in zip((u, v, weight), dims[:3], strict=True))
    rows, columns = _as_matrices(us, feature_dim), _as_matrices(vs, feature_dim)
    if columns.shape[1] > columns.shape[2]:
        return _one_by_one(ops.contract, size, (0, 0, 0, None, None), (us, vs, weights, None, feature_dim))
    # The intermediate (size, P, Q, batch) is no larger than the weights.
    half = torch.matmul(weights, columns.mT.unsqueeze(1))
    result = torch.einsum("spqb,sbq->sbp", half, rows)
    batch = us.movedim(feature_dim, -1).shape[:-1]
    return result.reshape(*batch, weights.shape[1]).movedim(-1, feature_dim), 0


def _contract(info: Any, dims: Dims, *args: Any) -> Mapped:
    return _forward(ops.contract, args[4], info, dims[:4], args[:4], args[4:])


def _contract_keep(info: Any, dims: Dims, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    (u, v, weight, bias, feature_dim), size = args, info.batch_size
    us = _in_front(u, dims[0], size)
    if dims[2] is None and dims[3] is None:
        return ops.contract_keep(us, _in_front(v, dims[1], size), weight, bias, feature_dim), (0, 0)
    out, dim = _contract(info, dims, *args)
    kept = torch.einsum("s...q,spqr->s...pr", us.movedim(feature_dim, -1), _in_front(weight, dims[2], size))
    return (out, kept), (dim, 0)


def _grad_inputs(info: Any, dims: Dims, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    (g, x, y, weight, feature_dim), size = args, info.batch_size
    dim_g, dim_x, dim_y, dim_w = dims[:4]
    if dim_w is None:
        gs, xs, ys = _in_front(g, dim_g, size), _in_front(x, dim_x, size), _in_front(y, dim_y, size)
        return ops.grad_inputs(gs, xs, ys, weight, feature_dim), (0, 0)
    weights = weight.movedim(dim_w, 0)
    of_x, at_x = _contract(info, (dim_g, dim_y, 0, None, None), g, y, weights.permute(0, 2, 1, 3), None, feature_dim)
    of_y, at_y = _contract(info, (dim_g, dim_x, 0, None, None), g, x, weights.permute(0, 3, 1, 2), None, feature_dim)
    return (of_x, of_y), (at_x, at_y)


def _sole(dims: Dims) -> tuple[int, int] | None:
    """The one argument that is mapped, if it is one, and its mapped axis."""
    mapped = [(index, dim) for index, dim in enumerate(dims) if dim is not None]
    return mapped[0] if len(mapped) == 1 else None


def _grad_weight(info: Any, dims: Dims, *args: Any) -> Mapped:
    feature_dim, size = args[3], info.batch_size
    sole = _sole(dims)
    if sole is not None:
        index, dim = sole
        tensors = list(args[:3])
        tensors[index] = _joined(args[index], dim, feature_dim)
        return _parted(ops.grad_weight(*tensors, feature_dim), args[index], dim, index - 3, feature_dim)
    fronts = [_in_front(tensor, dim, size) for tensor, dim in zip(args[:3], dims[:3], strict=True)]
    g, x, y = (_as_matrices(tensor, feature_dim) for tensor in fronts)
    if y.shape[1] > y.shape[2]:
        return _one_by_one(ops.grad_weight, size, (0, 0, 0, None), (*fronts, feature_dim))
    # The intermediate (size, batch, L*M) is no larger than the result.
    products = (g.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)
    return torch.matmul(products.mT, y).unflatten(1, (g.shape[2], x.shape[2])), 0


def _pairwise(info: Any, dims: Dims, *args: Any) -> Mapped:
    return _forward(ops.pairwise, -3, info, dims, args)


def _pairwise_grad_x(info: Any, dims: Dims, *args: Any) -> Mapped:
    (g, y, weight), (dim_g, dim_y, dim_w), size = args, dims, info.batch_size
    if dim_w is None:
        return ops.pairwise_grad_x(_in_front(g, dim_g, size), _in_front(y, dim_y, size), weight), 0
    if dim_g is None and dim_y is None:
        return _parted(ops.pairwise_grad_x(g, y, _joined(weight, dim_w, -2)), weight, dim_w, -1, -2)
    return _one_by_one(ops.pairwise_grad_x, size, dims, args)


def _pairwise_grad_weight(info: Any, dims: Dims, *args: Any) -> Mapped:
    sole, size = _sole(dims), info.batch_size
    if sole is None:
        return _one_by_one(ops.pairwise_grad_weight, size, dims, args)
    index, dim = sole
    tensors, axis = list(args), -3 if index == 0 else -1
    tensors[index] = _joined(args[index], dim, axis)
    return _parted(ops.pairwise_grad_weight(*tensors), args[index], dim, index - 3, axis)


for _op, _rule in (
    (ops.contract, _contract),
    (ops.contract_keep, _contract_keep),
    (ops.grad_inputs, _grad_inputs),
    (ops.grad_weight, _grad_weight),
    (ops.pairwise, _pairwise),
    (ops.pairwise_grad_x, _pairwise_grad_x),
    (ops.pairwise_grad_weight, _pairwise_grad_weight),
):
    torch.library.register_vmap(_op, _rule, lib=ops.LIBRARY)
