"""The ops' sharding rules for torch.distributed.tensor.DTensor.

An op is a sum of products over named axes, linear in each factor. Along one dimension of a device mesh it can therefore
be computed without communication

* with one axis sharded: the factors that have the axis are sharded along it, others are replicated. A result that has
  the axis is sharded too; to one that is summed over it, each rank contributes a partial sum;
* with one factor as partial sums and the others replicated: results that depend on the factor are partial sums too.

A bias is added once to every result, so where the result is partial sums the bias must be partial sums as well (torch
makes them of a replicated bias locally, as fractions of it). Which of these ways is used, and what is communicated to
get there, is DTensor's decision, from the placements of the arguments and their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import library as ops
from .importing import when_imported

if TYPE_CHECKING:
    from torch.distributed.tensor import Placement

Names = list[int | str]


@dataclass(frozen=True)
class _Output:
    axes: str
    factors: tuple[int, ...]  # the arguments that it depends on


@dataclass(frozen=True)
class _Equation:
    """An op by the names of its tensors' axes. A bias is the last of the inputs.

    "*" stands for the batch axes. They are in front, but for tensors of one feature axis, whose place is feature_dim.
    """

    inputs: tuple[str, ...]
    outputs: tuple[_Output, ...]
    bias: bool = False


_EQUATIONS = {
    ops.contract: _Equation(("*q", "*r", "pqr", "p"), (_Output("*p", (0, 1, 2, 3)),), bias=True),
    ops.contract_keep: _Equation(
        ("*q", "*r", "pqr", "p"), (_Output("*p", (0, 1, 2, 3)), _Output("*pr", (0, 2))), bias=True
    ),
    ops.grad_inputs: _Equation(("*l", "*m", "*n", "lmn"), (_Output("*m", (0, 2, 3)), _Output("*n", (0, 1, 3)))),
    ops.grad_weight: _Equation(("*l", "*m", "*n"), (_Output("lmn", (0, 1, 2)),)),
    ops.pairwise: _Equation(("*sm", "*tn", "lmn", "l"), (_Output("*lst", (0, 1, 2, 3)),), bias=True),
    ops.pairwise_grad_x: _Equation(("*lst", "*tn", "lmn"), (_Output("*sm", (0, 1, 2)),)),
    ops.pairwise_grad_weight: _Equation(("*lst", "*sm", "*tn"), (_Output("lmn", (0, 1, 2)),)),
}


def _names(axes: str, batch: int, feature_dim: int) -> Names:
    """One name for each axis of a tensor: numbers for the batch axes, letters for the others."""
    features = axes.removeprefix("*")
    if features == axes:
        return list(features)
    names: Names = [*range(batch), *features]
    if len(features) == 1:
        names.insert(batch + 1 + feature_dim, names.pop())
    return names


def _ways(equation: _Equation, batch: int, feature_dim: int) -> Iterator[tuple[list[Placement], list[Placement]]]:
    """The placements of outputs and of inputs along one mesh dimension, for each way to compute the op.

    The first way is to replicate everything: it is taken where several cost the same.
    """
    from torch.distributed.tensor import Partial, Replicate, Shard

    def placed(names: Names, axis: int | str, otherwise: Placement) -> Placement:
        return Shard(names.index(axis)) if axis in names else otherwise

    inputs = [_names(axes, batch, feature_dim) for axes in equation.inputs]
    outputs = [_names(output.axes, batch, feature_dim) for output in equation.outputs]
    factors = range(len(inputs) - equation.bias)
    yield [Replicate() for _ in outputs], [Replicate() for _ in inputs]
    for axis in dict.fromkeys(name for names in inputs for name in names):
        results = [placed(names, axis, Partial()) for names in outputs]
        elsewhere: list[Placement] = [Replicate() for _ in factors]
        if equation.bias:
            elsewhere.append(Partial() if results[0].is_partial() else Replicate())
        yield results, [placed(names, axis, other) for names, other in zip(inputs, elsewhere, strict=True)]
    for factor in factors:
        results = [Partial() if factor in output.factors else Replicate() for output in equation.outputs]
        arguments: list[Placement] = [Partial() if other == factor else Replicate() for other in factors]
        yield results, arguments + results[:1] * equation.bias


def _acceptable(equation: _Equation, *args: Any) -> list[tuple[list[Placement], list[Placement | None]]]:
    """`_ways` for the arguments of an op: tensors, or what has their `ndim`, and None in place of an absent bias."""
    count = len(equation.inputs)
    options = args[count:]
    batch = args[0].ndim - len(equation.inputs[0].removeprefix("*"))
    return [
        (
            outputs,
            [None if arg is None else way for way, arg in zip(inputs, args, strict=False)] + [None] * len(options),
        )
        for outputs, inputs in _ways(equation, batch, *options or (-1,))
    ]


_DTENSOR: tuple[type, ...] = ()


def is_distributed(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which there are none before somebody imports that."""
    return isinstance(tensor, _DTENSOR)


def _register(module: ModuleType) -> None:
    from torch.distributed.tensor.experimental import register_sharding

    global _DTENSOR
    _DTENSOR = (module.DTensor,)
    for op, equation in _EQUATIONS.items():
        register_sharding(op)(partial(_acceptable, equation))


when_imported("torch.distributed.tensor", _register)
