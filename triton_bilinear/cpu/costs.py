"""What a piece of work costs on a CPU, counted in multiply-adds of the matrix product in the accumulation dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .shares import even_rows

# Multiply-adds of the matrix product, at its best, that take as long as ... (fitted to times of every plan of 25 sizes)
PRODUCT = 6.5  # one element of a Khatri-Rao product
DOT = 11.5  # one multiply-add of a batched vector-matrix product
COPY = 18.0  # one element of a copied weight
TURN = 115.0  # the same where another axis is the dense one
TURNED = 90.0  # one element of transposed features
CALL = 6e5  # what is fixed for each piece: the calls, and the threads that meet at the end of each
ONEDNN_CALL = 1.2e6  # the same with a product of oneDNN (see `onednn`)
# Multiply-adds of oneDNN's product that take as long as one of MKL's, where it is the faster.
ONEDNN = 2.2

Sizes = tuple[int, int, int]


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

    @property
    def converted(self) -> int:
        """The longest rows of factors and results that are copied in another dtype, if they are."""
        return 0 if self.as_stored else max(self.sizes)


def product_cost(run: int) -> float:
    """Of each element of a Khatri-Rao product, which is made in runs of so many."""
    return PRODUCT * (1 + 10 / run)


def dot_cost(length: int) -> float:
    """Of each multiply-add of a batched vector-matrix product with vectors of this length."""
    return DOT * (1 + 8 / length)


def rate(rows: float, inner: float, columns: float) -> float:
    """The share of its peak that a matrix product (rows, inner) x (inner, columns) of one thread reaches."""
    return rows / (rows + 5.0) * inner / (inner + 4.0) * columns / (columns + 5.0)


def rate_of_all(rows: int, inner: int, columns: int) -> float:
    """The same of all threads together."""
    return rows / (rows + 14.0) * inner / (inner + 4.0) * columns / (columns + 4.0)


def rate_by_transpose(rows: int, inner: int, columns: int) -> float:
    """The same of all threads where the right operand is stored as its transpose."""
    return rows / (rows + 8.0) * inner / (inner + 4.0) * columns / (columns + 32.0)


def rate_by_onednn(rows: int, inner: int, columns: int) -> float:
    """The same of oneDNN's product of all threads (see `onednn`), against MKL's best."""
    return ONEDNN * rows / (rows + 10.0) * inner / (inner + 10.0) * columns / (columns + 8.0)


def rate_of_shares(rows: int, inner: int, columns: int, threads: int) -> float:
    """The same of `shares.multiply`."""
    if even_rows(rows, threads):
        return rate(rows // threads, inner, columns)
    return rate_of_all(rows, inner, columns)


def one_axis(sizes: Sequence[int], strides: Sequence[int], outer: int, inner: int) -> bool:
    """Whether two axes can be one axis of a view."""
    return 1 in (sizes[outer], sizes[inner]) or strides[outer] == strides[inner] * sizes[inner]


def is_matrix(sizes: Sequence[int], strides: Sequence[int], axes: Sizes) -> bool:
    """Whether torch's matrix product takes a tensor as it lies, as a matrix of one axis and two fused ones."""
    rows, outer, inner = axes
    step = strides[outer if sizes[inner] == 1 else inner]
    shape = sizes[rows], sizes[outer] * sizes[inner]
    return one_axis(sizes, strides, outer, inner) and blas_takes(shape, (strides[rows], step))


def blas_takes(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether torch's matrix product takes a matrix as it lies: one axis dense, the other's stride longer."""
    (rows, columns), (row_stride, column_stride) = shape, strides
    return (column_stride == 1 and row_stride >= max(1, columns)) or (row_stride == 1 and column_stride >= max(1, rows))


def pair_work(s: int, t: int, m: int, n: int) -> int:
    """Multiply-adds for each sample and output of all pairs, where s rows of m features meet the weight, and then t."""
    return s * n * (m + t)
