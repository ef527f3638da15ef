"""Which order of products, and in pieces of which size: a cost model over plain sizes.

Costs are counted in multiply-adds of the matrix product. One contraction of the family is B*L*M*N of them whatever
the order, so the orders differ in what comes beside: how well the matrix product does on the shapes it is given, how
many elements are multiplied or summed one by one, whether the weight must be copied, and how many calls are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod

from . import unit_plans
from .budget import Budget, columns_within, padded_share, shapes
from .costs import Plan, Sizes, Weight, rate, rate_by_onednn, rate_by_transpose, rate_of_all, rate_of_shares
from .libraries import Library
from .shares import even_rows


def _cheapest(plans: Iterable[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.cost)


def _khatri_rao(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    """Of the weight as it lies, and of copies as matrices (q r, p) in row-major order."""
    library = budget.library
    p, q, r = (weight.sizes[axis] for axis in axes)
    dense, in_place = weight.strides[axes[0]] == 1, weight.lies_as(axes)
    if budget.onednn:  # reads a transpose as fast
        forms = [False]
    else:
        forms = [False, True] if in_place and not dense else [not in_place]
    for copies in forms:
        copied = p if copies else _copied(weight, axes, budget)
        for rows, columns, pieces in shapes(
            batch, q, r, budget, copied, _longest(weight, budget), beside=copied * q * r
        ):
            if copies or dense or budget.onednn:
                reached = _rate(budget, rows, columns, p)
            else:
                reached = rate_by_transpose(rows, columns, p)
            cost = batch * p * q * r / reached + batch * q * r * library.product_cost(r) + pieces * library.call
            if copies:
                cost += _copies(batch, rows, columns, q * r) * p * q * r * library.copy_cost(dense)
            else:
                cost += _tile_copies(batch, rows, columns, weight, axes, budget)
            yield Plan("khatri_rao", axes, rows, columns, cost, copies=copies)


def _features_first(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    library = budget.library
    p, q, r = (weight.sizes[axis] for axis in axes)
    dense, in_place = weight.strides[axes[2]] == 1, weight.lies_as(axes)
    if in_place and not dense:
        return
    budget = _for_rows_innermost(budget)
    for rows, *_ in shapes(batch, q, r, budget, converted=max(weight.sizes), many=not budget.onednn):
        count, share = padded_share(rows, budget.threads)
        if count * share * max(weight.sizes) > budget.buffer:
            continue
        most = min(budget.product // (count * share), budget.buffer // max(1, _copied(weight, axes, budget)))
        columns = columns_within(q, r, most)
        pieces, padded = -(-batch // rows) * -(-q * r // columns), batch * count * share / rows
        if budget.onednn:
            reached = rate_by_onednn(columns, share)
        else:
            reached = (rate if count == budget.threads else rate_of_all)(p, columns, share)
        cost = padded * p * q * r / reached + padded * q * r * library.product_cost(share, shared=True)
        cost += batch * (p + q + r) * library.turned
        cost += pieces * library.call + -(-batch // rows) * library.turn_calls
        cost += _tile_copies(batch, rows, columns, weight, axes, budget, dense)
        yield Plan("features_first", axes, rows, columns, cost)


def _project(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    library = budget.library
    p, q, r = (weight.sizes[axis] for axis in axes)
    lying = axes[1], axes[0], axes[2]
    for rows, columns, pieces in shapes(batch, p, r, budget, _copied(weight, lying, budget), _longest(weight, budget)):
        reached = _rate(budget, rows, q, columns)
        cost = batch * p * q * r / reached + batch * p * r * library.dot_cost(r)
        cost += pieces * (library.call + library.dot_calls)
        cost += _tile_copies(batch, rows, columns, weight, lying, budget)
        yield Plan("project", axes, rows, columns, cost)


def _for_rows_innermost(budget: Budget) -> Budget:
    """There it is oneDNN's products alone that larger pieces make faster."""
    return budget if budget.onednn else budget._replace(product=budget.buffer)


def _rate(budget: Budget, rows: int, inner: int, columns: int) -> float:
    if budget.onednn:
        return 1 / (1 / rate_by_onednn(inner, columns) + budget.library.packed / rows)
    return rate_of_shares(rows, inner, columns, budget.threads)


def _longest(weight: Weight, budget: Budget) -> int:
    """The longest rows of factors and results that are copied: to be dense for oneDNN, or in another dtype."""
    return max(weight.sizes) if budget.onednn else weight.converted


def _made(in_place: bool, length: int, budget: Budget) -> int:
    """How long a column is of the tiles of a result that are made in a tensor of their own."""
    return 0 if in_place and not budget.onednn else length


def _copied(weight: Weight, axes: Sizes, budget: Budget) -> int:
    """How long a column is of the tiles of a weight that are copied; 0 where a product takes them as they lie."""
    dense = weight.has_dense_columns(axes) or not budget.onednn
    return 0 if dense and weight.lies_as(axes) else weight.sizes[axes[0]]


def _tile_copies(
    batch: int, rows: int, columns: int, weight: Weight, axes: Sizes, budget: Budget, dense: bool = True
) -> float:
    """What it costs to copy the tiles of a weight, so many columns of a matrix (axes[0], axes[1] axes[2]).

    dense: the axis that is dense in the copies is so in the weight.
    """
    whole = weight.sizes[axes[1]] * weight.sizes[axes[2]]
    if not _copied(weight, axes, budget) or (columns == whole and weight.is_dense(axes)):
        return 0.0
    return _copies(batch, rows, columns, whole) * prod(weight.sizes) * budget.library.copy_cost(dense)


