"""Plans for a CPU's matrix unit (see `matrix_unit`): the Khatri-Rao order, project-then-dot and the joint order.

A piece holds whole sums: all products of its rows, or for a weight's gradient some products of all rows; the whole
projections of some outputs; or all of g times the weight, or of tiles of that, whose parts of a sum are added up in
float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

from . import bags
from . import matrix_unit as unit
from .costs import Plan, Sizes, Weight
from .pieces import piece_lengths

# Elements of a copied weight that take as long as what is fixed for each run of them, where they are few.
SHORT_RUN = 32.0

# Dot products of fewer outputs take the unit longer than float32.
FEWEST_OUTPUTS = 4


def contract_plans(axes_of_batch: tuple[int, ...], weight: Weight, axes: Sizes, held: int) -> Iterator[Plan]:
    """Those with these axes (p, q, r), for out[b, p] = sum u[b, q] v[b, r] T[p, q, r]. held: see `Budget`."""
    kind = unit.kind()
    p, q, r = (weight.sizes[axis] for axis in axes)
    width, batch = unit.padded(q, r), prod(axes_of_batch)
    columns = q * width
    room = unit.room(held, columns)
    factors = q * bags.OF_PRODUCT + width
    in_place = width == r and weight.is_matrix(axes)
    for outputs in [p] if in_place else _parts(p, columns, room):
        copied = 0 if in_place else outputs * columns
        most = (room - copied) // (columns + p + factors)
        for rows in _rows(batch, columns, most, again=copied > 0 and outputs < p):
            if not all(unit.can_be_a_piece(length, columns) for length in piece_lengths(axes_of_batch, rows)):
                continue
            pieces, parts = -(-batch // rows), -(-p // outputs)
            cost = batch * p * columns / _rate(rows, outputs, few=16) + batch * _products(q, width)
            cost += pieces * parts * kind.call + pieces * _read(weight)
            if copied:
                cost += p * columns * (pieces if parts > 1 else 1) * _copied(weight, axes)
            yield Plan("rounded", axes, rows, columns, cost, outputs)


def _parts(outputs: int, columns: int, room: int) -> Iterator[int]:
    """Of how many outputs a weight may be copied at a time, an even number: what half or a quarter of room holds."""
    for share in (2, 4):
        if (most := room // share // columns // 2 * 2) > 0:
            yield unit.even(-(-outputs // -(-outputs // most)))


def _rows(batch: int, columns: int, most: int, again: bool) -> set[int]:
    """Even numbers of rows of a piece, at most so many: as many as caches hold.

    Or as there is room for, where the weight is copied again for each piece.
    """
    most = min(most, unit.LARGEST_PIECE // columns) // 2 * 2
    cached = min(most, max(unit.kind().fewest_rows, unit.kind().piece // columns // 2 * 2))
    return {unit.even(-(-batch // -(-batch // rows))) for rows in (cached, most if again else cached) if rows > 0}


def project_plans(batch: int, weight: Weight, axes: Sizes, held: int) -> Iterator[Plan]:
    """At most one with these axes (p, q, r), for out[b, p] = sum_r v[b, r] sum_q u[b, q] T[p, q, r]."""
    kind = unit.kind()
    p, plain_q, plain_r = (weight.sizes[axis] for axis in axes)
    q, r = unit.padded(1, plain_q), unit.padded(1, plain_r)
    room, beside = unit.room(held, q), q + r + 2 * p
    # Where p is dense a part of it is the inner axis of a copy: the longer the better.
    inner = weight.strides[axes[0]] == 1
    beside += r * bags.OF_TERM * inner
    rows = min(batch, kind.rows, room // (4 * beside))
    if p < FEWEST_OUTPUTS or not unit.can_be_a_sum(max(q, r)) or rows <= 0:
        return
    in_place = (q, r) == (plain_q, plain_r) and weight.is_matrix((axes[1], axes[0], axes[2]))
    outputs = min(p, (room - rows * beside) // (r * (rows + (0 if in_place else q))))
    if not inner:
        outputs = min(outputs, kind.piece // 2 // (rows * r))
    if outputs <= 0:
        return
    columns = outputs * r
    pieces, parts = -(-batch // rows), -(-p * r // columns)
    cost = batch * p * r * (q + kind.short_sum) / _rate(rows, outputs * r, few=16)
    dots = _sums(r, p, parts) if inner else p * r * kind.dot + parts * kind.row
    cost += batch * dots + pieces * -(-p // outputs) * kind.call
    cost += pieces * _read(weight)
    if not in_place:
        cost += p * q * r * pieces * _copied(weight, axes) * (1 + SHORT_RUN * r / columns * inner)
    yield Plan("rounded_project", axes, rows, columns, cost, outputs)


def joint_plans(batch: int, weight: Weight, held: int) -> Iterator[Plan]:
    """Those for both gradients of the inputs from g times the weight (p, q, r)."""
    kind = unit.kind()
    p, q, r = weight.sizes
    length, outer, inner = (unit.padded(1, size) for size in weight.sizes)
    columns, room = outer * inner, unit.room(held, length)
    if not unit.can_be_a_sum(max(length, outer, inner)):
        return
    in_place = (length, inner) == (p, r) and weight.is_matrix((0, 1, 2))
    for features in [q] if in_place else _parts(q, length * inner, room):
        copied = 0 if in_place else features * length * inner
        most = (room - copied) // (columns + length + 2 * (outer + inner) + outer * bags.OF_TERM)
        for rows in _rows(batch, columns, most, again=copied > 0):
            pieces, parts = -(-batch // rows), -(-q // features)
            cost = batch * columns * (length + kind.short_sum) / _rate(rows, features * inner, few=16)
            cost += batch * (columns * kind.dot_of_all + kind.row + _sums(outer, inner))
            cost += pieces * (parts + 2) * kind.call
            cost += pieces * _read(weight)
            if copied:
                cost += length * q * inner * pieces * _copied(weight, (0, 1, 2))
            yield Plan("rounded_joint", (0, 1, 2), rows, columns, cost, features)


def joint_tile_plans(batch: int, weight: Weight, held: int) -> Iterator[Plan]:
    """Those of more rows, by tiles of some features q and all r; the sums over q are in float32, as they are parts."""
    kind = unit.kind()
    p, q, r = weight.sizes
    length, inner = unit.padded(1, p), unit.padded(1, r)
    if not unit.can_be_a_sum(max(length, inner)):
        return
    for most in {min(batch, kind.rows // parts) for parts in (1, 2, 4, 8)}:
        rows = -(-batch // -(-batch // most))
        # Of each row x, both results and a tile are held, and some of these in float32 too, of twice the size.
        room = unit.room(held, length) - rows * (length + 4 * inner + 4 * q)
        features = min(q, unit.LARGEST_PIECE // (rows * inner), room // (inner * (3 * rows + length)))
        if features <= 0:
            continue
        pieces, parts = -(-batch // rows), -(-q // features)
        cost = batch * q * inner * (length + kind.short_sum) / _rate(rows, features * inner, few=16)
        cost += batch * (q * inner * (kind.dot + kind.dot_of_copy) + 2 * parts * kind.row)
        cost += pieces * (3 * parts * kind.call + length * q * inner * _copied(weight, (0, 1, 2)) + _read(weight))
        yield Plan("rounded_joint_tiles", (0, 1, 2), rows, features * inner, cost, features)


def weight_plans(batch: int, weight: Weight, axes: Sizes, held: int, as_they_lie: bool) -> Iterator[Plan]:
    """At most one with these axes (alone, outer, inner), for the gradient of a weight; all of the batch is a piece.

    as_they_lie: factors are not copied, but for a dense `inner`.
    """
    kind = unit.kind()
    alone, outer, inner = (weight.sizes[axis] for axis in axes)
    rows = unit.padded(1, batch)
    # In pieces a long sum goes through a dense buffer (see `rounded`).
    dense = weight.strides[axes[2]] == 1
    in_place = dense and weight.is_matrix(axes)
    copied = alone if rows > unit.LONGEST_IN_PLACE or not in_place else 0
    room = unit.room(held, 0, transposed=as_they_lie) - rows * (inner if as_they_lie else alone + inner)
    # Of `outer`.
    column = ceil((1 + kind.scratch_of_operand) * inner + bags.OF_PRODUCT) * rows + inner * copied
    most = min(outer, kind.piece // 2 // rows // inner, room // column)
    if most <= 0 or alone <= kind.few_rows:
        return
    columns = most * inner
    pieces = -(-outer // most)
    products = batch * pieces * _products(-(-outer // pieces), inner)
    cost = batch * alone * outer * inner / _rate(alone, columns, few=32) + products + pieces * kind.call
    cost += copied * outer * inner * (kind.copy if dense else kind.transposed)
    if rows * (alone + columns) > kind.cached:  # two cores read their half of the factor, and all products
        cost += pieces * rows * (alone + 2 * columns) * kind.read
    yield Plan("rounded", axes, rows, columns, cost)


def features_first_weight_plans(
    batch: int, weight: Weight, axes: Sizes, held: int, as_they_lie: bool
) -> Iterator[Plan]:
    """The same with the rows of the batch innermost, for which outer and inner are transposed.

    None where a sum must be longer than the batch: products are not padded.
    """
    kind = unit.kind()
    if kind.sum_multiple > 1:
        return
    alone, outer, inner = (weight.sizes[axis] for axis in axes)
    dense = weight.strides[axes[0]] == 1
    made = 0 if dense and weight.is_matrix(axes) else alone
    kept = batch * (outer + inner + (0 if as_they_lie else alone))
    most = min(outer, kind.piece // 2 // (batch * inner), (unit.room(held, 0) - kept) // (inner * (batch + made)))
    if most <= 0:
        return
    columns = most * inner
    pieces = -(-outer // most)
    cost = batch * alone * outer * inner / _rate(columns, alone, few=16) + pieces * kind.call
    cost += batch * (outer * inner * kind.product_of_rows + (outer + inner) * kind.turned)
    cost += made * outer * inner * (kind.copy if dense else kind.transposed)
    if batch * (alone + columns) > kind.cached:  # a core reads the products that it made, and all of `alone`
        cost += pieces * batch * alone * kind.read
    yield Plan("rounded_features_first", axes, batch, columns, cost)


def _read(weight: Weight) -> float:
    """What it costs to read a weight that caches do not hold."""
    elements = prod(weight.sizes)
    return elements * unit.kind().read if elements > unit.kind().cached else 0.0


def _copied(weight: Weight, axes: Sizes) -> float:
    """What it costs to copy an element of a weight (p, q, r), one of whose p and r becomes the inner axis."""
    kind = unit.kind()
    return kind.copy if 1 in (weight.strides[axes[0]], weight.strides[axes[2]]) else kind.transposed


def _rate(rows: int, columns: int, few: float) -> float:
    """Multiply-adds for one of the float32 product, of (rows, ...) x (..., columns); `few` columns leave half of it."""
    return unit.kind().speed * rows / (rows + 32.0) * columns / (columns + few)


def _products(outer: int, inner: int) -> float:
    """What the products of two rows of features cost."""
    return outer * (inner * unit.kind().product + unit.kind().product_row)


def _sums(terms: int, columns: int, parts: int = 1) -> float:
    """What so many weighted rows cost that are added up, in so many parts of their columns."""
    return terms * (columns * unit.kind().sum + parts * unit.kind().sum_row)
