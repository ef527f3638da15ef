"""Which order of products, and in pieces of which size: a cost model over plain sizes.

Costs are counted in multiply-adds of the matrix product. One contraction of the family is B*L*M*N of them whatever
the order, so the orders differ in three things: how well the matrix product does on the shapes it is given, how many
elements are multiplied or summed one by one beside it, and whether the weight must be copied to be fused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

# Multiply-adds of the matrix product that take as long as ...
PRODUCT = 5.0  # one element of a Khatri-Rao product
DOT = 8.0  # one multiply-add of a batched vector-matrix product
COPY = 15.0  # one element of a copied weight

# Elements of the largest buffer: the caches of a CPU, or enough work for one launch on another device.
CPU_PIECE = 512 * 1024
DEVICE_PIECE = 16 * 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """An order, with the rows of the batch and the fused columns of one piece.

    `swap` says that the second and third axes (q and r) change their roles.
    """

    order: str
    swap: bool
    rows: int
    columns: int
    cost: float


def rate(rows: int, inner: int, columns: int) -> float:
    """The share of its peak that the matrix product (rows, inner) x (inner, columns) reaches."""
    return rows / (rows + 14.0) * inner / (inner + 12.0) * columns / (columns + 16.0)


def piece_shape(batch: int, columns: int, unit: int, budget: int) -> tuple[int, int]:
    """Rows and columns of a piece of at most `budget` elements, near square; columns are multiples of `unit`."""
    rows = min(batch, 512)
    width = min(columns, max(1, budget // max(1, rows)))
    if width > unit:
        width -= width % unit
    rows = min(batch, max(1, budget // max(1, width)))
    return max(1, rows), max(1, width)


def _khatri_rao(batch: int, p: int, q: int, r: int, fused: bool, budget: int) -> Callable[[bool], Plan]:
    def plan(swap: bool) -> Plan:
        rows, columns = piece_shape(batch, q * r, r, budget)
        cost = batch * p * q * r / rate(rows, columns, p) + batch * q * r * PRODUCT * (1 + 16 / r)
        if not fused:
            cost += -(-batch // rows) * COPY * p * q * r
        return Plan("khatri_rao", swap, rows, columns, cost)

    return plan


def _project(batch: int, p: int, q: int, r: int, fused: bool, budget: int) -> Callable[[bool], Plan]:
    def plan(swap: bool) -> Plan:
        rows, columns = piece_shape(batch, p * r, r, budget)
        cost = batch * p * q * r / rate(rows, q, columns) + batch * p * r * DOT * (1 + 8 / r)
        if not fused:
            cost += -(-batch // rows) * COPY * p * q * r
        return Plan("project", swap, rows, columns, cost)

    return plan


@lru_cache(maxsize=4096)
def plan_contract(batch: int, p: int, q: int, r: int, axes: str, budget: int) -> Plan:
    """The cheapest order for out[b, p] = sum u[b, q] v[b, r] T[p, q, r].

    `axes` holds those pairs of axes of T that its strides let fuse in place, e.g. "qr pr".
    """
    plans = (
        _khatri_rao(batch, p, q, r, "qr" in axes, budget)(False),
        _khatri_rao(batch, p, r, q, "rq" in axes, budget)(True),
        _project(batch, p, q, r, "pr" in axes, budget)(False),
        _project(batch, p, r, q, "pq" in axes, budget)(True),
    )
    return min(plans, key=lambda plan: plan.cost)


@lru_cache(maxsize=4096)
def plan_joint(batch: int, p: int, q: int, r: int, fused: bool, budget: int) -> Plan:
    """Both gradients of the inputs from one product of g (p) with T: cost to compare with two contractions."""
    rows, columns = piece_shape(batch, q * r, r, budget)
    cost = batch * p * q * r / rate(rows, p, columns) + 2 * batch * q * r * DOT * (1 + 8 / r)
    if not fused:
        cost += -(-batch // rows) * COPY * p * q * r
    return Plan("joint", False, rows, columns, cost)


@lru_cache(maxsize=4096)
def plan_weight(batch: int, sizes: tuple[int, int, int], fused: str, budget: int) -> tuple[tuple[int, int, int], Plan]:
    """The axes (alone, outer, inner) of out[l, m, n]: outer times inner meets alone in a product.

    `fused` holds the pairs (as digits) that the strides of out let be one axis.
    """
    choices = []
    for alone, outer, inner in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        a, o, i = sizes[alone], sizes[outer], sizes[inner]
        rows, columns = piece_shape(batch, o * i, i, budget)
        cost = batch * a * o * i / rate(a, rows, columns) + batch * o * i * PRODUCT * (1 + 16 / i)
        if f"{outer}{inner}" not in fused:
            cost += COPY * a * o * i
        choices.append(((alone, outer, inner), Plan("weight", False, rows, columns, cost)))
    return min(choices, key=lambda choice: choice[1].cost)
