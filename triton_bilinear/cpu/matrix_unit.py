"""Plans for a CPU whose matrix unit multiplies bfloat16: the Khatri-Rao order, its products rounded to bfloat16.

The unit accumulates in float32, but torch stores what it returns in bfloat16. So a sum has to be taken whole, by one
matrix product, lest parts of it be rounded: of the orders only this one can, and a piece holds all columns of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import gcd

import torch
from torch import Tensor

from .costs import CALL, COPY, Plan, Sizes, one_axis

# Multiply-adds of the float32 product that take as long as ... (all measured on a Xeon with AMX)
ONE_BY_ONE = 30.0  # one element of the products of two rows, multiplied one by one
BY_UNIT = 12.0  # the same by the unit, a product of matrices for each row
ROW = 20e3  # what is fixed for each such row
# Multiply-adds of bfloat16 that take as long as one of float32.
SPEED = 3.0

# Elements of a product that two cores keep in their caches, and of the largest; of a weight that may always be copied,
# and of the largest factor that is; rows that keep the unit busy.
PIECE = 2**21
LARGEST_PIECE = 2**22
SMALL_COPY = 2**20
LARGEST_FACTOR = 2**21
ROWS = (64, 48)

# oneDNN, as it comes with torch 2.13: the end of a sum whose length is no multiple of this brings a NaN of one row into
# others (its issue 5717), and some products of this many rows and fewer, always of more elements than that, end the
# process with a division by zero.
SUM = 32
FEW_ROWS = 32
FEW_ELEMENTS = 2**20


def serves(tensor: Tensor) -> bool:
    """Whether torch multiplies matrices of this tensor's dtype and device by a matrix unit."""
    return tensor.dtype == torch.bfloat16 and tensor.is_cpu and bool(torch.backends.mkldnn.enabled) and _is_there()


@cache
def _is_there() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def contract_plans(batch: int, sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """Those with these axes (p, q, r), for out[b, p] = sum u[b, q] v[b, r] T[p, q, r]."""
    p, q, r = (sizes[axis] for axis in axes)
    unit = SUM // gcd(SUM, q)
    width = -(-r // unit) * unit
    columns = q * width
    copied = 0 if width == r and one_axis(sizes, strides, *axes[1:]) else p * columns
    # What einsum holds of a step is a few times as large as the products of all rows.
    if copied > max(SMALL_COPY, min(LARGEST_PIECE, batch * columns // 8)):
        return
    for fewest in ROWS:
        pieces = -(-batch // max(fewest, PIECE // columns))
        rows = -(-batch // pieces)
        last = batch - (pieces - 1) * rows
        if _can_be_a_piece(rows, columns) and _can_be_a_piece(last, columns):
            products = batch * p * columns / _rate(rows, p, few=16) + batch * _products(q, width)
            yield Plan("rounded", axes, rows, columns, products + pieces * CALL + COPY * copied)


def weight_plans(batch: int, sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """At most one with these axes (alone, outer, inner), for the gradient of a weight; all of the batch is a piece."""
    alone, outer, inner = (sizes[axis] for axis in axes)
    rows = -(-batch // SUM) * SUM
    columns = PIECE // rows // inner * inner
    if alone <= FEW_ROWS or not columns or alone * rows > LARGEST_FACTOR:
        return
    pieces = -(-outer * inner // columns)
    copied = 0 if one_axis(sizes, strides, *axes[1:]) else alone * outer * inner
    products = batch * alone * outer * inner / _rate(alone, columns, few=128) + batch * _products(outer, inner)
    yield Plan("rounded", axes, rows, columns, products + pieces * CALL + COPY * copied)


def _can_be_a_piece(rows: int, columns: int) -> bool:
    return rows * columns <= (LARGEST_PIECE if rows > FEW_ROWS else FEW_ELEMENTS)


def _rate(rows: int, columns: int, few: float) -> float:
    """Multiply-adds for one of the float32 product, of (rows, ...) x (..., columns); `few` columns leave half of it."""
    return SPEED * rows / (rows + 32.0) * columns / (columns + few)


def multiplies_rows(outer: int, inner: int) -> bool:
    """Whether the unit makes all products of two rows of so many features faster than they are made one by one."""
    return _by_unit(outer, inner) < _one_by_one(outer, inner)


def _products(outer: int, inner: int) -> float:
    """What the products of two rows of features cost."""
    return min(_by_unit(outer, inner), _one_by_one(outer, inner))


def _by_unit(outer: int, inner: int) -> float:
    return outer * inner * BY_UNIT + ROW


def _one_by_one(outer: int, inner: int) -> float:
    return outer * inner * ONE_BY_ONE * (1 + 16 / inner)
