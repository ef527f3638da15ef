"""Plans for all pairs in bfloat16 on a CPU's matrix unit (see `matrix_unit`): pieces that hold whole sums.

Names of sizes and z as in `pairs`; m, t and n are the lengths that the unit takes. There is no plan where the unit does
not pay, a sum would not be whole, or there is no room for the least that can be copied at a time.
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
    room = _room(weight, batch * s, max(m, n))
    part = room // 8
    rows = min(unit.kind().rows, batch * s, part // (m + max(n, t)))
    if (
        rows < min(unit.kind().fewest_rows, batch * s)
        or t * n > part
        or m * n > 3 * part
        or not unit.can_be_a_sum(max(m, n))
        or not _pays(weight, batch, s, t, pair_work(s, t, m, n))
    ):
        return None
    samples = min(batch, part // (t * n))
    free, output = room - rows * m - samples * t * n, rows * (n + t)
    between = min(6 * part, unit.LARGEST_PIECE, free - m * n)
    outputs = max(1, min(weight.shape[0], between // output))
    return PairwisePlan(rows, samples, outputs, max(1, (free - outputs * output) // (m * n)), m, n)


def plan_grad_x(g: Tensor, y: Tensor, weight: Tensor) -> GradXPlan | None:
    """The gradient of x from g (B, L, S, T), y (B, T, N) and weight (L, M, N)."""
    if not unit.serves(weight):
        return None
    batch, outputs, s, plain_t = g.shape
    m, plain_n = weight.shape[1:]
    t, n = unit.padded(1, plain_t), unit.padded(outputs, plain_n)
    room = _room(weight, batch * s, outputs * n)
    part = room // 8
    rows = min(unit.kind().rows, batch * s, min(6 * part, unit.LARGEST_PIECE) // (outputs * (n + t)))
    if (
        rows < min(unit.kind().fewest_rows, batch * s)
        or t * n > part
        or outputs * n > 3 * part
        or not unit.can_be_a_sum(t)
        or not _pays(weight, batch, s, plain_t, pair_work(s, t, m, n))
    ):
        return None
    samples = max(1, min(part // (t * n), rows // s))
    lengths = product(span_lengths(batch, samples), span_lengths(s, rows))
    if not all(unit.can_be_a_piece(some * each, outputs * n) for some, each in lengths):
        return None
    in_place = n == plain_n and is_matrix(weight.shape, weight.stride(), (1, 0, 2))
    copied = max(1, (room - samples * t * n) // (outputs * n) - rows * (n + t) // n)
    if not in_place and copied < min(m, unit.kind().fewest_columns):
        return None
    return GradXPlan(rows, samples, m if in_place else copied, t, n)


def plan_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> GradWeightPlan | None:
    """The gradient of the weight, out (L, M, N), from g (B, L, S, T), x (B, S, M) and y (B, T, N)."""
    if not unit.serves(out):
        return None
    (batch, s, m), (plain_t, n) = x.shape, y.shape[1:]
    length, t = unit.padded(1, batch * s), unit.padded(1, plain_t)
    room = _room(out, batch * s, length)
    samples = max(1, min(batch, room // 8 // (t * n)))
    outputs = (room - m * length - samples * t * n) // (n * (length + m) + samples * s * t)
    outputs = min(outputs, unit.LARGEST_PIECE // (n * max(length, m)))
    if outputs <= 0 or not unit.can_be_a_sum(t) or m <= unit.kind().few_rows:
        return None
    if not _pays(out, batch, s, plain_t, pair_work(s, t, m, n)):
        return None
    return GradWeightPlan(length, samples, outputs, t)


def _room(weight: Tensor, rows: int, longest_sum: int) -> int:
    """Elements of a call's buffers; einsum keeps z, and its gradient or a copy of the weight."""
    outputs, _, n = weight.shape
    whole = rows * outputs * n
    return unit.room(max(2 * whole, whole + weight.numel()), longest_sum)


def _pays(weight: Tensor, batch: int, s: int, t: int, work: int) -> bool:
    """Whether the unit's multiply-adds for a sample and output, of padded sums, take less time than float32's."""
    outputs, m, n = weight.shape
    plain = min(pair_work(s, t, m, n), pair_work(t, s, n, m))
    return batch * outputs * (plain - work / unit.kind().speed) > SAVED
