"""Instructions that a program of a launch issues, from its compiled listing and the trips of its loops.

Against the cycles that the matrix unit needs for the program's products they tell which of the two is the limit of the
kernel as a whole. Counted, not measured: an instruction is one issue slot, stalls do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ..planning.cost import ISSUE_SLOTS, matrix_rate
from ..tuning.compiler import CompiledReport, matrix_count
from ..tuning.devices import DeviceSpec
from ..tuning.listing import Loop
from .work import LaunchWork


@dataclass(frozen=True)
class Issued:
    """Instructions that one warp of a full program issues, by where they stand.

    prologue: ahead of the first loop. loops: for each nesting depth, outermost first, those that stand in loops of that
    depth and no deeper, all trips together. epilogue: all else, code out of line included.
    """

    prologue: int
    loops: tuple[int, ...]
    epilogue: int

    @property
    def total(self) -> int:
        return self.prologue + sum(self.loops) + self.epilogue


def loop_trips(report: CompiledReport, work: LaunchWork) -> list[tuple[Loop, int]]:
    """How often each loop's own instructions run in a full program.

    A loop with matrix instructions (any loop, where there are none) runs as often as the kernel's loop of its depth;
    other loops, such as the wait for a barrier, once where they stand.
    """
    loops = report.loops
    working = [loop for loop in loops if matrix_count(loop)] or list(loops)
    trips = _trips(work.trips, max((loop.depth for loop in working), default=0))
    return [
        (loop, prod(trips[other.depth - 1] for other in working if other is loop or other.contains(loop)))
        for loop in loops
    ]


def own_instructions(loop: Loop, loops: Sequence[Loop]) -> int:
    """Instructions of a loop that stand in no inner one."""
    return len(loop.body.difference(*(inner.body for inner in loops if loop.contains(inner))))


def issued(report: CompiledReport, work: LaunchWork) -> Issued:
    """What a warp issues from its first instruction to its last."""
    loops = report.loops
    by_depth = [0] * max((loop.depth for loop in loops), default=0)
    for loop, times in loop_trips(report, work):
        by_depth[loop.depth - 1] += own_instructions(loop, loops) * times
    inside = frozenset().union(*(loop.body for loop in loops))
    prologue = min((loop.first for loop in loops), default=report.instructions)
    return Issued(prologue, tuple(by_depth), report.instructions - len(inside) - prologue)


def issue_ratio(report: CompiledReport, work: LaunchWork, device: DeviceSpec, dtype: str) -> float | None:
    """Issue cycles of a program, all warps over an SM's slots, over the matrix unit's cycles for its products.

    None for what has no matrix instruction, and for GPUs whose issue is not counted in this way (AMD's).
    """
    if device.vendor != "nvidia" or not report.matrix_instructions:
        return None
    rate = matrix_rate(device, dtype, work.precision) / (device.sm_count * device.clock_hz)
    matrix_cycles = work.mma_flops_per_program / rate
    return issued(report, work).total * report.num_warps / ISSUE_SLOTS / matrix_cycles


def _trips(trips: tuple[int, ...], depth: int) -> list[int]:
    """Trips for each depth of the listing's loops. Loops of one trip may have been dissolved by the compiler; where it
    dissolved others, all their trips fall to the innermost; depths that the kernel does not know have one trip.
    """
    kept = list(trips)
    while len(kept) > depth and 1 in kept:
        kept.remove(1)
    while len(kept) > max(depth, 1):
        kept[-2:] = [kept[-2] * kept[-1]]
    return kept + [1] * (depth - len(kept))
