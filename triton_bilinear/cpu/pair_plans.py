"""Plans for all pairs in bfloat16 on a CPU's matrix unit (see `matrix_unit`): pieces that hold whole sums.

Names of sizes and z as in `pairs`; m, t and n are the lengths that the unit takes. There is no plan where the unit does
not pay, or a sum would not be whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from torch import Tensor

from . import matrix_unit as unit
from .costs import is_matrix, pair_work
from .pieces import span_lengths

# Multiply-adds of float32 that must be saved to make up for copies and calls.
SAVED = 4e6


@dataclass(frozen=True)
class PairwisePlan:
    """Rows, samples and outputs of a piece, and the outputs whose part of the weight is copied at a time."""

    rows: int
    samples: int
    outputs: int
    copied: int
    m: int
    n: int


@dataclass(frozen=True)
class GradXPlan:
    """Rows and samples of a piece, and the features m that meet the weight at a time."""

    rows: int
    samples: int
    features: int
    t: int
    n: int


@dataclass(frozen=True)
class GradWeightPlan:
    """The length of the sum over all rows; the outputs of a piece, and samples of which z is made at a time."""

    length: int
    samples: int
    outputs: int
    t: int


def plan_pairwise(x: Tensor, y: Tensor, weight: Tensor) -> PairwisePlan | None:
    """All pairs of rows of x (B, S, M) and y (B, T, N), weight (L, M, N)."""
    if not unit.serves(weight):
        return None
    (batch, s, _), t = x.shape, y.shape[1]
    m, n = unit.padded(1, weight.shape[1]), unit.padded(1, weight.shape[2])
    rows = min(unit.MOST_ROWS, batch * s, unit.LARGEST_PIECE // max(n, t))
    if (
        rows < min(unit.FEWEST_ROWS, batch * s)
        or max(m, n) > unit.LONGEST
        or not _pays(weight, batch, s, t, pair_work(s, t, m, n))
    ):
        return None
    outputs = max(1, unit.PIECE // (rows * max(n, t)))
    return PairwisePlan(rows, max(1, unit.PIECE // (t * n)), outputs, max(1, unit.SMALL_COPY // (m * n)), m, n)


def plan_grad_x(g: Tensor, y: Tensor, weight: Tensor) -> GradXPlan | None:
    """The gradient of x from g (B, L, S, T), y (B, T, N) and weight (L, M, N)."""
    if not unit.serves(weight):
        return None
    batch, outputs, s, plain_t = g.shape
    m, plain_n = weight.shape[1:]
    t, n = unit.padded(1, plain_t), unit.padded(outputs, plain_n)
    rows = min(unit.MOST_ROWS, batch * s, unit.LARGEST_PIECE // (outputs * max(n, t)))
    if (
        rows < min(unit.FEWEST_ROWS, batch * s)
        or t > unit.LONGEST
        or not _pays(weight, batch, s, plain_t, pair_work(s, t, m, n))
    ):
        return None
    samples = max(1, min(unit.PIECE // (t * n), rows // s))
    lengths = product(span_lengths(batch, samples), span_lengths(s, rows))
    if not all(unit.can_be_a_piece(some * each, outputs * n) for some, each in lengths):
        return None
    room = max(unit.SMALL_COPY, min(unit.LARGEST_PIECE, unit.ENOUGH_OUTPUTS * outputs * n))
    in_place = n == plain_n and is_matrix(weight.shape, weight.stride(), (1, 0, 2))
    return GradXPlan(rows, samples, m if in_place else max(1, room // (outputs * n)), t, n)


def plan_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> GradWeightPlan | None:
    """The gradient of the weight, out (L, M, N), from g (B, L, S, T), x (B, S, M) and y (B, T, N)."""
    if not unit.serves(out):
        return None
    (batch, s, m), (plain_t, n) = x.shape, y.shape[1:]
    length, t = unit.padded(1, batch * s), unit.padded(1, plain_t)
    outputs = min(unit.PIECE // length, unit.LARGEST_PIECE // m) // n
    if not outputs or t > unit.LONGEST or m <= unit.FEW_ROWS or m * length > unit.LARGEST_FACTOR:
        return None
    if not _pays(out, batch, s, plain_t, pair_work(s, t, m, n)):
        return None
    return GradWeightPlan(length, max(1, unit.PIECE // (t * max(n, s * outputs))), outputs, t)


def _pays(weight: Tensor, batch: int, s: int, t: int, work: int) -> bool:
    """Whether the unit's multiply-adds for a sample and output, of padded sums, take less time than float32's."""
    outputs, m, n = weight.shape
    plain = min(pair_work(s, t, m, n), pair_work(t, s, n, m))
    return batch * outputs * (plain - work / unit.SPEED) > SAVED
