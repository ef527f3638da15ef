"""Operands of a CPU's matrix unit: as they lie where torch takes them so, else copies in parts, padded by 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from .costs import is_matrix
from .pieces import spans
from .workspace import Walk, Workspace


def padded_rows(workspace: Workspace, name: str, piece: Tensor, length: int) -> Tensor:
    """A piece (*batch, features) as a dense matrix (rows, length), 0 beyond the features."""
    if piece.shape[-1] == length and piece.is_contiguous():
        return piece.view(-1, length)
    return workspace.padded(name, piece, *piece.shape[:-1], length).view(-1, length)


def sides(workspace: Workspace, weight: Tensor, outer: int, inner: int, outputs: int) -> Iterable[tuple[slice, Tensor]]:
    """A weight (p, q, r) as matrices (outer inner, `outputs` of p), 0 beyond q and r; may be walked many times.

    Where they are copies each lasts until the next is asked for.
    """
    parts = list(spans(weight.shape[0], outputs))
    if len(parts) == 1:
        return [(parts[0], _side(workspace, weight, outer, inner))]
    return Walk(lambda: ((p, _side(workspace, weight[p], outer, inner)) for p in parts))


def _side(workspace: Workspace, weight: Tensor, outer: int, inner: int) -> Tensor:
    """A weight (p, q, r) as a matrix (outer inner, p). A copy keeps the axis that is dense, if p or r is."""
    if weight.shape[1:] == (outer, inner) and is_matrix(weight.shape, weight.stride(), (0, 1, 2)):
        return workspace.fused("weight", weight).t()
    p = weight.shape[0]
    if weight.stride(0) == 1:
        return workspace.padded("weight", weight.permute(1, 2, 0), outer, inner, p).view(-1, p)
    return workspace.padded("weight", weight, p, outer, inner).view(p, -1).t()


def slabs(workspace: Workspace, weight: Tensor, m: int, inner: int, step: int) -> Iterator[tuple[slice, Tensor]]:
    """A weight (O, M, I) as matrices (m, `step` of O times inner), 0 beyond M and I, and the columns that each is of.

    Each lasts until the next is asked for. A weight that need not be copied comes whole, whatever the step.
    """
    if weight.shape[1:] == (m, inner) and is_matrix(weight.shape, weight.stride(), (1, 0, 2)):
        yield slice(0, len(weight) * inner), workspace.fused("weight", weight.transpose(0, 1))
        return
    for part in spans(len(weight), step):
        matrix = workspace.padded("weight", weight[part].transpose(0, 1), m, part.stop - part.start, inner).view(m, -1)
        yield slice(part.start * inner, part.stop * inner), matrix


def padded_transpose(workspace: Workspace, name: str, tensor: Tensor, features: int, length: int) -> Tensor:
    """A copy of a tensor (*batch, F) as a matrix (features, length), 0 beyond F and the batch."""
    matrix = workspace.take(name, features, length)
    own, batch = tensor.shape[-1], tensor.numel() // tensor.shape[-1]
    matrix[:own, :batch].unflatten(1, tensor.shape[:-1]).copy_(tensor.movedim(-1, 0))
    matrix[:own, batch:], matrix[own:] = 0, 0
    return matrix
