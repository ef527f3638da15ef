"""Derivatives of the ops, in terms of the ops: reverse mode, forward mode, any order.

Everything here follows from one object, linear in each of its four arguments:

    T(g, x, A, y) = sum g[l] x[m] A[l, m, n] y[n]

The forward result and its three gradients are the partial derivatives of T, and the derivatives of those are partial
derivatives of T again, with other tensors in the places of g, x, A and y.

The formulas are attached as autograd.Function classes on the "Autograd" key, as torch's own custom ops are, but written
by hand: torch.library.register_autograd has no forward mode, and torch.library.custom_op costs 8-16 us a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any

import torch
from torch import _C, Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from . import library as ops
from .sharding import is_distributed

MaybeTensor = Tensor | None


def _key_set(*names: str) -> _C.DispatchKeySet:
    return reduce(or_, (_C.DispatchKeySet(getattr(_C.DispatchKey, name)) for name in names))


# Tensors of a device and nothing else: no mode, no transform, no subclass stands between autograd and the kernel.
_PLAIN = frozenset(_key_set(device).raw_repr() for device in ("CPU", "CUDA", "XPU"))

# The keys of such a tensor in full, and those that a thread adds where no mode is on; outside and in inference mode.
_PLAIN_TENSOR = frozenset(
    _key_set(device, f"Autocast{device}", *recording).raw_repr()
    for device in ("CPU", "CUDA", "XPU")
    for recording in ((), (f"Autograd{device}", "ADInplaceOrView"))
)
_PLAIN_THREAD = frozenset(_key_set("BackendSelect", *more).raw_repr() for more in ((), ("ADInplaceOrView",)))

# For each op, what the dispatcher runs for such tensors.
_DIRECT: dict[torch._ops.OpOverload, Callable[..., Any]] = {}


def call(op: torch._ops.OpOverload, *args: Any) -> Any:
    """`op(*args)`, past the dispatcher where nothing else would act: two passes through it cost what a tiny layer does.

    Modes, transforms, subclasses, autocast, compilers and torch's profiler see the op as ever.
    """
    return _DIRECT[op](*args) if is_plain(*args) else op(*args)


def is_plain(*args: Any) -> bool:
    """Whether the tensors among the arguments are plain ones, and nothing would see an op that is called with them."""
    if (
        torch.compiler.is_compiling()
        or _C._autograd._profiler_enabled()
        or _C._is_any_autocast_enabled()
        or _C._dispatch_tls_local_include_set().raw_repr() not in _PLAIN_THREAD
    ):
        return False
    return all(not isinstance(arg, Tensor) or _C._dispatch_keys(arg).raw_repr() in _PLAIN_TENSOR for arg in args)


def _in_forward_mode(plain: bool) -> bool:
    """Whether a tensor may carry a tangent: it need not require grad for that.

    A graph that torch.compile made of torch.func's forward mode enters its levels without forward_ad's knowledge.
    """
    return forward_ad._current_level >= 0 or (not plain and _C._functorch.peek_interpreter_stack() is not None)


def _wanted(ctx: Any) -> list[bool]:
    """The gradients of an op's tensors that this backward pass uses: of those that the graph needs, such as it goes on
    with. torch.autograd.grad(z, x) does not go on with those of other tensors, though they require grad.
    """
    needs = list(ctx.needs_input_grad[1:])
    if sum(needs) > 1 and not torch.compiler.is_compiling():
        for index, (node, _) in enumerate(ctx.next_functions):  # of tensors, which are an op's first arguments
            needs[index] = needs[index] and _is_executed(node)
    return needs


def _is_executed(node: Any) -> bool:
    try:
        return _C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was asked for
        return True


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


def _as_features(vector: Tensor, feature_dim: int, like: Tensor) -> Tensor:
    """A vector of features, expanded over the batch axes of `like`."""
    return vector.reshape(-1, *(1,) * (-1 - feature_dim)).expand(like.shape)


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


# A backward takes (needs, saved factors, options, the cotangent of each output) and returns a gradient for each tensor
# argument; a jvp takes (saved factors, options, the tangent of each tensor argument) and returns one for each output.


def _contract_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], g: Tensor) -> tuple:
    (u, v, weight), (feature_dim,) = saved, options
    grad_bias = _grad_bias(g, feature_dim) if needs[3] else None
    return *_contract_grads(needs, u, v, weight, feature_dim, g), grad_bias


def _contract_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    (u, v, weight), (feature_dim,) = saved, options
    tu, tv, tw, tb = tangents
    terms = [
        None if tu is None else ops.contract(tu, v, weight, None, feature_dim),
        None if tv is None else ops.contract(u, tv, weight, None, feature_dim),
        None if tw is None else ops.contract(u, v, tw, None, feature_dim),
    ]
    if tb is not None:
        like = ops.resized(u, feature_dim, weight.shape[0])
        terms.append(_as_features(tb, feature_dim, like))
    return _sum(terms)


def _grad_inputs_backward(
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


def _grad_inputs_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> tuple:
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


def _grad_weight_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], h: Tensor) -> tuple:
    (g, x, y), (feature_dim,) = saved, options
    grad_g = ops.contract(x, y, h, None, feature_dim) if needs[0] else None
    # With h in the weight's place the sum is T(g, x, h, y): its gradients for x and y are those of contract.
    grad_x, grad_y, _ = _contract_grads((needs[1], needs[2], False), x, y, h, feature_dim, g)
    return grad_g, grad_x, grad_y


def _grad_weight_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
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


def _pairwise_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], g: Tensor) -> tuple:
    x, y, weight = saved
    return (
        ops.pairwise_grad_x(g, y, weight) if needs[0] else None,
        _pairwise_grad_y(g, x, weight) if needs[1] else None,
        ops.pairwise_grad_weight(g, x, y) if needs[2] else None,
        _grad_bias(g, -3) if needs[3] else None,
    )


def _pairwise_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    x, y, weight = saved
    tx, ty, tw, tb = tangents
    terms = [
        None if tx is None else ops.pairwise(tx, y, weight, None),
        None if ty is None else ops.pairwise(x, ty, weight, None),
        None if tw is None else ops.pairwise(x, y, tw, None),
    ]
    if tb is not None:
        terms.append(_as_features(tb, -3, ops.pairwise_out(x, y, weight, None)))
    return _sum(terms)


def _pairwise_grad_x_backward(needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], h: Tensor) -> tuple:
    g, y, weight = saved
    return (
        ops.pairwise(h, y, weight, None) if needs[0] else None,
        _pairwise_grad_y(g, h, weight) if needs[1] else None,
        ops.pairwise_grad_weight(g, h, y) if needs[2] else None,
    )


def _pairwise_grad_x_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
    g, y, weight = saved
    tg, ty, tw = tangents
    return _sum(
        [
            None if tg is None else ops.pairwise_grad_x(tg, y, weight),
            None if ty is None else ops.pairwise_grad_x(g, ty, weight),
            None if tw is None else ops.pairwise_grad_x(g, y, tw),
        ]
    )


def _pairwise_grad_weight_backward(
    needs: Sequence[bool], saved: Sequence[Any], options: Sequence[Any], h: Tensor
) -> tuple:
    g, x, y = saved
    return (
        ops.pairwise(x, y, h, None) if needs[0] else None,
        ops.pairwise_grad_x(g, y, h) if needs[1] else None,
        _pairwise_grad_y(g, x, h) if needs[2] else None,
    )


def _pairwise_grad_weight_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> MaybeTensor:
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


def _contract_keep_backward(
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


def _contract_keep_jvp(saved: Sequence[Any], options: Sequence[Any], *tangents: MaybeTensor) -> tuple:
    (u, _, weight), (feature_dim,) = saved, options
    tu, _, tw, _ = tangents
    last_u = u.movedim(feature_dim, -1)
    terms = [
        None if tu is None else _kept(tu.movedim(feature_dim, -1), weight),
        None if tw is None else _kept(last_u, tw),
    ]
    if tu is None and tw is None:
        terms = [last_u.new_zeros((*last_u.shape[:-1], weight.shape[0], weight.shape[2]))]
    return _contract_jvp(saved, options, *tangents), _sum(terms)


def _differentiable(
    op: torch._ops.OpOverload,
    *,
    factors: int,
    tensors: int,
    backward: Callable[..., tuple],
    jvp: Callable[..., Any],
    saves_output: int | None = None,
) -> None:
    """Attach formulas to an op.

    Its arguments are `factors` tensors that the result is linear in, then (up to `tensors`) a bias, then options that
    are no tensors. Formulas get the factors, and the output number `saves_output` if there is one.
    """

    kernel = ops.KERNELS[op]

    def below_autograd(keys: _C.DispatchKeySet, grad: bool, fwd_grad: bool, *args: Any) -> Any:
        # An autograd.Function switches gradients off in its forward. That is right here, where the dispatcher passes
        # autograd by, but wrong for the outer levels of torch.func's transforms, which are still to come.
        with torch.set_grad_enabled(grad), forward_ad._set_fwd_grad_enabled(fwd_grad), _C._AutoDispatchBelowAutograd():
            return op.redispatch(keys, *args)

    def forward(ctx: Any, call: Callable[..., Any], *args: Any) -> Any:
        result = call(*args)
        # A factor's own gradient does not contain it: it is saved only for the sake of the others'.
        needs = ctx.needs_input_grad[1 : factors + 1]
        wanted = sum(needs)
        saved = [arg if wanted > need else None for arg, need in zip(args, needs)]  # noqa: B905
        if saves_output is not None:
            saved.append(result[saves_output])
        ctx.save_for_backward(*saved)
        ctx.options = args[tensors:]
        ctx.set_materialize_grads(False)
        if _in_forward_mode(plain=call is kernel):
            ctx.save_for_forward(*args[:factors])
        return result

    def apply_backward(ctx: Any, *cotangents: MaybeTensor) -> Any:
        grads: tuple = (None,) * tensors
        if any(cotangent is not None for cotangent in cotangents):
            grads = backward(_wanted(ctx), ctx.saved_tensors, ctx.options, *cotangents)
        return None, *grads, *(None for _ in ctx.options)

    def apply_jvp(ctx: Any, *tangents: Any) -> Any:
        if _C._functorch.peek_interpreter_stack() is None:
            return jvp(ctx.saved_tensors, ctx.options, *tangents[1 : tensors + 1])
        # Forward mode is off here, for the sake of the level that this tangent is for. The outer levels of torch.func's
        # transforms are still to come and need it: so it is this level's tangents that are taken off instead.
        with forward_ad._set_fwd_grad_enabled(True):
            primals = [torch._VF._unpack_dual(factor, level=0)[0] for factor in ctx.saved_tensors]
            return jvp(primals, ctx.options, *tangents[1 : tensors + 1])

    derivative = type(
        op._schema.name.replace("::", "_"),
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "backward": staticmethod(apply_backward),
            "jvp": staticmethod(apply_jvp),
        },
    )
    # Function.apply, without what it does for callers above the dispatcher.
    apply = super(torch.autograd.Function, derivative).apply  # type: ignore[misc]

    def recorded(call: Callable[..., Any], *args: Any) -> Any:
        if (torch.is_grad_enabled() and _C._any_requires_grad(*args)) or _in_forward_mode(plain=call is kernel):
            return apply(call, *args)
        return call(*args)

    def with_autograd(keyset: _C.DispatchKeySet, *args: Any) -> Any:
        keys = keyset & _C._after_autograd_keyset
        if keys.raw_repr() in _PLAIN:
            return recorded(kernel, *args)
        # Of torch.func's levels the dispatcher has come to one, and that is the one that this derivative is for.
        with enable_single_level_autograd_function():
            return recorded(partial(below_autograd, keys, torch.is_grad_enabled(), _C._is_fwd_grad_enabled()), *args)

    ops.LIBRARY.impl(op, with_autograd, "Autograd", with_keyset=True)
    _DIRECT[op] = partial(recorded, kernel)


_differentiable(ops.contract, factors=3, tensors=4, backward=_contract_backward, jvp=_contract_jvp)
_differentiable(
    ops.contract_keep,
    factors=3,
    tensors=4,
    backward=_contract_keep_backward,
    jvp=_contract_keep_jvp,
    saves_output=1,
)
_differentiable(ops.grad_inputs, factors=4, tensors=4, backward=_grad_inputs_backward, jvp=_grad_inputs_jvp)
_differentiable(ops.grad_weight, factors=3, tensors=3, backward=_grad_weight_backward, jvp=_grad_weight_jvp)
_differentiable(ops.pairwise, factors=3, tensors=4, backward=_pairwise_backward, jvp=_pairwise_jvp)
_differentiable(ops.pairwise_grad_x, factors=3, tensors=3, backward=_pairwise_grad_x_backward, jvp=_pairwise_grad_x_jvp)
_differentiable(
    ops.pairwise_grad_weight,
    factors=3,
    tensors=3,
    backward=_pairwise_grad_weight_backward,
    jvp=_pairwise_grad_weight_jvp,
)
