"""The derivatives of the ops, attached to them: torch differentiates an op by its `formulas`.

They are attached as autograd.Function classes on the "Autograd" key, as torch's own custom ops are, but written by
hand: torch.library.register_autograd has no forward mode, and torch.library.custom_op costs 8-16 us a call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import _C, Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from . import formulas
from . import library as ops
from .direct import DIRECT, PLAIN


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

    def apply_backward(ctx: Any, *cotangents: Tensor | None) -> Any:
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

    members = {
        "forward": staticmethod(forward),
        "backward": staticmethod(apply_backward),
        "jvp": staticmethod(apply_jvp),
    }
    _attach(op, type(op._schema.name.replace("::", "_"), (torch.autograd.Function,), members))


def _attach(op: torch._ops.OpOverload, function: type[torch.autograd.Function]) -> None:
    """Have torch run a call of the op that is recorded through the function, whose first argument is what it calls."""
    kernel = ops.KERNELS[op]
    # Function.apply, without what it does for callers above the dispatcher.
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def below_autograd(keys: _C.DispatchKeySet, grad: bool, fwd_grad: bool, *args: Any) -> Any:
        # An autograd.Function switches gradients off in its forward. That is right here, where the dispatcher passes
        # autograd by, but wrong for the outer levels of torch.func's transforms, which are still to come.
        with torch.set_grad_enabled(grad), forward_ad._set_fwd_grad_enabled(fwd_grad), _C._AutoDispatchBelowAutograd():
            return op.redispatch(keys, *args)

    def recorded(call: Callable[..., Any], *args: Any) -> Any:
        if (torch.is_grad_enabled() and _C._any_requires_grad(*args)) or _in_forward_mode(plain=call is kernel):
            return apply(call, *args)
        return call(*args)

    def with_autograd(keyset: _C.DispatchKeySet, *args: Any) -> Any:
        keys = keyset & _C._after_autograd_keyset
        if keys.raw_repr() in PLAIN:
            return recorded(kernel, *args)
        # Of torch.func's levels the dispatcher has come to one, and that is the one that this derivative is for.
        with enable_single_level_autograd_function():
            return recorded(partial(below_autograd, keys, torch.is_grad_enabled(), _C._is_fwd_grad_enabled()), *args)

    ops.LIBRARY.impl(op, with_autograd, "Autograd", with_keyset=True)
    DIRECT[op] = partial(recorded, kernel)


_differentiable(ops.contract, factors=3, tensors=4, backward=formulas.contract_backward, jvp=formulas.contract_jvp)
_differentiable(
    ops.contract_keep,
    factors=3,
    tensors=4,
    backward=formulas.contract_keep_backward,
    jvp=formulas.contract_keep_jvp,
    saves_output=1,
)
_differentiable(
    ops.grad_inputs, factors=4, tensors=4, backward=formulas.grad_inputs_backward, jvp=formulas.grad_inputs_jvp
)
_differentiable(
    ops.grad_weight, factors=3, tensors=3, backward=formulas.grad_weight_backward, jvp=formulas.grad_weight_jvp
)
_differentiable(ops.pairwise, factors=3, tensors=4, backward=formulas.pairwise_backward, jvp=formulas.pairwise_jvp)
_differentiable(
    ops.pairwise_grad_x,
    factors=3,
    tensors=3,
    backward=formulas.pairwise_grad_x_backward,
    jvp=formulas.pairwise_grad_x_jvp,
)
_differentiable(
    ops.pairwise_grad_weight,
    factors=3,
    tensors=3,
    backward=formulas.pairwise_grad_weight_backward,
    jvp=formulas.pairwise_grad_weight_jvp,
)
