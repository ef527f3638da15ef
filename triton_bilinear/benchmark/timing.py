"""How long a step takes: its forward pass, its backward pass, and both, of the same runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .rivals import Step

PARTS = ("forward", "backward", "step")

# On a CPU a sample is the mean of as many runs as take this long.
_LEAST_SECONDS = 0.01
# On a GPU this is written before each run: more than any L2 cache holds.
_FLUSH_BYTES = 256 << 20


@dataclass(frozen=True)
class Sample:
    """Seconds of the passes of one step; backward is None where there is none."""

    forward: float
    backward: float | None

    @property
    def step(self) -> float | None:
        return None if self.backward is None else self.forward + self.backward


Timer = Callable[[Step], Sample]


def timer_for(device: torch.device) -> Timer:
    """How steps are timed on a device, "cpu" or "cuda"."""
    return time_on_cpu if device.type == "cpu" else GpuTimer(device)


def time_on_cpu(step: Step, clock: Callable[[], float] = time.perf_counter) -> Sample:
    """The mean of the runs that fit in ten milliseconds, one at least."""
    forward = backward = 0.0
    runs = 0
    while forward + backward < _LEAST_SECONDS:
        start = clock()
        out = step.forward()
        middle = clock()
        forward += middle - start
        if step.leaves:
            step.backward(out)
            backward += clock() - middle
        runs += 1
    return Sample(forward / runs, backward / runs if step.leaves else None)


class GpuTimer:
    """Times one run by events on the GPU's stream.

    A buffer is filled before the run. That empties the L2 cache, and keeps the GPU busy while the host prepares the
    run: the host's time counts only where it takes longer than that.
    """

    def __init__(self, device: torch.device) -> None:
        self._buffer = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, step: Step) -> Sample:
        start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        torch.cuda.synchronize()
        self._buffer.zero_()
        start.record()
        out = step.forward()
        middle.record()
        if step.leaves:
            step.backward(out)
        end.record()
        torch.cuda.synchronize()
        backward = middle.elapsed_time(end) / 1e3 if step.leaves else None
        return Sample(start.elapsed_time(middle) / 1e3, backward)
