"""Operands of a chain as a pairwise form has them: which axes each has, and how they lie in memory.

A ChainProblem counts elements and does not say which operand is one for all samples, and which for all outputs. Of a
pairwise form and its gradients that follows from the count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

from torch import Tensor

from ...planning import ChainProblem

# P, Q and R in `chain`'s order of axes.
AXES = ("blae", "blec", "blcd")

# Axes of P, Q and R as they are stored: of the form, of the gradient of x, and of that of the weight.
_FORM, _GRAD_X, _GRAD_WEIGHT = ("bae", "lec", "bdc"), ("blae", "bec", "ldc"), ("bea", "blec", "bcd")


@dataclass(frozen=True)
class Chain:
    """sizes: of every axis, by letter. stored: the axes that P, Q and R have, the last with stride 1.

    summed: "b" or "l" where the result is summed over it, else "".
    """

    sizes: dict[str, int]
    stored: tuple[str, str, str]
    summed: str

    def shape(self, axes: str) -> tuple[int, ...]:
        """Sizes of these axes."""
        return tuple(self.sizes[axis] for axis in axes)

    def result(self) -> tuple[int, ...]:
        """Sizes of the result, 1 along what is summed."""
        return tuple(1 if axis == self.summed else self.sizes[axis] for axis in "blad")

    def aligned(self, p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Operands of the stored axes with all of `chain`'s, of size 1 where they are one for all."""
        first, second, third = (_aligned(*each) for each in zip((p, q, r), self.stored, AXES, strict=True))
        return first, second, third

    def expanded(self, p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Operands of the stored axes as `chain` takes them."""
        first, second, third = zip(self.aligned(p, q, r), AXES, strict=True)
        return self._whole(*first), self._whole(*second), self._whole(*third)

    def _whole(self, tensor: Tensor, axes: str) -> Tensor:
        return tensor.expand(self.shape(axes))


def _aligned(tensor: Tensor, stored: str, axes: str) -> Tensor:
    there = [axis for axis in axes if axis in stored]
    tensor = tensor.permute([stored.index(axis) for axis in there])
    return tensor[tuple(slice(None) if axis in there else None for axis in axes)]


@cache
def chain_of(problem: ChainProblem) -> Chain:
    """The first pairwise product with as many elements. ValueError where there is none."""
    for chain in _chains(problem):
        if sum(prod(chain.shape(axes)) for axes in chain.stored) == problem.inputs:
            return chain
    raise ValueError(f"expected a problem of a pairwise form of dense tensors, got {problem}")


def _chains(problem: ChainProblem) -> Iterator[Chain]:
    outputs, K = problem.outputs, problem.K
    matrices = {"a": problem.A, "c": problem.C, "d": problem.D, "e": problem.E}
    if K == 1:
        for batch in range(1, outputs + 1):
            if outputs % batch == 0:
                yield Chain({"b": batch, "l": outputs // batch, **matrices}, _FORM, "")
    yield Chain({"b": outputs, "l": K, **matrices}, _GRAD_X, "l")
    yield Chain({"b": K, "l": outputs, **matrices}, _GRAD_WEIGHT, "b")
