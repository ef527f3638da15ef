"""Plans for out[b, l, a, d] = sum_c (sum_e P Q) R, or its sum over b or l: the pairwise form and its gradients."""

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

# The problem's axes as the kernel's a, c, d and e: for P Q first, or, transposed, for R^T Q^T first.
_ORDERS = (("a", "c", "d", "e"), ("d", "e", "a", "c"))


@remembered
def plan_chain(problem: ChainProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the machine model. Q may meet P first, or R."""
    return choose(problem, device, _candidates(problem, device))


def _candidates(problem: ChainProblem, device: DeviceSpec) -> Iterator[Plan]:
    accumulator = max(4, itemsize(problem.dtype))
    for order in _ORDERS:
        sizes = A, C, D, _ = _sizes(problem, order)
        for config in choices("chain", problem.dtype, problem.precision, problem.vector):
            if not legal(config, device, problem, order):
                continue
            programs = problem.outputs * tiles(A, config["A"]) * tiles(D, config["D"])
            for splits in split_choices(problem.K * tiles(C, config["C"]), programs, device.sm_count):
                partial = splits * problem.outputs * A * D * accumulator
                if splits == 1 or partial <= MAX_WORKSPACE_BYTES:
                    yield Plan(config, order, splits, _predict(problem, sizes, config, splits, device))


def _sizes(problem: ChainProblem, order: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Of the kernel's a, c, d and e."""
    size = {"a": problem.A, "c": problem.C, "d": problem.D, "e": problem.E}
    a, c, d, e = (size[axis] for axis in order)
    return a, c, d, e


def _predict(
    problem: ChainProblem, sizes: tuple[int, int, int, int], config: Config, splits: int, device: DeviceSpec
) -> Estimate:
    A, C, D, E = sizes
    item, accumulator = itemsize(problem.dtype), max(4, itemsize(problem.dtype))
    a, c, d, e = config["A"], config["C"], config["D"], config["E"]
    steps = -(-problem.K * tiles(C, c) // splits)
    inner = Step(a, c, e, config.num_warps, 0, problem.vector)
    outer = Step(a, d, c, config.num_warps, a * c, problem.vector)
    inner_steps = tiles(E, e)
    programs = problem.outputs * tiles(A, a) * tiles(D, d) * splits
    kind_of = (device, problem.dtype, problem.precision)
    out_elements = problem.outputs * A * D
    work = Work(
        programs=programs,
        matrix_flops=steps * (inner_steps * inner.flops + outer.flops),
        instructions=steps * (inner_steps * inner.instructions(*kind_of) + outer.instructions(*kind_of))
        + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=steps * (inner_steps * (a + c) * e + c * d) * item,
        dram_bytes=(problem.inputs + out_elements) * item,
        workspace_bytes=splits * out_elements * accumulator if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
    return estimate(work, device, problem.dtype, problem.precision)
