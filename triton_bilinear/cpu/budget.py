"""How large the pieces of a contraction are: rows of the batch and columns of what lies between two products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from .costs import Sizes
from .libraries import MKL, ONEDNN, Library
from .onednn import FEWEST_ROWS, serves
from .shares import threads_of
from .workspace import ACCUMULATE

# Elements of a buffer: the caches of a CPU, or enough work for one launch on another device.
CPU_PIECE = 512 * 1024
DEVICE_PIECE = 16 * 1024 * 1024

# What lies between two products of MKL may be a few times as large in float32, where that is no more than the weight,
# nor than a small part of what a contraction makes that is not cut: longer products do a little better.
TIMES_AS_LARGE = 4
ONE_PART_OF = 10

# Rows of a piece; more or fewer make the matrix product slower.
ROWS = (128, 256, 512)

# Where all columns are so few that a buffer holds them with more rows, these make fewer calls.
MANY_ROWS = 1024

# Rows that fill a vector. A product of as many, or of a multiple, has no incomplete step.
VECTOR = 16


# In half precision, where einsum holds more elements than this, a buffer of float32 is no more than one part of those.
MANY = 2**23
ONE_PART_OF_HELD = 36
ONE_PART_FOR_ONEDNN = 56  # with the new tensors that it returns

# What lies between two products of oneDNN may be twice as large as a buffer in float32, where rows are so many that
# more of them to a piece let the weight be read less often, and it is no more than one part of what einsum holds: a
# larger part where that is little.
TIMES_FOR_ONEDNN = 2
LITTLE = 2**22
ONE_PART_OF_LITTLE = 3
ONE_PART_OF_MUCH = 12


class Budget(NamedTuple):
    """Elements of each buffer of a call, and of the one that holds what lies between two products; and the threads.

    held: elements that einsum holds of a step (see `held_by_einsum`). onednn: products are oneDNN's, of dense operands.
    """

    buffer: int
    product: int
    threads: int = 1
    held: int = 0
    onednn: bool = False

    @property
    def library(self) -> Library:
        """What makes the products."""
        return ONEDNN if self.onednn else MKL


def piece_elements(device: torch.device) -> int:
    """Elements of a buffer on a device."""
    return CPU_PIECE if device.type == "cpu" else DEVICE_PIECE


def budget_of(device: torch.device, dtype: torch.dtype, rows: int, sizes: Sizes) -> Budget:
    """For a contraction of so many rows in a step whose weight has these sizes (L, M, N) and this dtype."""
    buffer, held = piece_elements(device), held_by_einsum(rows, sizes)
    onednn = rows >= FEWEST_ROWS and serves(ACCUMULATE[dtype], device)
    if device.type == "cpu" and dtype.itemsize < 4 and held > MANY:
        buffer = min(buffer, held // (ONE_PART_FOR_ONEDNN if onednn else ONE_PART_OF_HELD))
    product = buffer
    if device.type == "cpu" and dtype == torch.float32:
        product = _product_of_onednn(buffer, rows, held) if onednn else _product_of_mkl(buffer, rows, sizes)
    return Budget(buffer, product, 1 if onednn else threads_of(device), held, onednn)


def _product_of_mkl(buffer: int, rows: int, sizes: Sizes) -> int:
    p, q, r = sizes
    allowed = min(p * q * r, rows * min(p * q, p * r, q * r) // ONE_PART_OF)
    return min(max(buffer, allowed), TIMES_AS_LARGE * buffer)


def _product_of_onednn(buffer: int, rows: int, held: int) -> int:
    if rows < ROWS[-1]:
        return buffer
    allowed = held // (ONE_PART_OF_LITTLE if held <= LITTLE else ONE_PART_OF_MUCH)
    return min(max(buffer, allowed), TIMES_FOR_ONEDNN * buffer)


def held_by_einsum(rows: int, sizes: Sizes) -> int:
    """Elements that einsum holds of a step, in the order that holds least of what grows with the rows.

    That is what lies between its two products and more: the products of x and y three times, or a projection and its
    gradient, or a projection and a copy of the weight. Of a gradient that is asked for alone the sizes come in another
    order, and it is an estimate.
    """
    outputs, m, n = sizes
    projection = rows * outputs * min(m, n)
    return min(3 * rows * m * n, max(2 * projection, projection + outputs * m * n))


def padded_share(rows: int, threads: int) -> tuple[int, int]:
    """How many threads get a share of so many rows, and its rows, padded to whole vectors."""
    if rows < VECTOR * threads:
        return 1, rows
    return threads, -(-rows // (threads * VECTOR)) * VECTOR


def piece_rows(batch: int, most: int, threads: int) -> int:
    """Rows of each piece but the last one, which may be much shorter; at most so many.

    Of nearly equal parts, made whole vectors for each thread.
    """
    if batch <= most:
        return batch
    rows, unit = -(-batch // -(-batch // most)), threads * VECTOR
    whole = -(-rows // unit) * unit
    return whole if whole <= most else rows


def columns_within(outer: int, inner: int, most: int) -> int:
    """Columns of a piece, at most so many (or a single one): whole inner rows where one fits, in nearly equal parts."""
    columns = max(1, min(outer * inner, most))
    if columns > inner:
        columns = -(-outer // -(-outer // (columns // inner))) * inner
    return columns


def shapes(
    batch: int,
    outer: int,
    inner: int,
    budget: Budget,
    copied: int = 0,
    converted: int = 0,
    beside: int = 0,
    many: bool = False,
) -> Iterator[tuple[int, int, int]]:
    """Rows and columns of pieces within the budget, whole inner rows where one fits; and their number.

    copied: the length of a column that a copy of the weight has; converted: the longest rows of factors and results,
    where these are copied; beside: elements of another buffer, for all columns; many: whether more rows than usual do
    well.
    """
    fitting = max(1, budget.buffer // max(1, converted))
    few = not converted and outer * inner * MANY_ROWS + beside <= budget.buffer
    larger = budget.onednn and budget.product > budget.buffer
    choices: tuple[int, ...] = (*ROWS, MANY_ROWS) if many or few or larger else ROWS
    if larger and ROWS[-1] < (whole := budget.product // (outer * inner)) < MANY_ROWS:
        choices = (*ROWS, whole, MANY_ROWS)  # as many rows as leave the columns whole
    for most in [rows for rows in choices if rows <= fitting] or [fitting]:
        rows = piece_rows(batch, most, budget.threads)
        columns = columns_within(outer, inner, min(budget.product // rows, budget.buffer // max(1, copied)))
        yield rows, columns, -(-batch // rows) * -(-outer * inner // columns)
        if most >= batch:
            return
