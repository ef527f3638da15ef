"""What a piece of work costs on a CPU, counted in multiply-adds of the matrix product in the accumulation dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .shares import even_rows

Sizes = tuple[int, int, int]

# Multiply-adds of oneDNN's product that take as long as one of MKL's, on a Zen 5 (see `libraries.ONEDNN`).
ONEDNN_PER_MKL = 2.3


@dataclass(frozen=True)
class Plan:
    """An order, with the rows of the batch and the fused columns of one piece.

    `axes` says which axis of the weight plays which role: (p, q, r) of `contract`; for its gradient (alone, outer,
    inner), where the product of outer and inner meets the factor alone. `outputs`: of how many of p an order of the
    matrix unit meets the weight at a time, 0 for all. `copies`: the weight is copied, as a matrix (q r, p).
    `apart`: the sums of each thread's rows are kept apart, and added up in the end.
    """

    order: str
    axes: Sizes
    rows: int
    columns: int
    cost: float
    outputs: int = 0
    copies: bool = False
    apart: bool = False


class Weight(NamedTuple):
    """What a plan depends on of a weight, or of its gradient.

    as_stored: a matrix product of its own dtype returns what sums are accumulated in. unit: the CPU has a matrix unit
    for its dtype.
    """

    sizes: Sizes
    strides: Sizes
    as_stored: bool = True
    unit: bool = False

    def lies_as(self, axes: Sizes) -> bool:
        """Whether a product of accumulated values takes it as it lies, as a matrix of one axis and two fused ones."""
        return self.as_stored and self.is_matrix(axes)

    def is_matrix(self, axes: Sizes) -> bool:
        """The same of a product of its own dtype."""
        return is_matrix(self.sizes, self.strides, axes)

    def has_dense_columns(self, axes: Sizes) -> bool:
        """Whether any columns of it, as a matrix of one axis and two fused ones, are the transpose of a dense one."""
        return self.strides[axes[0]] == 1 and fused_step(self.sizes, self.strides, *axes[1:]) == self.sizes[axes[0]]

    def is_dense(self, axes: Sizes) -> bool:
        """Whether that matrix is, in the dtype of a product of accumulated values."""
        columns = self.sizes[axes[1]] * self.sizes[axes[2]]
        step = fused_step(self.sizes, self.strides, *axes[1:])
        return self.lies_as(axes) and step == 1 and self.strides[axes[0]] == columns

    @property
    def converted(self) -> int:
        """The longest rows of factors and results that are copied in another dtype, if they are."""
        return 0 if self.as_stored else max(self.sizes)


def rate(rows: float, inner: float, columns: float) -> float:
    """The share of its peak that a matrix product (rows, inner) x (inner, columns) of one thread reaches."""
    return rows / (rows + 5.0) * inner / (inner + 4.0) * columns / (columns + 5.0)


def rate_of_all(rows: int, inner: int, columns: int) -> float:
    """The same of all threads together."""
    return rows / (rows + 14.0) * inner / (inner + 4.0) * columns / (columns + 4.0)


def rate_by_transpose(rows: int, inner: int, columns: int) -> float:
    """The same of all threads where the right operand is stored as its transpose."""
    return rows / (rows + 8.0) * inner / (inner + 4.0) * columns / (columns + 32.0)


def rate_by_onednn(inner: int, columns: int) -> float:
    """The same of oneDNN's product of all threads (see `onednn`), against MKL's best; its columns are made in 16s."""
    return ONEDNN_PER_MKL * inner / (inner + 4.0) * columns / (-(-columns // 16) * 16 + 4.0)


def rate_of_shares(rows: int, inner: int, columns: int, threads: int) -> float:
    """The same of `shares.multiply`."""
    if even_rows(rows, threads):
        return rate(rows // threads, inner, columns)
    return rate_of_all(rows, inner, columns)


def one_axis(sizes: Sequence[int], strides: Sequence[int], outer: int, inner: int) -> bool:
    """Whether two axes can be one axis of a view."""
    return 1 in (sizes[outer], sizes[inner]) or strides[outer] == strides[inner] * sizes[inner]


def fused_step(sizes: Sequence[int], strides: Sequence[int], outer: int, inner: int) -> int:
    """The stride of that axis."""
    return strides[outer if sizes[inner] == 1 else inner]


def is_matrix(sizes: Sequence[int], strides: Sequence[int], axes: Sizes) -> bool:
    """Whether torch's matrix product takes a tensor as it lies, as a matrix of one axis and two fused ones."""
    rows, outer, inner = axes
    shape = sizes[rows], sizes[outer] * sizes[inner]
    steps = strides[rows], fused_step(sizes, strides, outer, inner)
    return one_axis(sizes, strides, outer, inner) and blas_takes(shape, steps)


def blas_takes(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether torch's matrix product takes a matrix as it lies: one axis dense, the other's stride longer."""
    (rows, columns), (row_stride, column_stride) = shape, strides
    return (column_stride == 1 and row_stride >= max(1, columns)) or (row_stride == 1 and column_stride >= max(1, rows))


def pair_work(s: int, t: int, m: int, n: int) -> int:
    """Multiply-adds for each sample and output of all pairs, where s rows of m features meet the weight, and then t."""
    return s * n * (m + t)
