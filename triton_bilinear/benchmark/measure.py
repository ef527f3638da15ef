"""A case measured: who was timed and how long it took, and why somebody was not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles

import torch

from .cases import Case, Inputs, draw
from .memory import available_bytes, extra_bytes
from .rivals import Rival, Step, Unavailable, rivals
from .roof import Roof, Work, device_roof, probed_roof, probes, work
from .timing import PARTS, Sample, timer_for
from .truth import BOUNDS, Results, step_results, truth, worst_error


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    rounds: samples of each rival of a case. budget: seconds that a rival may take for all its samples of a case; one
    that needs more is sampled less often, and one that seems to need more for a single step is skipped.
    compile_seconds: for torch.compile in all cases together.

    Raises:
        ValueError: fewer than one round.
    """

    rounds: int
    budget: float
    compile_seconds: float

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be 1 or more, got {self.rounds}")


QUICK = Settings(rounds=7, budget=1.0, compile_seconds=10.0)
FULL = Settings(rounds=15, budget=30.0, compile_seconds=float("inf"))


# Of a rival that writes more than this a step is estimated before it is run.
_LARGE_BYTES = 2**28


@dataclass
class Entry:
    """What is known of one rival at one case.

    skipped: why it has no times. error: of its numbers, relative to float64. extra_bytes: by pass. samples: seconds, by
    pass; what has no backward pass has no entries but those of "forward".
    """

    name: str
    skipped: str | None = None
    error: float | None = None
    extra_bytes: dict[str, int | None] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Note one more sample."""
        for part in PARTS:
            seconds = getattr(sample, part)
            if seconds is not None:
                self.samples.setdefault(part, []).append(seconds)

    def median(self, part: str) -> float | None:
        """Seconds of a pass; None where it was not timed."""
        return median(self.samples[part]) if part in self.samples else None

    def spread(self, part: str) -> float:
        """Between the quartiles, relative to the median."""
        samples = self.samples[part]
        if len(samples) < 2:
            return 0.0
        low, middle, high = quantiles(samples, n=4)
        return (high - low) / middle


@dataclass
class Record:
    """A case measured: the case as it ran, its least work and time by pass, and its rivals."""

    case: Case
    roof: Roof
    work: dict[str, Work]
    entries: list[Entry]

    def entry(self, name: str) -> Entry | None:
        """A rival that was timed."""
        return next((entry for entry in self.entries if entry.name == name and entry.samples), None)


class Bench:
    """Measures cases on one device, "cpu" or "cuda"."""

    def __init__(self, device: torch.device, settings: Settings) -> None:
        self.device, self.settings = device, settings
        self._timer = timer_for(device)
        self._compile_seconds = settings.compile_seconds

    def run(self, case: Case, candidates: Callable[[Case, torch.device], list[Rival]] = rivals) -> Record:
        """Measure one case, at the size that suits the device.

        Raises:
            MemoryError: the inputs alone do not fit.
        """
        case = case.on(self.device)
        _check_memory(case, self.device)
        inputs = draw(case, self.device)
        expected = truth(case, inputs)
        entries, steps = [], {}
        for rival in candidates(case, self.device):
            entry, step = self._admitted(rival, case, inputs, expected)
            entries.append(entry)
            if step is not None:
                steps[rival.name] = step
        del expected
        dtype = getattr(torch, case.dtype)
        probing = {} if self.device.type == "cuda" else probes(dtype)
        known = {name: Entry(name) for name in probing}
        self._sample(steps | probing, {entry.name: entry for entry in entries} | known)
        if known:
            roof = probed_roof({name: entry.samples["forward"] for name, entry in known.items()})
        else:
            roof = device_roof(self.device, dtype)
        return Record(case, roof, work(case.problem(), roof), entries)

    def _admitted(self, rival: Rival, case: Case, inputs: Inputs, expected: Results) -> tuple[Entry, Step | None]:
        """A rival that ran once and whose numbers are right, or why there is none."""
        entry = Entry(rival.name)
        try:
            self._refuse(rival, case)
            step = rival.build(case, inputs)
            entry.error = worst_error(self._first_run(rival, step), expected)
            if not entry.error <= BOUNDS[case.dtype]:
                raise Unavailable(f"wrong: error {entry.error:.1e}, at most {BOUNDS[case.dtype]:.0e} can be rounding")
            entry.extra_bytes = extra_bytes(step, self.device)
        except Unavailable as reason:
            entry.skipped = str(reason)
        except (torch.OutOfMemoryError, MemoryError):
            entry.skipped = "ran out of memory"
        except Exception as error:  # whatever a compiler or an optional package raises, the others still run
            entry.skipped = f"failed: {type(error).__name__}: {_first_line(error)}"
        return entry, step if entry.skipped is None else None

    def _refuse(self, rival: Rival, case: Case) -> None:
        """Unavailable for what would not fit, or take too long."""
        needed, available = rival.scratch_bytes(case), available_bytes(self.device)
        if needed > available:
            raise Unavailable(f"needs {needed / 2**30:.1f} GiB more than its inputs, {available / 2**30:.1f} are there")
        if rival.compiles and self._compile_seconds <= 0:
            raise Unavailable("the time for compilation is used up")
        if rival.slow or (needed > _LARGE_BYTES and not rival.compiles):
            seconds = self._estimated_seconds(rival, case)
            if seconds > self.settings.budget:
                raise Unavailable(f"a step would take about {seconds:.1f} s, more than {self.settings.budget:.0f}")

    def _estimated_seconds(self, rival: Rival, case: Case) -> float:
        """Of one step, from a part of the samples; of a slow rival, which takes outputs singly, from few of both."""
        b, outputs = case.sizes["b"], case.sizes["l"]
        if rival.slow:
            small = case.resized(b=min(b, 64), l=min(outputs, 4))
        else:
            small = case.resized(b=min(b, max(64, b // 16)))
        step = rival.build(small, draw(small, self.device))
        if rival.slow:
            self._timer(step)  # what its first call costs would count for much of so small a step
        sample = self._timer(step)
        return (sample.step or sample.forward) * case.elements("bl") / small.elements("bl")

    def _first_run(self, rival: Rival, step: Step) -> Results:
        start = time.perf_counter()
        try:
            out = step.forward()
            return step_results(out, step.gradients, step.backward(out) if step.leaves else ())
        finally:
            if rival.compiles:
                self._compile_seconds -= time.perf_counter() - start

    def _sample(self, steps: dict[str, Step], entries: dict[str, Entry]) -> None:
        """Time all steps in turn, round by round: each round begins with another one, and mixes the others.

        In a fixed circle each would always find the caches and the memory that the same one left behind.
        """
        names = list(steps)
        spent = dict.fromkeys(names, 0.0)
        mix = random.Random(0)
        for start in range(self.settings.rounds):
            first = names[start % len(names)]
            others = [name for name in names if name != first]
            for name in [first, *mix.sample(others, len(others))]:
                if spent[name] < self.settings.budget:
                    before = time.perf_counter()
                    entries[name].add(self._timer(steps[name]))
                    spent[name] += time.perf_counter() - before


def _check_memory(case: Case, device: torch.device) -> None:
    """Inputs and results are there twice, in the case's dtype and in float64."""
    elements = sum(case.elements(case.axes(name)) for name in ("x", "y", "weight", "g"))
    needed, available = 2 * elements * (8 + getattr(torch, case.dtype).itemsize), available_bytes(device)
    if needed > available:
        raise MemoryError(f"needs {needed / 2**30:.1f} GiB for inputs and results, {available / 2**30:.1f} are there")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:100]