def _copies(batch: int, rows: int, columns: int, whole: int) -> int:
    """How often a weight is copied of which a piece meets so many columns: once for all if these are the whole."""
    return 1 if columns == whole else -(-batch // rows)


@lru_cache(maxsize=4096)
def plan_contract(axes_of_batch: tuple[int, ...], weight: Weight, budget: Budget) -> Plan:
    """The cheapest order for out[b, p] = sum u[b, q] v[b, r] weight[p, q, r]."""
    batch = prod(axes_of_batch)
    plans: list[Plan] = []
    for axes in ((0, 1, 2), (0, 2, 1)):
        for order in (_khatri_rao, _features_first, _project):
            plans += order(batch, weight, axes, budget)
        if weight.unit:
            plans += unit_plans.contract_plans(axes_of_batch, weight, axes, budget.held)
            plans += unit_plans.project_plans(batch, weight, axes, budget.held)
    return _cheapest(plans)


@lru_cache(maxsize=4096)
def plan_joint(batch: int, weight: Weight, budget: Budget) -> Plan:
    """Both gradients of the inputs from one product, g times weight; its cost is to be compared with that of two."""
    library, (p, q, r), axes = budget.library, weight.sizes, (0, 1, 2)
    plans = []
    for rows, columns, pieces in shapes(batch, q, r, budget, _copied(weight, axes, budget), _longest(weight, budget)):
        reached = _rate(budget, rows, p, columns)
        cost = batch * p * q * r / reached + 2 * batch * q * r * library.dot_cost(r)
        cost += pieces * (library.call + 2 * library.dot_calls)
        cost += _tile_copies(batch, rows, columns, weight, axes, budget)
        plans.append(Plan("joint", axes, rows, columns, cost))
    if weight.unit:
        plans += unit_plans.joint_plans(batch, weight, budget.held)
        plans += unit_plans.joint_tile_plans(batch, weight, budget.held)
    return _cheapest(plans)


@lru_cache(maxsize=4096)
def plan_weight(batch: int, weight: Weight, budget: Budget, as_they_lie: bool = False) -> Plan:
    """The axes (alone, outer, inner) of a gradient [l, m, n]: outer times inner meets alone in a product.

    as_they_lie: a matrix unit takes the factors so.
    """
    plans: list[Plan] = []
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for order in (_together, _apart, _features_first_weight):
            plans += order(batch, weight, axes, budget)
        if weight.unit:
            plans += unit_plans.weight_plans(batch, weight, axes, budget.held, as_they_lie)
            plans += unit_plans.features_first_weight_plans(batch, weight, axes, budget.held, as_they_lie)
    return _cheapest(plans)


def _together(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    """The sum over rows by all threads."""
    library = budget.library
    a, o, i = (weight.sizes[axis] for axis in axes)
    in_place = weight.lies_as(axes)
    for rows, columns, pieces in shapes(batch, o, i, budget, _made(in_place, a, budget), _longest(weight, budget)):
        reached = rate_by_onednn(rows, columns) if budget.onednn else rate_of_all(a, rows, columns)
        cost = batch * a * o * i / reached + batch * o * i * library.product_cost(i, shared=True)
        cost += pieces * library.call
        if budget.onednn:  # of dense operands
            cost += batch * a * -(-o * i // columns) * library.turned
        cost += _added(batch, rows, weight, axes[2], library)
        yield Plan("weight", axes, rows, columns, cost + (0 if in_place else _stored(weight, axes[2], library)))


def _apart(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    """The sum over each thread's rows apart."""
    library = budget.library
    a, o, i = (weight.sizes[axis] for axis in axes)
    kept = a * budget.threads
    for rows, columns, pieces in shapes(batch, o, i, budget, kept, weight.converted, beside=kept * o * i):
        if not even_rows(rows, budget.threads):
            continue
        # Sums as short as a share's are read and written so often as if they were shorter still.
        reached = rate(a, rows / budget.threads / 1.6, columns)
        cost = batch * a * o * i / reached + batch * o * i * library.product_cost(i) + pieces * library.call
        cost += budget.threads * library.copy * a * o * i + _stored(weight, axes[2], library)
        yield Plan("weight", axes, rows, columns, cost, apart=True)


def _features_first_weight(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    library = budget.library
    a, o, i = (weight.sizes[axis] for axis in axes)
    in_place = weight.lies_as(axes) and weight.strides[axes[0]] == 1
    budget = _for_rows_innermost(budget)
    for rows, columns, pieces in shapes(
        batch, o, i, budget, _made(in_place, a, budget), max(weight.sizes), many=not budget.onednn
    ):
        reached = _rate(budget, columns, rows, a)
        cost = batch * a * o * i / reached + batch * o * i * library.product_cost(rows) + pieces * library.call
        kept = batch * (o + i) <= budget.buffer
        turned = o + i if kept else -(-o * i // columns) * (max(1, columns // i) + min(columns, i))
        cost += batch * turned * library.turned + _added(batch, rows, weight, axes[0], library)
        yield Plan("features_first", axes, rows, columns, cost + (0 if in_place else _stored(weight, axes[0], library)))


def _added(batch: int, rows: int, weight: Weight, inner: int, library: Library) -> float:
    """What it costs to add to a result, in which this axis is the inner one, the product of each piece of rows."""
    each = library.added if weight.strides[inner] == 1 else library.added_turned
    return -(-batch // rows) * prod(weight.sizes) * each


def _stored(weight: Weight, inner: int, library: Library) -> float:
    """What it costs to copy a result to where it lies, from a buffer in which this axis is the inner one."""
    return prod(weight.sizes) * library.copy_cost(weight.strides[inner] == 1)
