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
from .costs import (
    CALL,
    COPY,
    TURN,
    TURNED,
    Plan,
    Sizes,
    Weight,
    dot_cost,
    product_cost,
    rate,
    rate_by_transpose,
    rate_of_all,
    rate_of_shares,
)
from .shares import even_rows


def _cheapest(plans: Iterable[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.cost)


def _khatri_rao(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    """Of the weight as it lies, and of copies as matrices (q r, p) in row-major order."""
    p, q, r = (weight.sizes[axis] for axis in axes)
    dense, in_place = weight.strides[axes[0]] == 1, weight.lies_as(axes)
    for copies in (False, True) if in_place and not dense else (not in_place,):
        copied = p if copies else 0
        for rows, columns, pieces in shapes(batch, q, r, budget, copied, weight.converted, beside=copied * q * r):
            if copies or dense:
                reached = rate_of_shares(rows, columns, p, budget.threads)
            else:
                reached = rate_by_transpose(rows, columns, p)
            cost = batch * p * q * r / reached + batch * q * r * product_cost(r) + pieces * CALL
            if copies:
                cost += _copies(batch, rows, columns, q * r) * p * q * r * (COPY if dense else TURN)
            yield Plan("khatri_rao", axes, rows, columns, cost, copies=copies)


def _features_first(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    p, q, r = (weight.sizes[axis] for axis in axes)
    dense, in_place = weight.strides[axes[2]] == 1, weight.lies_as(axes)
    if in_place and not dense:
        return
    for rows, *_ in shapes(batch, q, r, budget, converted=max(weight.sizes), many=True):
        count, share = padded_share(rows, budget.threads)
        if count * share * max(weight.sizes) > budget.buffer:
            continue
        columns = columns_within(q, r, budget.buffer // max(count * share, 0 if in_place else p))
        pieces, padded = -(-batch // rows) * -(-q * r // columns), batch * count * share / rows
        reached = (rate if count == budget.threads else rate_of_all)(p, columns, share)
        cost = padded * p * q * r / reached + padded * q * r * product_cost(share)
        cost += batch * (p + q + r) * TURNED + pieces * CALL
        if not in_place:
            cost += _copies(batch, rows, columns, q * r) * p * q * r * (COPY if dense else TURN)
        yield Plan("features_first", axes, rows, columns, cost)


def _project(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    p, q, r = (weight.sizes[axis] for axis in axes)
    in_place = weight.lies_as((axes[1], axes[0], axes[2]))
    for rows, columns, pieces in shapes(batch, p, r, budget, 0 if in_place else q, weight.converted):
        reached = rate_of_shares(rows, q, columns, budget.threads)
        cost = batch * p * q * r / reached + batch * p * r * dot_cost(r) + pieces * 2 * CALL
        if not in_place:
            cost += _copies(batch, rows, columns, p * r) * COPY * p * q * r
        yield Plan("project", axes, rows, columns, cost)


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
    p, q, r = weight.sizes
    in_place = weight.lies_as((0, 1, 2))
    plans = []
    for rows, columns, pieces in shapes(batch, q, r, budget, 0 if in_place else p, weight.converted):
        reached = rate_of_shares(rows, p, columns, budget.threads)
        cost = batch * p * q * r / reached + 2 * batch * q * r * dot_cost(r) + pieces * 3 * CALL
        if not in_place:
            cost += _copies(batch, rows, columns, q * r) * COPY * p * q * r
        plans.append(Plan("joint", (0, 1, 2), rows, columns, cost))
    if weight.unit:
        plans += unit_plans.joint_plans(batch, weight, budget.held)
    return _cheapest(plans)


@lru_cache(maxsize=4096)
def plan_weight(batch: int, weight: Weight, budget: Budget) -> Plan:
    """The axes (alone, outer, inner) of a gradient [l, m, n]: outer times inner meets alone in a product."""
    plans: list[Plan] = []
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for order in (_together, _apart, _features_first_weight):
            plans += order(batch, weight, axes, budget)
        if weight.unit:
            plans += unit_plans.weight_plans(batch, weight, axes, budget.held)
    return _cheapest(plans)


def _together(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    """The sum over rows by all threads."""
    a, o, i = (weight.sizes[axis] for axis in axes)
    in_place = weight.lies_as(axes)
    for rows, columns, pieces in shapes(batch, o, i, budget, 0 if in_place else a, weight.converted):
        reached = rate_of_all(a, rows, columns)
        cost = batch * a * o * i / reached + batch * o * i * product_cost(i) + pieces * CALL
        yield Plan("weight", axes, rows, columns, cost + (0 if in_place else _stored(weight, axes[2])))


def _apart(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    """The sum over each thread's rows apart."""
    a, o, i = (weight.sizes[axis] for axis in axes)
    kept = a * budget.threads
    for rows, columns, pieces in shapes(batch, o, i, budget, kept, weight.converted, beside=kept * o * i):
        if not even_rows(rows, budget.threads):
            continue
        # Sums as short as a share's are read and written so often as if they were shorter still.
        reached = rate(a, rows / budget.threads / 1.6, columns)
        cost = batch * a * o * i / reached + batch * o * i * product_cost(i) + pieces * CALL
        cost += budget.threads * COPY * a * o * i + _stored(weight, axes[2])
        yield Plan("weight", axes, rows, columns, cost, apart=True)


def _features_first_weight(batch: int, weight: Weight, axes: Sizes, budget: Budget) -> Iterator[Plan]:
    a, o, i = (weight.sizes[axis] for axis in axes)
    in_place = weight.lies_as(axes) and weight.strides[axes[0]] == 1
    budget = budget._replace(product=budget.buffer)
    for rows, columns, pieces in shapes(batch, o, i, budget, 0 if in_place else a, max(weight.sizes), many=True):
        reached = rate_of_shares(columns, rows, a, budget.threads)
        cost = batch * a * o * i / reached + batch * o * i * product_cost(rows) + pieces * CALL
        kept = batch * (o + i) <= budget.buffer
        turned = o + i if kept else -(-o * i // columns) * (max(1, columns // i) + min(columns, i))
        cost += batch * turned * TURNED
        yield Plan("features_first", axes, rows, columns, cost + (0 if in_place else _stored(weight, axes[0])))


def _stored(weight: Weight, inner: int) -> float:
    """What it costs to copy a result to where it lies, from a buffer in which this axis is the inner one."""
    return prod(weight.sizes) * (COPY if weight.strides[inner] == 1 else TURN)
