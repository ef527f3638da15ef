"""Batch axes as the kernels address them: at most two levels of rows, by strides and without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

# No tile of any plan has more rows of the batch.
MAX_TILE_ROWS = 256


@dataclass(frozen=True)
class Rows:
    """`count` rows; row i lies at (i // inner) * outer stride + (i % inner) * inner stride of each tensor.

    Rows that one stride walks have no outer step: inner is count.
    """

    count: int
    inner: int
    strides: tuple[tuple[int, int], ...]  # (outer, inner) of each tensor

    def kind(self, block: int) -> str:
        """How tiles of `block` rows meet outer steps: the kernels' ROWS (see kernels.helpers.tile_rows)."""
        if self.inner == self.count:
            return "flat"
        return "straight" if self.inner % block == 0 else "crossing"

    def reach(self, index: int) -> int:
        """The most elements that two rows of one tile of tensor `index` can lie apart."""
        outer, inner = self.strides[index]
        if self.inner == self.count:
            return MAX_TILE_ROWS * inner
        return (MAX_TILE_ROWS // self.inner + 1) * outer + self.inner * inner


def merge_axes(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """The fewest axes, outermost first, that walk every tensor (one sequence of strides each) in row-major order."""
    merged: list[tuple[int, list[int]]] = []
    for axis in range(len(sizes) - 1, -1, -1):
        size, steps = sizes[axis], [tensor[axis] for tensor in strides]
        if size == 1:
            continue
        if merged and all(step == merged[0][0] * inner for step, inner in zip(steps, merged[0][1], strict=True)):
            merged[0] = (merged[0][0] * size, merged[0][1])
        else:
            merged.insert(0, (size, steps))
    return merged


def batch_rows(inputs: Sequence[Tensor], outputs: Sequence[Tensor] = ()) -> tuple[Rows, list[Tensor]]:
    """The rows of tensors (*batch, features), and the inputs to address with them.

    The inputs come back as they are, but where all batch axes need three levels or more (three of them, say, none of
    which merge because x is expanded along one and y along another): then those that come cheapest are copies.
    """
    merged = _levels([*inputs, *outputs])
    if len(merged) > 2:
        inputs = _with_copies(inputs, outputs)
        merged = _levels([*inputs, *outputs])
        assert len(merged) <= 2, "results are allocated with two levels at most"
    count = 1
    for size, _ in merged:
        count *= size
    zeros = [0] * (len(inputs) + len(outputs))
    outer = merged[0][1] if len(merged) == 2 else zeros
    inner, inner_strides = merged[-1] if merged else (1, zeros)
    return Rows(count, inner, tuple(zip(outer, inner_strides, strict=True))), list(inputs)


def _levels(tensors: Sequence[Tensor]) -> list[tuple[int, list[int]]]:
    return merge_axes(tensors[0].shape[:-1], [tensor.stride()[:-1] for tensor in tensors])


def _with_copies(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
    """The inputs, as few elements of them copied as possible, in the first output's order, for two levels to do."""
    like = outputs[0] if outputs else None
    models = [torch.empty_strided(t.shape, t.stride(), device="meta") for t in inputs]
    dense = [_in_order_of(model, like) for model in models]
    indices = range(len(inputs))
    choices = [copied for count in indices for copied in combinations(indices, count + 1)]
    for copied in sorted(choices, key=lambda copied: sum(inputs[i].numel() for i in copied)):
        if len(_levels([*(dense[i] if i in copied else models[i] for i in indices), *outputs])) <= 2:
            break
    return [_in_order_of(tensor, like) if i in copied else tensor for i, tensor in enumerate(inputs)]


def _in_order_of(tensor: Tensor, other: Tensor | None) -> Tensor:
    """A dense copy of the tensor whose axes lie in memory in the order of the other's (row-major without one)."""
    if other is None:
        return tensor.contiguous()
    order = sorted(range(other.dim()), key=other.stride, reverse=True)
    inverse = sorted(range(other.dim()), key=lambda axis: order[axis])
    return tensor.permute(order).contiguous().permute(inverse)
