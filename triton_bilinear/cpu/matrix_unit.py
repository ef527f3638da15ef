"""Plans for a CPU whose matrix unit multiplies bfloat16: the Khatri-Rao order, its products rounded to bfloat16.

The unit accumulates in float32, but torch stores what it returns in bfloat16. So a sum has to be taken whole, by one
matrix product, lest parts of it be rounded: of the orders only this one can, and a piece holds all columns of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import gcd

import torch
from torch import Tensor

from .costs import CALL, COPY, Plan, Sizes, fusible

# Multiply-adds of the float32 product that take as long as ... (all measured on a Xeon with AMX)
ONE_BY_ONE = 24.0  # one element of the products of two rows, multiplied one by one
BY_UNIT = 9.0  # the same by the unit, a product of matrices for each row
ROW = 15e3  # what is fixed for each such row
# Multiply-adds of bfloat16 that take as long as one of float32.
SPEED = 4.0

# Elements of a product that lie in a core's second cache, and of the largest; rows that keep the unit busy.
PIECE = 2**20
LARGEST_PIECE = 2**22
LARGEST_FACTOR = 2**21  # that is copied
ROWS = (64, 48)

# oneDNN, as it comes with torch 2.13: the end of a sum whose length is no multiple of this brings a NaN of one row into
# others (its issue 5717), and some products of this many rows and fewer, always of more than 2**20 elements, end the
# process with a division by zero.
SUM = 32
FEW_ROWS = 32


def serves(tensor: Tensor) -> bool:
    """Whether torch multiplies matrices of this tensor's dtype and device by a matrix unit."""
    return tensor.dtype == torch.bfloat16 and tensor.is_cpu and bool(torch.backends.mkldnn.enabled) and _is_there()


@lru_cache(maxsize=1)
def _is_there() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def contract_plans(batch: int, sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """Those with these axes (p, q, r), for out[b, p] = sum u[b, q] v[b, r] T[p, q, r]."""
    p, q, r = (sizes[axis] for axis in axes)
    unit = SUM // gcd(SUM, q)
    width = -(-r // unit) * unit
    columns = q * width
    copied = 0 if width == r and fusible(sizes, strides, *axes[1:]) else p * columns
    # What einsum holds of a step is a few times as large as the products of all rows.
    if copied > min(LARGEST_PIECE, max(PIECE, batch * columns // 8)):
        return
    for fewest in ROWS:
        pieces = -(-batch // max(fewest, PIECE // columns))
        rows = -(-batch // pieces)
        last = batch - (pieces - 1) * rows
        if all(n * columns <= PIECE or (n * columns <= LARGEST_PIECE and n > FEW_ROWS) for n in (rows, last)):
            cost = batch * p * columns / _rate(rows, p) + batch * _products(q, width) + pieces * CALL + COPY * copied
            yield Plan("rounded", axes, rows, columns, cost)


def weight_plans(batch: int, sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """At most one with these axes (alone, outer, inner), for the gradient of a weight; all of the batch is a piece."""
    alone, outer, inner = (sizes[axis] for axis in axes)
    rows = -(-batch // SUM) * SUM
    columns = PIECE // rows // inner * inner
    if alone <= FEW_ROWS or not columns or alone * rows > LARGEST_FACTOR:
        return
    pieces = -(-outer * inner // columns)
    cost = batch * alone * outer * inner / _rate(alone, columns) + batch * _products(outer, inner) + pieces * CALL
    if not fusible(sizes, strides, *axes[1:]):
        cost += COPY * alone * outer * inner
    yield Plan("rounded", axes, rows, columns, cost)


def _rate(rows: int, columns: int) -> float:
    """Multiply-adds for one of the float32 product, of a product (rows, ...) x (..., columns)."""
    return SPEED * rows / (rows + 32.0) * columns / (columns + 16.0)


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
