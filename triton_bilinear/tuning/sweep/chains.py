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

# P, Q and R in `chain`'s order of axes; o and b are the axes of its result's first two, k is summed.
AXES = ("bokae", "bokec", "bokcd")

# Axes of P, Q and R as they are stored, of the form, of the gradient of x, and of that of the weight.
_STORED = (("bae", "oec", "bdc"), ("bkae", "bec", "kdc"), ("kea", "koec", "kcd"))


@dataclass(frozen=True)
class Chain:
    """sizes: of every axis, by letter. stored: the axes that P, Q and R have, the last with stride 1."""

    sizes: dict[str, int]
    stored: tuple[str, str, str]

    def shape(self, axes: str) -> tuple[int, ...]:
        """Sizes of these axes."""
        return tuple(self.sizes[axis] for axis in axes)

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
    sums = {"k": problem.K, "a": problem.A, "c": problem.C, "d": problem.D, "e": problem.E}
    for stored in _STORED:
        letters = "".join(stored)
        for batch in range(1, problem.outputs + 1):
            sizes = {"b": batch, "o": problem.outputs // batch, **sums}
            whole = batch * sizes["o"] == problem.outputs
            if whole and all(axis in letters or sizes[axis] == 1 for axis in sizes):
                yield Chain(sizes, stored)
