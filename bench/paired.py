"""Whether one of two programs is slower than the other, from times taken in turn.

Two runs next to each other share the machine's state at that moment, so what is compared is the ratio within each
pair, and of all pairs the median. Its uncertainty comes from the pairs themselves (a bootstrap). What a ratio may be
without any difference in code is measured: the same code against itself, as two processes, gives the noise band.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median

_RESAMPLES = 2000
_CONFIDENCE = 0.99

# No band is narrower: two builds of the same code differ by so much in where their memory happens to lie.
LEAST_BAND = 0.03

Pair = tuple[float, float]  # seconds of this tree, and of what it is compared with


@dataclass(frozen=True)
class Ratio:
    """The median of this / other, and the limits between which it lies in 99 of 100 resamplings of the pairs."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """A comparison: slower where the ratio lies above the band with all of its uncertainty.

    band: by how much the tree differs from itself at most, 0.03 for 3 %. resolution: the least slow-down that this run
    could have seen.
    """

    ratio: Ratio
    band: float
    slower: bool
    resolution: float


def median_ratio(pairs: Sequence[Pair]) -> Ratio:
    """ValueError for no pairs."""
    if not pairs:
        raise ValueError("expected one pair of times at least, got none")
    logs = [log(this / other) for this, other in pairs]
    generator = random.Random(0)  # the same samples give the same verdict
    medians = sorted(median(generator.choices(logs, k=len(logs))) for _ in range(_RESAMPLES))
    tail = round((1 - _CONFIDENCE) / 2 * _RESAMPLES)
    return Ratio(exp(median(logs)), exp(medians[tail]), exp(medians[-1 - tail]))


def noise_band(against_itself: Sequence[Pair]) -> float:
    """How far from 1 the ratio of the tree to itself may be, as its own pairs show."""
    ratio = median_ratio(against_itself)
    return max(LEAST_BAND, ratio.high - 1, 1 / ratio.low - 1)


def judge(pairs: Sequence[Pair], against_itself: Sequence[Pair]) -> Verdict:
    """Compare this tree with another one, given the same tree against itself."""
    ratio, band = median_ratio(pairs), noise_band(against_itself)
    return Verdict(ratio, band, ratio.low > 1 + band, (1 + band) * ratio.middle / ratio.low - 1)
