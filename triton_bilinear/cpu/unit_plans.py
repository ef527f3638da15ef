"""Plans for a CPU's matrix unit (see `matrix_unit`), in the Khatri-Rao order and in project-then-dot.

A piece holds whole sums: all products of its rows, or the whole projections of some outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from . import matrix_unit as unit
from .costs import COPY, Plan, Sizes, is_matrix
from .pieces import piece_lengths

# Multiply-adds of the float32 product that take as long as ... (all measured on a Xeon with AMX)
ONE_BY_ONE = 20.0  # one element of the products of two rows, multiplied one by one
LEFT_OVER = 150.0  # one of those at the end of a row that do not fill a vector
BY_UNIT = 12.0  # the same by the unit, a product of matrices for each row; or of dot products of each row
ROW = 20e3  # what is fixed for each such row
SHORT_SUM = 32.0  # what is fixed for each sum, of bfloat16
TRANSPOSED = 150.0  # one element of a copied weight whose inner axis is another
SHORT_RUN = 32.0  # what is fixed for each run of elements of a copied weight, where they are few
UNIT_CALL = 2.5e6  # what is fixed for each product of the unit
# Elements of the vectors in which torch multiplies them.
VECTOR = 32

# Rows of a piece that holds all products of them.
ROWS = (64, unit.FEWEST_ROWS)

# Dot products of fewer outputs take the unit longer than float32.
FEWEST_OUTPUTS = 4


def contract_plans(axes_of_batch: tuple[int, ...], sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """Those with these axes (p, q, r), for out[b, p] = sum u[b, q] v[b, r] T[p, q, r]."""
    p, q, r = (sizes[axis] for axis in axes)
    width = unit.padded(q, r)
    columns, batch = q * width, prod(axes_of_batch)
    if columns > unit.LARGEST_PIECE:
        return
    in_place = width == r and is_matrix(sizes, strides, axes)
    dense = 1 in (strides[axes[0]], strides[axes[2]])
    # What einsum holds of a step is a few times as large as the products of all rows.
    room = max(unit.SMALL_COPY, min(unit.LARGEST_PIECE, max(unit.ENOUGH_OUTPUTS, batch // 8) * columns))
    parts = 1 if in_place else -(-p * columns // room)
    outputs = unit.even(-(-p // parts))
    # The more rows of a piece the fewer copies.
    for fewest in ROWS if parts == 1 else (unit.LARGEST_PIECE // columns, *ROWS):
        rows = unit.even(-(-batch // -(-batch // max(fewest, unit.PIECE // columns))))
        if not all(unit.can_be_a_piece(length, columns) for length in piece_lengths(axes_of_batch, rows)):
            continue
        pieces = -(-batch // rows)
        products = batch * p * columns / _rate(rows, outputs, few=16) + batch * _products(q, width)
        copied = 0 if in_place else p * columns * (pieces if parts > 1 else 1)
        cost = products + pieces * parts * UNIT_CALL + copied * (COPY if dense else TRANSPOSED)
        yield Plan("rounded", axes, rows, columns, cost, outputs)


def project_plans(batch: int, sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """At most one with these axes (p, q, r), for out[b, p] = sum_r v[b, r] sum_q u[b, q] T[p, q, r]."""
    p, q, r = (sizes[axis] for axis in axes)
    q, r = unit.padded(1, q), unit.padded(1, r)
    rows = min(batch, unit.MOST_ROWS)
    if p < FEWEST_OUTPUTS or max(q, r) > unit.LONGEST:
        return
    # Where p is dense a part of it is the inner axis of a copy: the longer the better.
    inner = strides[axes[0]] == 1
    columns = min(p, max(1, (unit.LARGEST_PIECE if inner else unit.PIECE // 2) // (rows * r))) * r
    copied = max(1, min(columns, unit.SMALL_COPY // q) // r)
    pieces, parts = -(-batch // rows), -(-p * r // columns)
    products = batch * p * r * (q + SHORT_SUM) / _rate(rows, copied * r, few=16)
    dots = batch * (p * r * BY_UNIT + parts * ROW)
    dense = 1 in (strides[axes[0]], strides[axes[2]])
    copies = p * q * r * pieces * (COPY * (1 + SHORT_RUN * r / columns * inner) if dense else TRANSPOSED)
    cost = products + dots + copies + pieces * -(-p // copied) * UNIT_CALL
    yield Plan("rounded_project", axes, rows, columns, cost, copied)


def weight_plans(batch: int, sizes: Sizes, strides: Sizes, axes: Sizes) -> Iterator[Plan]:
    """At most one with these axes (alone, outer, inner), for the gradient of a weight; all of the batch is a piece."""
    alone, outer, inner = (sizes[axis] for axis in axes)
    rows = unit.padded(1, batch)
    columns = min(unit.PIECE // rows, unit.LARGEST_PIECE // alone) // inner * inner
    if alone <= unit.FEW_ROWS or not columns or alone * rows > unit.LARGEST_FACTOR:
        return
    pieces = -(-outer * inner // columns)
    dense = strides[axes[2]] == 1
    copied = 0 if dense and is_matrix(sizes, strides, axes) else alone * outer * inner
    products = batch * pieces * _products(-(-outer // pieces), inner)
    cost = batch * alone * outer * inner / _rate(alone, columns, few=32) + products + pieces * UNIT_CALL
    yield Plan("rounded", axes, rows, columns, cost + copied * (COPY if dense else TRANSPOSED))


def _rate(rows: int, columns: int, few: float) -> float:
    """Multiply-adds for one of the float32 product, of (rows, ...) x (..., columns); `few` columns leave half of it."""
    return unit.SPEED * rows / (rows + 32.0) * columns / (columns + few)


def multiplies_rows(outer: int, inner: int) -> bool:
    """Whether the unit makes all products of two rows of so many features faster than they are made one by one."""
    return _by_unit(outer, inner) < _one_by_one(outer, inner)


def _products(outer: int, inner: int) -> float:
    """What the products of two rows of features cost."""
    return min(_by_unit(outer, inner), _one_by_one(outer, inner))


def _by_unit(outer: int, inner: int) -> float:
    return outer * inner * BY_UNIT + ROW


def _one_by_one(outer: int, inner: int) -> float:
    left_over = inner % VECTOR
    return outer * ((inner - left_over) * ONE_BY_ONE + left_over * LEFT_OVER)
