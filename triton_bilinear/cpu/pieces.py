"""The batch as a sequence of pieces of rows, whatever its axes and strides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from torch import Tensor

from ..axes import merge_axes

Index = tuple[int | slice, ...]


def spans(size: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover `size`, of nearly equal length, the longer ones first."""
    count = -(-size // step)
    for i in range(count):
        # From the end, so that rounding makes the first ones the longer ones.
        yield slice(size - (count - i) * size // count, size - (count - 1 - i) * size // count)


def span_lengths(size: int, step: int) -> set[int]:
    """How long the slices of `spans` are."""
    count = -(-size // step)
    return {size // count, -(-size // count)}


def tiles(outer: int, inner: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cover an (outer, inner) grid with tiles of at most `columns` cells: whole inner rows where one fits."""
    for a in spans(outer, max(1, columns // inner)):
        for b in spans(inner, columns):
            yield a, b


def columns_of(matrix: Tensor, span: slice) -> Tensor:
    """Some columns of a matrix; itself where these are all, for a view takes longer than to look."""
    return matrix if span.stop - span.start == matrix.shape[1] else matrix[:, span]


def pair_pieces(batch: int, rows: int, most: int, together: int) -> Iterator[tuple[slice, slice]]:
    """Samples and rows of each, in order: pieces of at most `most` rows (or of a single one) and `together` samples."""
    for samples in spans(batch, max(1, min(together, most // rows))):
        for part in spans(rows, most):
            yield samples, part


def row_pieces(tensor: Tensor, rows: int) -> Sequence[Tensor]:
    """The pieces of a tensor (*batch, features), in order, each of at most `rows` rows (or of a single one)."""
    if tensor.dim() == 2:
        return tensor.split(rows) if tensor.shape[0] > rows else (tensor,)  # one call for all of them, or none
    return [tensor[index] for index in _row_indices(tensor.shape[:-1], rows)]


def piece_lengths(batch: Sequence[int], rows: int) -> set[int]:
    """How many rows the pieces of `row_pieces` have."""
    if len(batch) == 1:
        return {min(rows, batch[0]), (batch[0] - 1) % rows + 1}
    axis, inner = _cut(batch, rows)
    return {inner * length for length in span_lengths(batch[axis], max(1, rows // inner))}


def _cut(batch: Sequence[int], rows: int) -> tuple[int, int]:
    """The batch axis that is cut, those before which are walked, and the rows of a block: of the axes behind it."""
    axis, inner = 0, prod(batch)
    while axis < len(batch) - 1 and inner // batch[axis] > rows:
        inner //= batch[axis]
        axis += 1
    return axis, inner // batch[axis]


def _row_indices(batch: Sequence[int], rows: int) -> Iterator[Index]:
    """Indices into the batch axes, in order, each of at most `rows` rows (or of a single one)."""
    if prod(batch) == 0:
        return
    axis, inner = _cut(batch, rows)
    for outer in _positions(batch[:axis]):
        for span in spans(batch[axis], max(1, rows // inner)):
            yield (*outer, span)


def _positions(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every index into `shape`, in order."""
    if not shape:
        yield ()
        return
    for i in range(shape[0]):
        for rest in _positions(shape[1:]):
            yield (i, *rest)


def flatten_batch(*tensors: Tensor) -> list[Tensor]:
    """The tensors (*batch, features_i) with as few batch axes as all their strides allow, and at least one.

    One axis in the common case. Axes stay apart where a tensor's strides do not let them be one, e.g. where features
    lie on the first axis of a larger batch.
    """
    batch = tensors[0].shape[:-1]
    if len(batch) == 1:
        return list(tensors)
    if not batch:
        return [t.unsqueeze(0) for t in tensors]
    merged = merge_axes(batch, [t.stride()[:-1] for t in tensors]) or [(1, [t.stride(0) for t in tensors])]
    sizes = [size for size, _ in merged]
    return [
        t.as_strided((*sizes, t.shape[-1]), (*(steps[i] for _, steps in merged), t.stride(-1)))
        for i, t in enumerate(tensors)
    ]


def batched(tensor: Tensor, axes: int) -> Tensor:
    """One batch axis in front of the last `axes` axes, whatever the number there was; a view wherever one can be."""
    if tensor.dim() == axes + 1:
        return tensor
    lead = tensor.dim() - axes
    return tensor.reshape(prod(tensor.shape[:lead]), *tensor.shape[lead:])
