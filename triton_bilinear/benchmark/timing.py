"""How long a step takes: its forward pass, its backward pass, and both, of the same runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch

from .rivals import Step

PARTS = ("forward", "backward", "step")

# On a CPU a sample is the mean of as many runs as take this long.
_LEAST_SECONDS = 0.01
# A first run that is shorter does not count: what the caches and the allocator hold is another rival's.
_COLD_SECONDS = 0.1
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
    """The mean of the runs that fit in ten milliseconds, one at least; a first, short one does not count."""

    def run() -> tuple[float, float]:
        start = clock()
        out = step.forward()
        middle = clock()
        if step.leaves:
            step.backward(out)
        return middle - start, clock() - middle

    times = [run()]
    if sum(times[0]) < _COLD_SECONDS:
        times = [run()]
    while sum(forward + backward for forward, backward in times) < _LEAST_SECONDS:
        times.append(run())
    forward, backward = (fmean(part) for part in zip(*times, strict=True))
    return Sample(forward, backward if step.leaves else None)


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
