"""Plans for out[b, l, a, d] = sum_c (sum_e P Q) R, or its sum over b or l: the pairwise form and its gradients."""

from __future__ import annotations

from collections.abc import Iterator

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import Config
from .cost import PROGRAM_INSTRUCTIONS, Step, Work, estimate, product_step, rates, tiles
from .limits import legal
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, Tile, split_choices
from .problem import ChainProblem, itemsize, of_one_row, sum_bytes

# The problem's axes as the kernel's a, c, d and e: for P Q first, or, transposed, for R^T Q^T first.
_ORDERS = (("a", "c", "d", "e"), ("d", "e", "a", "c"))


@remembered
def plan_chain(problem: ChainProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the machine model. Q may meet P first, or R."""
    return choose(problem, device, legal_tiles(of_one_row(problem), device), plans_with)


@remembered
def legal_tiles(problem: ChainProblem, device: DeviceSpec) -> tuple[Tile, ...]:
    """What the device takes, whatever the rows."""
    return tuple(
        Tile(config, order, _steps(config, problem, device))
        for order in _ORDERS
        for config in choices("chain", problem.dtype, problem.precision, problem.vector)
        if legal(config, device, problem, order)
    )


def plans_with(tile: Tile, problem: ChainProblem, device: DeviceSpec) -> Iterator[Plan]:
    """A tile's plans."""
    A, C, D, _ = _sizes(problem, tile.order)
    config, rate = tile.config, rates(device, problem.dtype, problem.precision)
    programs = problem.outputs * tiles(A, config["A"]) * tiles(D, config["D"])
    for splits in split_choices(problem.K * tiles(C, config["C"]), programs, device.sm_count):
        partial = splits * problem.outputs * A * D * sum_bytes(problem.dtype)
        if splits == 1 or partial <= MAX_WORKSPACE_BYTES:
            yield Plan(config, tile.order, splits, estimate(_work(problem, tile, splits), rate))


def _sizes(problem: ChainProblem, order: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Of the kernel's a, c, d and e."""
    size = {"a": problem.A, "c": problem.C, "d": problem.D, "e": problem.E}
    a, c, d, e = (size[axis] for axis in order)
    return a, c, d, e


def _steps(config: Config, problem: ChainProblem, device: DeviceSpec) -> tuple[Step, Step]:
    """Of the loop over e, and of the one over c around it."""
    a, c, d, e = config["A"], config["C"], config["D"], config["E"]
    inner = product_step(a, c, e, config.num_warps, 0, problem.vector, problem, device)
    return inner, product_step(a, d, c, config.num_warps, a * c, problem.vector, problem, device)


def _work(problem: ChainProblem, tile: Tile, splits: int) -> Work:
    A, C, D, E = _sizes(problem, tile.order)
    config, (inner, outer), item = tile.config, tile.steps, itemsize(problem.dtype)
    a, c, d, e = config["A"], config["C"], config["D"], config["E"]
    steps, inner_steps = -(-problem.K * tiles(C, c) // splits), tiles(E, e)
    loop = inner_steps * inner.instructions + outer.instructions
    out_elements = problem.outputs * A * D
    return Work(
        programs=problem.outputs * tiles(A, a) * tiles(D, d) * splits,
        matrix_flops=steps * (inner_steps * inner.flops + outer.flops),
        instructions=steps * loop + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=steps * (inner_steps * (a + c) * e + c * d) * item,
        dram_bytes=(problem.inputs + out_elements) * item,
        workspace_bytes=splits * out_elements * sum_bytes(problem.dtype) if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
