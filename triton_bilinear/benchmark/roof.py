"""How fast a device could be: its rates, and the least time of a case's passes at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ..inspection.problem import PairwiseProblem, StepProblem
from .rivals import Step

_EDGE = 1024
_COPY_ELEMENTS = 2**24


@dataclass(frozen=True)
class Roof:
    """Rates that no case can exceed for long: FLOP/s of matrix products, and bytes of memory a second."""

    flops: float
    bandwidth: float
    source: str

    def seconds(self, flops: float, moved_bytes: float) -> float:
        """The least time for this arithmetic and these bytes, whichever takes longer."""
        return max(flops / self.flops, moved_bytes / self.bandwidth)


@dataclass(frozen=True)
class Work:
    """What a pass has to do: FLOPs without padding or repetition, each operand of a product read or written once."""

    flops: float
    moved_bytes: float
    floor_seconds: float


def work(problem: StepProblem, roof: Roof) -> dict[str, Work]:
    """The least work of "forward", "backward" and "step", and the least time for it, product by product."""
    both = problem.wants("x", "y") and not isinstance(problem, PairwiseProblem)
    inputs = ["grad_inputs"] if both else [f"grad_{name}" for name in "xy" if problem.wants(name)]
    others = [f"grad_{name}" for name in ("weight", "bias") if problem.wants(name)]
    passes = {"forward": ["forward"], "backward": inputs + others}
    passes["step"] = passes["forward"] + passes["backward"]
    return {name: _sum(problem, ops, roof) for name, ops in passes.items()}


def _sum(problem: StepProblem, ops: Sequence[str], roof: Roof) -> Work:
    flops = [float(problem.useful_flops(op)) for op in ops]
    moved = [float(problem.minimum_bytes(op)) for op in ops]
    return Work(sum(flops), sum(moved), sum(map(roof.seconds, flops, moved)))


def device_roof(device: torch.device, dtype: torch.dtype) -> Roof:
    """A GPU's rates, from its data sheet, as the planner takes them."""
    from ..gpu.device import device_of, float32_precision
    from ..planning.cost import matrix_rate

    like = torch.empty(0, device=device, dtype=dtype)
    spec = device_of(like)
    rate = matrix_rate(spec, str(dtype).removeprefix("torch."), float32_precision(like, spec))
    return Roof(rate, spec.memory_bandwidth, f"{spec.name}: {spec.source}")


def probes(dtype: torch.dtype) -> dict[str, Step]:
    """What shows a CPU's rates when it is timed among the rivals: large square products, and a copy.

    Products of half precision are taken in float32 too: a CPU without instructions for them is faster so.
    """
    wider = torch.float32 if dtype.itemsize == 2 else dtype
    source, target = torch.zeros(_COPY_ELEMENTS), torch.zeros(_COPY_ELEMENTS)
    steps = {f"square product, {kind}": _square(kind) for kind in dict.fromkeys((dtype, wider))}
    return {**steps, "copy": Step(lambda: target.copy_(source), (), target, ())}


def _square(dtype: torch.dtype) -> Step:
    a, b, out = (torch.randn(_EDGE, _EDGE).to(dtype) for _ in range(3))

    def product() -> Tensor:
        return torch.mm(a, b, out=out)

    return Step(product, (), out, ())


def probed_roof(seconds: dict[str, list[float]]) -> Roof:
    """A CPU's rates, from the samples of its probes."""
    copy = median(seconds["copy"])
    square = min(median(samples) for name, samples in seconds.items() if name != "copy")
    source = f"measured in the same rounds: a product of edge {_EDGE}, a copy of {4 * _COPY_ELEMENTS >> 20} MiB"
    return Roof(2 * _EDGE**3 / square, 2 * 4 * _COPY_ELEMENTS / copy, source)
