"""Which order of products, and in pieces of which size: a cost model over plain sizes.

Costs are counted in multiply-adds of the matrix product. One contraction of the family is B*L*M*N of them whatever
the order, so the orders differ in what comes beside: how well the matrix product does on the shapes it is given, how
many elements are multiplied or summed one by one, whether the weight must be copied, and how many calls are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod

import torch

from . import unit_plans
from .costs import CALL, COPY, DOT, PRODUCT, Plan, Sizes, Weight, is_matrix

# Elements of the largest buffer: the caches of a CPU, or enough work for one launch on another device.
CPU_PIECE = 512 * 1024
DEVICE_PIECE = 16 * 1024 * 1024

# Larger pieces make fewer calls of a CPU's matrix product, which do a little better. A buffer may be so many times as
# large where it still is no larger than the weight, nor than this part of what a contraction makes that is not cut.
LARGER = 4
PART = 10


def piece_elements(device: torch.device, rows: int = 0, weight: Sizes = (0, 0, 0)) -> int:
    """Elements of the largest buffer on a device, for a contraction of so many rows with a weight of these sizes."""
    if device.type != "cpu":
        return DEVICE_PIECE
    p, q, r = weight
    allowed = min(p * q * r, rows * min(p * q, p * r, q * r) // PART)
    return min(max(CPU_PIECE, allowed), LARGER * CPU_PIECE)


# Of a piece; more rows or fewer make the matrix product slower.
ROWS = (128, 256, 512)

# Where all columns are so few that a plain piece holds them with more rows, these make fewer calls.
MANY_ROWS = 1024


def rate(rows: int, inner: int, columns: int) -> float:
    """The share of its peak that the matrix product (rows, inner) x (inner, columns) reaches."""
    return rows / (rows + 14.0) * inner / (inner + 4.0) * columns / (columns + 4.0)


def _shapes(
    batch: int, outer: int, inner: int, budget: int, copied: int = 0, results: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Rows and columns of pieces of at most `budget` elements, whole inner rows where one fits; and their number.

    copied: the length of a column of the weight, where it must be copied for the product; results: the columns of the
    result, where it is computed in a buffer. The buffers of these are no larger either.
    """
    fitting = max(1, budget // max(1, results))
    choices = (*ROWS, MANY_ROWS) if outer * inner * MANY_ROWS <= CPU_PIECE else ROWS
    for most in [rows for rows in choices if rows <= fitting] or [fitting]:
        count = -(-batch // most)
        rows = -(-batch // count)
        columns = min(outer * inner, max(1, budget // max(rows, copied)))
        if columns > inner:
            columns = -(-outer // -(-outer // (columns // inner))) * inner
        yield rows, columns, count * -(-outer * inner // columns)
        if most >= batch:
            return


def _cheapest(plans: Iterable[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.cost)


def _khatri_rao(batch: int, sizes: Sizes, axes: Sizes, in_place: bool, as_stored: bool, budget: int) -> Iterator[Plan]:
    p, q, r = (sizes[axis] for axis in axes)
    for rows, columns, pieces in _shapes(batch, q, r, budget, 0 if in_place else p, 0 if as_stored else p):
        cost = batch * p * q * r / rate(rows, columns, p) + batch * q * r * PRODUCT * (1 + 16 / r) + pieces * CALL
        if not in_place:
            cost += (1 if columns == q * r else -(-batch // rows)) * COPY * p * q * r
        yield Plan("khatri_rao", axes, rows, columns, cost)


def _project(batch: int, sizes: Sizes, axes: Sizes, in_place: bool, as_stored: bool, budget: int) -> Iterator[Plan]:
    p, q, r = (sizes[axis] for axis in axes)
    for rows, columns, pieces in _shapes(batch, p, r, budget, 0 if in_place else q, 0 if as_stored else p):
        cost = batch * p * q * r / rate(rows, q, columns) + batch * p * r * DOT * (1 + 8 / r) + pieces * 2 * CALL
        if not in_place:
            cost += (1 if columns == p * r else -(-batch // rows)) * COPY * p * q * r
        yield Plan("project", axes, rows, columns, cost)


@lru_cache(maxsize=4096)
def plan_contract(axes_of_batch: tuple[int, ...], weight: Weight, budget: int) -> Plan:
    """The cheapest order for out[b, p] = sum u[b, q] v[b, r] weight[p, q, r]."""
    sizes, strides, as_stored, unit = weight
    batch = prod(axes_of_batch)
    plans: list[Plan] = []
    for axes in ((0, 1, 2), (0, 2, 1)):
        p, q, r = axes
        plans += _khatri_rao(batch, sizes, axes, as_stored and is_matrix(sizes, strides, (p, q, r)), as_stored, budget)
        plans += _project(batch, sizes, axes, as_stored and is_matrix(sizes, strides, (q, p, r)), as_stored, budget)
        if unit:
            plans += unit_plans.contract_plans(axes_of_batch, sizes, strides, axes)
            plans += unit_plans.project_plans(batch, sizes, strides, axes)
    return _cheapest(plans)


@lru_cache(maxsize=4096)
def plan_joint(batch: int, weight: Weight, budget: int) -> Plan:
    """Both gradients of the inputs from one product, g times weight; its cost is to be compared with that of two."""
    sizes, strides, as_stored, _ = weight
    p, q, r = sizes
    in_place = as_stored and is_matrix(sizes, strides, (0, 1, 2))
    plans = []
    for rows, columns, pieces in _shapes(batch, q, r, budget, 0 if in_place else p, 0 if as_stored else max(q, r)):
        cost = batch * p * q * r / rate(rows, p, columns) + 2 * batch * q * r * DOT * (1 + 8 / r) + pieces * 3 * CALL
        if not in_place:
            cost += (1 if columns == q * r else -(-batch // rows)) * COPY * p * q * r
        plans.append(Plan("joint", (0, 1, 2), rows, columns, cost))
    return _cheapest(plans)


@lru_cache(maxsize=4096)
def plan_weight(batch: int, weight: Weight, budget: int) -> Plan:
    """The axes (alone, outer, inner) of a gradient [l, m, n]: outer times inner meets alone in a product."""
    sizes, strides, as_stored, unit = weight
    plans = []
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        a, o, i = (sizes[axis] for axis in axes)
        in_place = as_stored and is_matrix(sizes, strides, axes)
        for rows, columns, pieces in _shapes(batch, o, i, budget, 0 if in_place else a):
            cost = batch * a * o * i / rate(a, rows, columns) + batch * o * i * PRODUCT * (1 + 16 / i) + pieces * CALL
            if not in_place:
                cost += COPY * a * o * i
            plans.append(Plan("weight", axes, rows, columns, cost))
        if unit:
            plans += unit_plans.weight_plans(batch, sizes, strides, axes)
    return _cheapest(plans)
