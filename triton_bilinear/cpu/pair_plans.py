"""Plans for all pairs in bfloat16 on a CPU's matrix unit (see `matrix_unit`): pieces that hold whole sums.

Names of sizes and z as in `pairs`. There is no plan where the unit does not pay, or a sum would not be whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .columns import FeaturesOuter, Layout, OutputsOuter, outputs_dense
from .matrix_unit import (
    ENOUGH_OUTPUTS,
    FEW_ELEMENTS,
    FEW_ROWS,
    LARGEST_FACTOR,
    LARGEST_PIECE,
    PIECE,
    ROWS,
    SMALL_COPY,
    SPEED,
    can_be_a_piece,
    padded,
    serves,
)
from .workspace import fusible

# Rows of a piece; more are no faster.
MOST_ROWS = 512

# Multiply-adds of float32 that must be saved to make up for copies and calls.
SAVED = 4e6

# Of a sum of which the unit takes any number.
LONGEST = FEW_ELEMENTS // FEW_ROWS


@dataclass(frozen=True)
class PairPlan:
    """The layout of z and its columns; rows and samples of a piece, and its outer columns; the lengths of sums.

    at_once: how many columns of the gradient of x are made at a time.
    """

    layout: type[Layout]
    outer: int
    inner: int
    rows: int
    together: int
    columns: int
    m: int
    t: int
    n: int
    at_once: int = 0


def plan_pairwise(x: Tensor, y: Tensor, weight: Tensor) -> PairPlan | None:
    """All pairs of rows of x (B, S, M) and y (B, T, N), weight (L, M, N)."""
    (batch, s, _), t = x.shape, y.shape[1]
    m, n = padded(1, weight.shape[1]), padded(1, weight.shape[2])
    if not _pays(weight, batch, s, t, s * n * (m + t)) or max(m, n) > LONGEST:
        return None
    layout, outputs = _layout_of(weight), weight.shape[0]
    outer, inner = layout.axes(outputs, n)
    # Outer columns that are summed over are all of one piece.
    row = max(n, t) * (outputs if layout is FeaturesOuter else 1)
    rows = min(MOST_ROWS, batch * s, LARGEST_PIECE // row)
    if rows < min(ROWS[-1], batch * s):
        return None
    columns = outer if layout is FeaturesOuter else max(1, PIECE // (rows * row))
    return PairPlan(layout, outer, inner, rows, _together(t, n), columns, m, t, n)


def plan_grad_x(g: Tensor, y: Tensor, weight: Tensor) -> PairPlan | None:
    """The gradient of x from g (B, L, S, T), y (B, T, N) and weight (L, M, N)."""
    batch, outputs, s, plain_t = g.shape
    m, plain_n = weight.shape[1:]
    t, n = padded(1, plain_t), padded(outputs, plain_n)
    if not _pays(weight, batch, s, plain_t, s * n * (m + t)) or t > LONGEST:
        return None
    layout = _layout_of(weight)
    outer, inner = layout.axes(outputs, n)
    rows = min(MOST_ROWS, batch * s, LARGEST_PIECE // (outputs * max(n, t)))
    together = _together(t, n)
    fewest = _fewest(batch, min(together, rows // s)) * _fewest(s, rows) if rows else 0
    if rows < min(ROWS[-1], batch * s) or not can_be_a_piece(fewest, outputs * n):
        return None
    in_place = n == plain_n and fusible(layout.slabs(weight).transpose(0, 1), 1)
    room = max(SMALL_COPY, min(LARGEST_PIECE, ENOUGH_OUTPUTS * outputs * n))
    at_once = m if in_place else max(1, room // (outputs * n))
    return PairPlan(layout, outer, inner, rows, together, outer, m, t, n, at_once)


def plan_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> PairPlan | None:
    """The gradient of the weight, out (L, M, N), from g (B, L, S, T), x (B, S, M) and y (B, T, N)."""
    (batch, s, m), plain_t = x.shape, y.shape[1]
    outputs, _, n = out.shape
    rows, t = padded(1, batch * s), padded(1, plain_t)
    if not _pays(out, batch, s, plain_t, s * n * (m + t)) or t > LONGEST or m <= FEW_ROWS:
        return None
    layout = _layout_of(out)
    outer, inner = layout.axes(outputs, n)
    columns = PIECE // (rows * max(inner, t))
    if not columns or max(m * rows, batch * t * n) > LARGEST_FACTOR:
        return None
    return PairPlan(layout, outer, inner, rows, batch, columns, m, t, n)


def _layout_of(weight: Tensor) -> type[Layout]:
    return FeaturesOuter if outputs_dense(weight) else OutputsOuter


def _together(t: int, n: int) -> int:
    """Samples whose y may be copied at a time."""
    return max(1, PIECE // (t * n))


def _fewest(size: int, most: int) -> int:
    """The length of the shortest span of the size, where none is longer than `most`."""
    return size // -(-size // max(1, most))


def _pays(weight: Tensor, batch: int, s: int, t: int, work: int) -> bool:
    """Whether there is a unit, and its multiply-adds for a sample and output, of padded sums, take less time."""
    outputs, m, n = weight.shape
    plain = min(s * n * (m + t), t * m * (n + s))
    return serves(weight) and batch * outputs * (plain - work / SPEED) > SAVED
