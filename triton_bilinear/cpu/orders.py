"""Which order of products, and in pieces of which size: a cost model over plain sizes.

Costs are counted in multiply-adds of the matrix product. One contraction of the family is B*L*M*N of them whatever
the order, so the orders differ in what comes beside: how well the matrix product does on the shapes it is given, how
many elements are multiplied or summed one by one, whether the weight must be copied, and how many calls are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch

from . import unit_plans
from .costs import CALL, COPY, DOT, PRODUCT, Plan, Sizes, Weight, is_matrix

# Elements of a buffer: the caches of a CPU, or enough work for one launch on another device.
CPU_PIECE = 512 * 1024
DEVICE_PIECE = 16 * 1024 * 1024

# What lies between two products may be a few times as large in float32, where that is no more than the weight, nor than
# a small part of what a contraction makes that is not cut: longer products do a little better.
TIMES_AS_LARGE = 4
ONE_PART_OF = 10

# Rows of a piece; more or fewer make the matrix product slower.
ROWS = (128, 256, 512)

# Where all columns are so few that a buffer holds them with more rows, these make fewer calls.
MANY_ROWS = 1024


class Budget(NamedTuple):
    """Elements of each buffer of a call, and of the one that holds what lies between two products."""

    buffer: int
    product: int


def piece_elements(device: torch.device) -> int:
    """Elements of a buffer on a device."""
    return CPU_PIECE if device.type == "cpu" else DEVICE_PIECE


def budget_of(device: torch.device, dtype: torch.dtype, rows: int, sizes: Sizes) -> Budget:
    """For a contraction of so many rows with a weight of these sizes and dtype."""
    buffer = piece_elements(device)
    if device.type != "cpu" or dtype != torch.float32:
        return Budget(buffer, buffer)
    p, q, r = sizes
    allowed = min(p * q * r, rows * min(p * q, p * r, q * r) // ONE_PART_OF)
    return Budget(buffer, min(max(buffer, allowed), TIMES_AS_LARGE * buffer))


def rate(rows: int, inner: int, columns: int) -> float:
    """The share of its peak that the matrix product (rows, inner) x (inner, columns) reaches."""
    return rows / (rows + 14.0) * inner / (inner + 4.0) * columns / (columns + 4.0)


def _shapes(
    batch: int, outer: int, inner: int, budget: Budget, copied: int = 0, converted: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Rows and columns of pieces within the budget, whole inner rows where one fits; and their number.

    copied: the length of a column of the weight, where it must be copied for the product; converted: the longest rows
    of factors and results, where these are copied to be in another dtype.
    """
    fitting = max(1, budget.buffer // max(1, converted))
    choices = ROWS if converted or outer * inner * MANY_ROWS > budget.buffer else (*ROWS, MANY_ROWS)
    for most in [rows for rows in choices if rows <= fitting] or [fitting]:
        count = -(-batch // most)
        rows = -(-batch // count)
        columns = max(1, min(outer * inner, budget.product // rows, budget.buffer // max(1, copied)))
        if columns > inner:
            columns = -(-outer // -(-outer // (columns // inner))) * inner
        yield rows, columns, count * -(-outer * inner // columns)
        if most >= batch:
            return


def _cheapest(plans: Iterable[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.cost)


def _khatri_rao(
    batch: int, sizes: Sizes, axes: Sizes, in_place: bool, as_stored: bool, budget: Budget
) -> Iterator[Plan]:
    p, q, r = (sizes[axis] for axis in axes)
    for rows, columns, pieces in _shapes(batch, q, r, budget, 0 if in_place else p, 0 if as_stored else max(sizes)):
        cost = batch * p * q * r / rate(rows, columns, p) + batch * q * r * PRODUCT * (1 + 16 / r) + pieces * CALL
        if not in_place:
            cost += (1 if columns == q * r else -(-batch // rows)) * COPY * p * q * r
        yield Plan("khatri_rao", axes, rows, columns, cost)


def _project(batch: int, sizes: Sizes, axes: Sizes, in_place: bool, as_stored: bool, budget: Budget) -> Iterator[Plan]:
    p, q, r = (sizes[axis] for axis in axes)
    for rows, columns, pieces in _shapes(batch, p, r, budget, 0 if in_place else q, 0 if as_stored else max(sizes)):
        cost = batch * p * q * r / rate(rows, q, columns) + batch * p * r * DOT * (1 + 8 / r) + pieces * 2 * CALL
        if not in_place:
            cost += (1 if columns == p * r else -(-batch // rows)) * COPY * p * q * r
        yield Plan("project", axes, rows, columns, cost)


@lru_cache(maxsize=4096)
def plan_contract(axes_of_batch: tuple[int, ...], weight: Weight, budget: Budget) -> Plan:
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
def plan_joint(batch: int, weight: Weight, budget: Budget) -> Plan:
    """Both gradients of the inputs from one product, g times weight; its cost is to be compared with that of two."""
    sizes, strides, as_stored, _ = weight
    p, q, r = sizes
    in_place = as_stored and is_matrix(sizes, strides, (0, 1, 2))
    plans = []
    for rows, columns, pieces in _shapes(batch, q, r, budget, 0 if in_place else p, 0 if as_stored else max(sizes)):
        cost = batch * p * q * r / rate(rows, p, columns) + 2 * batch * q * r * DOT * (1 + 8 / r) + pieces * 3 * CALL
        if not in_place:
            cost += (1 if columns == q * r else -(-batch // rows)) * COPY * p * q * r
        plans.append(Plan("joint", (0, 1, 2), rows, columns, cost))
    return _cheapest(plans)


@lru_cache(maxsize=4096)
def plan_weight(batch: int, weight: Weight, budget: Budget) -> Plan:
    """The axes (alone, outer, inner) of a gradient [l, m, n]: outer times inner meets alone in a product."""
    sizes, strides, as_stored, unit = weight
    plans = []
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        a, o, i = (sizes[axis] for axis in axes)
        in_place = as_stored and is_matrix(sizes, strides, axes)
        for rows, columns, pieces in _shapes(batch, o, i, budget, 0 if in_place else a, 0 if as_stored else max(sizes)):
            cost = batch * a * o * i / rate(a, rows, columns) + batch * o * i * PRODUCT * (1 + 16 / i) + pieces * CALL
            if not in_place:
                cost += COPY * a * o * i
            plans.append(Plan("weight", axes, rows, columns, cost))
        if unit:
            plans += unit_plans.weight_plans(batch, sizes, strides, axes)
    return _cheapest(plans)
