"""A function's result with its gradients of first and second order, by autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .bounds import Quantities
from .problems import Draw, Problem


def cotangents(problem: Problem, tensors: tuple[Tensor, ...], draw: Draw) -> tuple[Tensor, ...]:
    """The gradient that comes in from above, and for the second order one for each gradient that goes out."""
    shape = problem.twin(*(tensor.double() for tensor in tensors))
    return tuple(draw.like(tensor, problem.strided) for tensor in (shape, *tensors))


def quantities(
    function: Callable[..., Tensor], names: tuple[str, ...], second_order: bool, *tensors: Tensor
) -> Quantities:
    """The result, `grad <name>` of each argument, and if asked for `second <name>`.

    Args:
        tensors: the arguments, called `names`; the incoming gradient; one cotangent for each argument's gradient.
            `second <name>` is the derivative of the sum of those gradients times their cotangents.
    """
    count = len(names)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[: count + 1]]
    arguments, g = leaves[:count], leaves[count]
    result = function(*arguments)
    gradients = torch.autograd.grad(result, arguments, g, create_graph=second_order)
    found = {"forward": result} | {f"grad {name}": grad for name, grad in zip(names, gradients, strict=True)}
    if second_order:
        seconds = torch.autograd.grad(
            gradients, leaves, tensors[count + 1 :], allow_unused=True, materialize_grads=True
        )
        found |= {f"second {name}": grad for name, grad in zip((*names, "g"), seconds, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}
