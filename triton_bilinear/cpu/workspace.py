"""The buffers of one call, and operands brought into the form that torch's matrix product reads in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Generic, TypeGuard, TypeVar

import torch
from torch import Tensor

from . import freed_memory, onednn
from .costs import blas_takes, fused_step, is_matrix, one_axis
from .pieces import row_pieces
from .shares import multiply, threads_of

T = TypeVar("T")

# What a sum is accumulated in.
ACCUMULATE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def blas_ready(matrix: Tensor) -> bool:
    """Whether torch's matrix product takes this matrix as it lies."""
    return blas_takes(matrix.shape, matrix.stride())


def fusible(tensor: Tensor, axis: int) -> bool:
    """Whether `axis` and the next one can be one axis of a view."""
    return one_axis(tensor.shape, tensor.stride(), axis, axis + 1)


def fuse(tensor: Tensor, axis: int) -> Tensor:
    """`tensor` with `axis` and the next one as one axis; they must be fusible."""
    shape, stride = tensor.shape, tensor.stride()
    step = fused_step(shape, stride, axis, axis + 1)
    return tensor.as_strided(
        (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]), (*stride[:axis], step, *stride[axis + 2 :])
    )


def is_fused(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a product of this dtype takes a 3-d tensor (a, b, c) as it lies, as a matrix (a, b c)."""
    return tensor.dtype == dtype and is_matrix(tensor.shape, tensor.stride(), (0, 1, 2))


class Workspace:
    """Named flat buffers of one dtype, made when first asked for and reused for every later piece.

    The first piece of a loop is its largest, so that a name allocates once, or few times where it serves several ends.
    """

    def __init__(self, like: Tensor, rounded: bool = False) -> None:
        """Of the dtype that sums of `like` are accumulated in, or for products that are rounded to its own dtype.

        A matrix unit returns these (see `matrix_unit`), which is given dense matrices, and results in row-major order.
        """
        freed_memory.keep()
        self.dtype = like.dtype if rounded else ACCUMULATE[like.dtype]
        self._rounded = rounded
        self.device = like.device
        self._onednn = onednn.serves(self.dtype, like.device)
        self.threads = 1 if self._onednn else threads_of(like.device)
        self._buffers: dict[str, Tensor] = {}
        self._shaped: dict[tuple[str | int, ...], Tensor] = {}
        self._latest: dict[str, tuple[tuple[int, ...], Tensor]] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """The buffer `name` as a contiguous tensor of this shape. Its content is whatever was last written."""
        key: tuple[str | int, ...] = (name, *shape)
        if key in self._shaped:
            return self._shaped[key]
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
            self._shaped.clear()  # which may hold the smaller buffer
        self._shaped[key] = (buffer if buffer.numel() == size else buffer[:size]).view(shape)
        return self._shaped[key]

    def latest(self, name: str, sizes: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns; what it last returned for this name, if that was for these sizes."""
        if name not in self._latest or self._latest[name][0] != sizes:
            self._latest.pop(name, None)  # before the next one is made
            self._latest[name] = sizes, make()
        return self._latest[name][1]

    def product(self, name: str, left: Tensor, right: Tensor, together: bool = False) -> Tensor:
        """left right, in the buffer `name` or in a tensor of its own. Shapes: (rows, K), (K, columns).

        together: by all threads, not by each its rows.
        """
        if self._onednn and onednn.pays(left, right):
            return onednn.product(left, self._dense(right))
        target = self.take(name, left.shape[0], right.shape[1])
        multiply(left, right, target, 1 if together else self.threads)
        return target

    def multiply(self, left: Tensor, right: Tensor, target: Tensor, add: bool = False, together: bool = False) -> None:
        """target = left right, added to what is there if `add`; `together` as in `product`."""
        if self._onednn and onednn.pays_to_copy(left, right):
            result = onednn.product(left, self._dense(right))
            target.add_(result) if add else target.copy_(result)
        else:
            multiply(left, right, target, 1 if together else self.threads, add)

    def multiply_each(self, left: Tensor, rights: Tensor, targets: Tensor, add: bool) -> None:
        """The same of one left operand and as many right ones as there are threads. Shapes: (threads, K, columns)."""
        if self.threads == 1:
            self.multiply(left, rights[0], targets[0], add)
            return
        self.multiply_samples(left.expand(len(rights), -1, -1), rights, targets, add)

    def multiply_samples(self, lefts: Tensor, rights: Tensor, targets: Tensor, add: bool = False) -> None:
        """targets[i] = lefts[i] rights[i], added to what is there if `add`: a product for each, or a batched one."""
        if self._onednn and onednn.pays_one_by_one(lefts, rights):
            for left, right, target in zip(lefts, rights, targets, strict=True):
                self.multiply(left, right, target, add)
        elif add:
            targets.baddbmm_(lefts, rights)
        else:
            torch.bmm(lefts, rights, out=targets)

    def _dense(self, matrix: Tensor) -> Tensor:
        if onednn.is_dense(matrix):
            return matrix
        lies_transposed = matrix.stride(0) < matrix.stride(1)
        return self.copy("dense", matrix.t()).t() if lies_transposed else self.copy("dense", matrix)

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """A contiguous copy of `tensor` in the buffer `name`."""
        return self.take(name, *tensor.shape).copy_(tensor)

    def rows(self, name: str, tensor: Tensor, rows: int) -> Iterable[Tensor]:
        """The pieces of a tensor (*batch, features) as matrices (rows, features).

        They are views where a product can read them; else copies, each of which lasts until the next is asked for.
        """
        pieces = row_pieces(tensor, rows)
        if tensor.dim() == 2 and tensor.dtype == self.dtype and blas_ready(tensor):
            return pieces
        return (self.matrix(name, piece) for piece in pieces)

    def matrix(self, name: str, piece: Tensor) -> Tensor:
        """A piece (*batch, features) as a matrix (rows, features): a view where a product can read it, else a copy."""
        view = self._matrix_view(piece)
        return view if view is not None else self.copy(name, piece).view(-1, piece.shape[-1])

    def padded(self, name: str, tensor: Tensor, *sizes: int) -> Tensor:
        """A contiguous copy of `tensor` of these sizes in the buffer `name`, 0 beyond its own."""
        buffer = own = self.take(name, *sizes)
        for axis, (size, own_size) in enumerate(zip(sizes, tensor.shape, strict=True)):
            if size > own_size:
                own.narrow(axis, own_size, size - own_size).zero_()
                own = own.narrow(axis, 0, own_size)
        own.copy_(tensor)
        return buffer

    def matrices(self, name: str, tensor: Tensor, rows: int, columns: int) -> Tensor:
        """Matrices in the dtype of the buffers and of these sizes, 0 beyond their own; as they lie if they can."""
        lies_right = tensor.shape[1:] == (rows, columns) and tensor.dtype == self.dtype
        if lies_right and (not self._rounded or tensor.is_contiguous()):
            return tensor
        return self.padded(name, tensor, len(tensor), rows, columns)

    def fused(self, name: str, tensor: Tensor) -> Tensor:
        """A 3-d tensor (a, b, c) as a matrix (a, b c): a view where a product can read it, else a copy."""
        view = self._fused_view(tensor)
        return view if view is not None else self.copy(name, tensor).view(tensor.shape[0], -1)

    def tiles(self, name: str, tensor: Tensor, grid: Sequence[tuple[slice, slice]]) -> Iterable[Tensor]:
        """The tiles [:, b, c] of a 3-d tensor as matrices, as `fused` gives them; may be walked many times.

        A tile that is a copy lasts until the next is asked for, so that only a single one is copied once for all.
        """
        views = [view for b, c in grid if (view := self._fused_view(tensor[:, b, c])) is not None]
        if len(views) == len(grid):
            return views
        return once_or_walk(grid, lambda b, c: self.fused(name, tensor[:, b, c]))

    def copied_tiles(self, name: str, tensor: Tensor, grid: Sequence[tuple[slice, slice]]) -> Iterable[Tensor]:
        """The tiles [a, b] of a 3-d tensor (a, b, c) as matrices (a b, c) in row-major order, copied as in `tiles`."""
        return once_or_walk(grid, lambda a, b: self.copy(name, tensor[a, b]).flatten(0, 1))

    def target(self, name: str, piece: Tensor, dense_up_to: int = 0) -> Tensor:
        """A matrix (rows, features) to compute a piece (*batch, features) of a result in; `store` completes it.

        dense_up_to: elements of a buffer that is taken for a piece which is not contiguous, for batched products.
        """
        view = self._matrix_view(piece)
        if self._is_target(view) and (view.is_contiguous() or view.numel() > dense_up_to):
            return view
        return self.take(name, prod(piece.shape[:-1]), piece.shape[-1])

    def fused_target(self, name: str, tensor: Tensor) -> Tensor:
        """A matrix (a, b c) to compute a 3-d piece (a, b, c) of a result in; `store` completes it."""
        view = self._fused_view(tensor)
        return view if self._is_target(view) else self.take(name, tensor.shape[0], tensor.shape[1] * tensor.shape[2])

    def rows_target(self, name: str, tensor: Tensor) -> Tensor:
        """A matrix (a b, c) in row-major order to compute a piece (a, b, c) of a result in; `store` completes it."""
        dense = tensor.dtype == self.dtype and tensor.stride(2) == 1
        if dense and is_matrix(tensor.shape, tensor.stride(), (2, 0, 1)):
            return fuse(tensor, 0)
        return self.take(name, tensor.shape[0] * tensor.shape[1], tensor.shape[2])

    def store(self, piece: Tensor, target: Tensor) -> None:
        """Write the finished `target` to its piece of the result, where it is not that piece itself."""
        if target.data_ptr() != piece.data_ptr():
            piece.copy_(target.view(piece.shape))

    def _is_target(self, view: Tensor | None) -> TypeGuard[Tensor]:
        return view is not None and (not self._rounded or view.stride(1) == 1)

    def _matrix_view(self, piece: Tensor) -> Tensor | None:
        if piece.dtype != self.dtype:
            return None
        if piece.dim() == 2 and piece.is_contiguous():
            return piece
        while piece.dim() > 2:
            if not fusible(piece, 0):
                return None
            piece = fuse(piece, 0)
        return piece if blas_ready(piece) else None

    def _fused_view(self, tensor: Tensor) -> Tensor | None:
        return fuse(tensor, 1) if is_fused(tensor, self.dtype) else None


def once_or_walk(grid: Sequence[tuple[slice, slice]], make: Callable[[slice, slice], T]) -> Iterable[T]:
    """What is made of each tile of a grid: anew in each walk, but of a single tile once for all."""
    if len(grid) == 1:
        return [make(*grid[0])]
    return Walk(lambda: (make(*tile) for tile in grid))


class Walk(Generic[T]):
    """What a function iterates over, each time anew."""

    def __init__(self, walk: Callable[[], Iterator[T]]) -> None:
        self._walk = walk

    def __iter__(self) -> Iterator[T]:
        return self._walk()
