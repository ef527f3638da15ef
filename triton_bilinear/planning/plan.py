"""A plan: the tile, the order of the contraction, and how the work is split, with the predicted time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .config import Config
from .cost import Estimate, Step
from .problem import Problem

# Partial results of a split go through a workspace in device memory, never larger than this.
MAX_WORKSPACE_BYTES = 32 << 20

# Predicted times that differ by less are alike.
_ALIKE = 1.02


@dataclass(frozen=True)
class Tile:
    """A tile that the device takes for a problem of any number of rows; or SEPARATE, which has no steps of its own.

    order: the problem's axes in the order in which the kernel's own axes take them, e.g. ("p", "r", "q") where the
    kernel contracts r first. steps: of the kernel's loop, or of both its loops.
    """

    config: Config
    order: tuple[str, ...]
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How one launch (and its second pass, where splits > 1) serves a problem.

    config, order: the tile's; splits: shares of the contraction, added up by a second pass; groups: for grad_inputs,
    the groups of n tiles, each with a partial dx. origin: "measured", "predicted" or "safe" (what a device that refused
    another plan got). source: the file of stored configs that it comes from, or "cost model", or why it is safe.
    problem: the one that it was chosen for.
    """

    config: Config
    order: tuple[str, ...]
    splits: int
    estimate: Estimate
    groups: int = 1
    origin: str = "predicted"
    source: str = "cost model"
    problem: Problem | None = None


def split_choices(steps: int, programs: int, sm_count: int) -> list[int]:
    """Numbers of splits worth a look: until the device is full twice over, and never an empty split."""
    choices = [1]
    for splits in (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256):
        if splits > steps or programs * splits > 4 * sm_count:
            break
        share = -(-steps // splits)
        choices.append(-(-steps // share))
    return choices


def _hides_memory(estimate: Estimate) -> bool:
    """Whether memory takes so little of the time that with half the bandwidth it would not be seen either."""
    return 10 * estimate.dram <= estimate.seconds


def cheapest(plans: Iterable[Plan]) -> Plan:
    """The plan with the shortest predicted time; of those alike, one with the least matrix work, to a tenth.

    None that moves more than twice the bytes of another, if that takes time: the model's memory is the ideal one.
    """
    plans = list(plans)
    most = 2 * min(plan.estimate.dram_bytes for plan in plans)
    plans = [plan for plan in plans if plan.estimate.dram_bytes <= most or _hides_memory(plan.estimate)]
    limit = _ALIKE * min(plan.estimate.seconds for plan in plans)
    alike = [plan for plan in plans if plan.estimate.seconds <= limit]
    least_work = min(plan.estimate.matrix_flops for plan in alike)
    return min(alike, key=lambda plan: (round(10 * plan.estimate.matrix_flops / least_work), plan.estimate.seconds))
