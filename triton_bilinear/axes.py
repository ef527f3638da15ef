"""Axes of tensors as few as their strides allow."""

from __future__ import annotations

from collections.abc import Sequence


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
