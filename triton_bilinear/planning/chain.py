"""Plans for out[b, o, a, d] = sum_{k, c} (sum_e P Q) R: the pairwise form and its gradients."""

from __future__ import annotations

from collections.abc import Iterator

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import Config
from .cost import PROGRAM_INSTRUCTIONS, Estimate, Step, Work, estimate, tiles
from .limits import legal
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, split_choices
from .problem import ChainProblem, itemsize

_ORDER = ("a", "c", "d", "e")


@remembered
def plan_chain(problem: ChainProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the machine model."""
    return choose(problem, device, _candidates(problem, device))


def _candidates(problem: ChainProblem, device: DeviceSpec) -> Iterator[Plan]:
    accumulator = max(4, itemsize(problem.dtype))
    for config in choices("chain", problem.dtype, problem.precision, problem.vector):
        if not legal(config, device, problem, _ORDER):
            continue
        programs = problem.outputs * tiles(problem.A, config["A"]) * tiles(problem.D, config["D"])
        for splits in split_choices(problem.K * tiles(problem.C, config["C"]), programs, device.sm_count):
            partial = splits * problem.outputs * problem.A * problem.D * accumulator
            if splits == 1 or partial <= MAX_WORKSPACE_BYTES:
                yield Plan(config, _ORDER, splits, _predict(problem, config, splits, device))


def _predict(problem: ChainProblem, config: Config, splits: int, device: DeviceSpec) -> Estimate:
    item, accumulator = itemsize(problem.dtype), max(4, itemsize(problem.dtype))
    a, c, d, e = config["A"], config["C"], config["D"], config["E"]
    steps = -(-problem.K * tiles(problem.C, c) // splits)
    inner = Step(a, c, e, config.num_warps, 0, problem.vector)
    outer = Step(a, d, c, config.num_warps, a * c, problem.vector)
    inner_steps = tiles(problem.E, e)
    programs = problem.outputs * tiles(problem.A, a) * tiles(problem.D, d) * splits
    kind_of = (device, problem.dtype, problem.precision)
    out_bytes = problem.outputs * problem.A * problem.D
    work = Work(
        programs=programs,
        matrix_flops=steps * (inner_steps * inner.flops + outer.flops),
        instructions=steps * (inner_steps * inner.instructions(*kind_of) + outer.instructions(*kind_of))
        + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=steps * (inner_steps * (a + c) * e + c * d) * item,
        dram_bytes=(problem.inputs + out_bytes) * item,
        workspace_bytes=splits * out_bytes * accumulator if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
    return estimate(work, device, problem.dtype, problem.precision)
