"""Batch axes as the kernels address them: three levels of rows, by strides and without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..axes import merge_axes

# No tile of any plan has more rows of the batch.
MAX_TILE_ROWS = 256

# Kernels count rows in 32 bits, and a tile or a share of a split beyond the last one.
MOST_ROWS = 2**30

# Levels of rows that a kernel walks.
_LEVELS = 3


# Of a tensor's outer, middle and inner steps.
RowStrides = tuple[int, int, int]


@dataclass(frozen=True)
class Rows:
    """`count` rows, on three levels: `inner` rows to a middle step, `middle` of those to an outer step.

    Row i lies at (i // inner // middle) * outer stride + (i // inner % middle) * middle stride + (i % inner) * inner
    stride of each tensor. Rows that one stride walks have no middle step (inner is count), those that two walk no outer
    one (inner * middle is count). run: `inner` where rows of several columns lie side by side in some tensor, as
    where features come first, else 1.
    """

    count: int
    middle: int
    inner: int
    strides: tuple[RowStrides, ...]  # of each tensor
    run: int = 1

    def arguments(self, block: int) -> dict[str, Any]:
        """The kernels' arguments for all rows, in tiles of `block`."""
        return {**self.extents(), "EVEN_B": self.count % block == 0, "ROWS": self.kind(block)}

    def extents(self) -> dict[str, int]:
        """The kernels' arguments that count rows."""
        return {"B": self.count, "B_MIDDLE": self.middle, "B_INNER": self.inner}

    def kind(self, block: int) -> str:
        """How tiles of `block` rows meet steps: the kernels' ROWS (see kernels.helpers.tile_rows)."""
        if self.inner == self.count:
            return "flat"
        if self.inner % block == 0:
            return "straight"
        return "crossing" if self.inner * self.middle == self.count else "nested"

    def reach(self, index: int) -> int:
        """The most elements that two rows of one tile of tensor `index` can lie apart."""
        outer, middle, inner = self.strides[index]
        if self.inner == self.count:
            return MAX_TILE_ROWS * inner
        steps = MAX_TILE_ROWS // self.inner + 1
        if self.inner * self.middle == self.count:
            return steps * middle + self.inner * inner
        # Beyond an outer step the middle ones begin anew.
        return (steps // self.middle + 1) * outer + self.middle * middle + self.inner * inner

    def levels_of(self, workspace: Tensor) -> Tensor:
        """A dense (splits, count, columns) with its rows' three levels as axes: these have the strides of a walk."""
        return workspace.unflatten(1, (self.count // (self.middle * self.inner), self.middle, self.inner))


def row_strides(name: str, strides: RowStrides) -> dict[str, int]:
    """The kernels' arguments for the rows of one tensor."""
    return dict(zip((f"stride_{name}b", f"stride_{name}j", f"stride_{name}i"), strides, strict=True))


def batch_rows(tensors: Sequence[Tensor], axes: int = 1) -> Rows:
    """The rows of tensors (*batch, features), which three levels must do for (see `walkable`).

    RuntimeError for more of them than a kernel can count.

    axes: of each tensor behind those of the batch, where it is not features that a row has but matrices (`run` means
    nothing there).
    """
    merged = _levels(tensors, axes)
    none = (1, [0] * len(tensors))
    outer, middle, inner = [none] * (_LEVELS - len(merged)) + merged
    count = outer[0] * middle[0] * inner[0]
    if count > MOST_ROWS:
        raise RuntimeError(f"expected a batch of at most 2**30 rows, got {count}")
    strides = tuple(zip(outer[1], middle[1], inner[1], strict=True))
    side_by_side = any(step == 1 and t.shape[-1] > 1 for step, t in zip(inner[1], tensors, strict=True))
    return Rows(count, middle[0], inner[0], strides, inner[0] if side_by_side else 1)


def walkable(inputs: Sequence[Tensor], outputs: Sequence[Tensor] = (), axes: int = 1) -> list[Tensor]:
    """The inputs as they are, but where the batch axes of all tensors (see `batch_rows`) need four levels or more.

    As do four of them, say, none of which merge because x and y are expanded along every other one. Then those that
    come cheapest are copies.
    """
    if inputs[0].dim() <= _LEVELS + axes or len(_levels([*inputs, *outputs], axes)) <= _LEVELS:
        return list(inputs)
    return _with_copies(inputs, outputs, axes)


def _levels(tensors: Sequence[Tensor], axes: int) -> list[tuple[int, list[int]]]:
    return merge_axes(tensors[0].shape[:-axes], [tensor.stride()[:-axes] for tensor in tensors])


def _with_copies(inputs: Sequence[Tensor], outputs: Sequence[Tensor], axes: int) -> list[Tensor]:
    """The inputs, as few elements of them copied as possible, in the first output's order, for the levels to do."""
    like = outputs[0] if outputs else None
    models = [torch.empty_strided(t.shape, t.stride(), device="meta") for t in inputs]
    dense = [_in_order_of(model, like) for model in models]
    indices = range(len(inputs))
    choices = [copied for count in indices for copied in combinations(indices, count + 1)]
    for copied in sorted(choices, key=lambda copied: sum(inputs[i].numel() for i in copied)):
        if len(_levels([*(dense[i] if i in copied else models[i] for i in indices), *outputs], axes)) <= _LEVELS:
            break
    return [_in_order_of(tensor, like) if i in copied else tensor for i, tensor in enumerate(inputs)]


def _in_order_of(tensor: Tensor, other: Tensor | None) -> Tensor:
    """A dense copy of the tensor whose axes lie in memory in the order of the other's (row-major without one)."""
    if other is None:
        return tensor.contiguous()
    order = sorted(range(other.dim()), key=other.stride, reverse=True)
    inverse = sorted(range(other.dim()), key=lambda axis: order[axis])
    return tensor.permute(order).contiguous().permute(inverse)
