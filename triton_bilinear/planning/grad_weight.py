"""Plans for out[p, q, r] = sum_i a[i, p] b[i, q] c[i, r]: the gradient of the weight."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import prod

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import Config, product_shape
from .cost import PROGRAM_INSTRUCTIONS, Step, Work, estimate, product_step, rates, tiles
from .limits import legal
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, Tile, split_choices
from .problem import GradWeightProblem, itemsize, of_one_row, sum_bytes


@remembered
def plan_grad_weight(problem: GradWeightProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the machine model; the three axes may take each other's part."""
    return choose(problem, device, legal_tiles(of_one_row(problem), device), plans_with)


@remembered
def legal_tiles(problem: GradWeightProblem, device: DeviceSpec) -> tuple[Tile, ...]:
    """What the device takes, whatever the rows."""
    found = []
    for order in permutations("pqr"):
        vector = problem.vectors["pqr".index(order[2])]
        for config in choices("grad_weight", problem.dtype, problem.precision, vector):
            if legal(config, device, problem, order):
                found.append(Tile(config, order, (_step(config, vector, problem, device),)))
    return tuple(found)


def plans_with(tile: Tile, problem: GradWeightProblem, device: DeviceSpec) -> Iterator[Plan]:
    """A tile's plans."""
    config, rate = tile.config, rates(device, problem.dtype, problem.precision)
    outer, out_bytes = _outer(problem, tile), problem.P * problem.Q * problem.R * sum_bytes(problem.dtype)
    for splits in split_choices(tiles(problem.B, config["B"]), outer, device.sm_count):
        if splits == 1 or splits * out_bytes <= MAX_WORKSPACE_BYTES:
            yield Plan(config, tile.order, splits, estimate(_work(problem, tile, outer * splits, splits), rate))


def _outer(problem: GradWeightProblem, tile: Tile) -> int:
    """The tiles that cover the result."""
    size = {"p": problem.P, "q": problem.Q, "r": problem.R}
    return prod(tiles(size[axis], tile.config[block]) for axis, block in zip(tile.order, "PQR", strict=True))


def _step(config: Config, vector: int, problem: GradWeightProblem, device: DeviceSpec) -> Step:
    rows, columns, depth = product_shape(config)
    # A single row of a multiplies b in the layout of b's load; more of them change layouts.
    cost = 5.5 if config["P"] == 1 else 8.0
    step = product_step(rows, columns, depth, config.num_warps, rows * depth, vector, problem, device, cost)
    return step._replace(instructions=step.instructions + 2 * config["Q"] * depth * itemsize(problem.dtype) / 512)


def _work(problem: GradWeightProblem, tile: Tile, programs: int, splits: int) -> Work:
    config, (step,), item = tile.config, tile.steps, itemsize(problem.dtype)
    b, p, q, r = config["B"], config["P"], config["Q"], config["R"]
    steps = -(-tiles(problem.B, b) // splits)
    out_elements = problem.P * problem.Q * problem.R
    # Stores of a tile run along r, and along q where r is not the result's last axis.
    coalesced = tile.order[2] == "r" or (tile.order[1] == "r" and q >= 16)
    store = p * q * r / (32 if coalesced else 4)
    return Work(
        programs=programs,
        matrix_flops=steps * step.flops,
        instructions=steps * step.instructions + store + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=steps * b * (p + q + r) * item,
        dram_bytes=(problem.B * (problem.P + problem.Q + problem.R) + out_elements) * item,
        workspace_bytes=splits * out_elements * sum_bytes(problem.dtype) if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
