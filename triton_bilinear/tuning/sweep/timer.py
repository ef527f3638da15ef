"""How long a GPU takes, each time from a cold L2 cache."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median, quantiles

import torch

# Seconds of one run again and again, not counting what is not the run's own.
Timer = Callable[[Callable[[], None]], list[float]]

_WARM_UP = 3
_RUNS = (10, 100)
_SECONDS = 0.2

# More than any L2 cache holds; a quarter of a millisecond to fill at 8 TB/s, meant to outlast the host's launching.
_BUFFER_BYTES = 2 << 30


class GpuTimer:
    """Times runs by events on the GPU's stream.

    Before each run a buffer larger than the L2 cache is filled, which also keeps the GPU busy while the host prepares
    the run: what is timed is the GPU's work and not the host's.
    """

    def __init__(self, where: torch.device) -> None:
        self._where = where
        self._buffer = torch.empty(_BUFFER_BYTES, dtype=torch.uint8, device=where)

    def __call__(self, run: Callable[[], None]) -> list[float]:
        with torch.cuda.device(self._where):
            first = [self._once(run) for _ in range(_WARM_UP)]
            torch.cuda.synchronize()
            seconds = max(min(self._seconds(*pair) for pair in first), 1e-6)
            least, most = _RUNS
            pairs = [self._once(run) for _ in range(min(most, max(least, round(_SECONDS / seconds))))]
            torch.cuda.synchronize()
            return [self._seconds(*pair) for pair in pairs]

    def _once(self, run: Callable[[], None]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._buffer.zero_()
        start.record()
        run()
        end.record()
        return start, end

    def _seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1e3


def middle(seconds: list[float]) -> tuple[float, float]:
    """The median, and the spread between the quartiles."""
    if len(seconds) < 2:
        return seconds[0], 0.0
    low, _, high = quantiles(seconds, n=4)
    return median(seconds), high - low
