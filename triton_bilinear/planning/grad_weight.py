"""Plans for out[p, q, r] = sum_i a[i, p] b[i, q] c[i, r]: the gradient of the weight."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import Config
from .cost import PROGRAM_INSTRUCTIONS, Estimate, Step, Work, estimate, tiles
from .limits import legal
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, split_choices
from .problem import GradWeightProblem, itemsize


@remembered
def plan_grad_weight(problem: GradWeightProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the machine model; the three axes may take each other's part."""
    return choose(problem, device, _candidates(problem, device))


def _candidates(problem: GradWeightProblem, device: DeviceSpec) -> Iterator[Plan]:
    size = {"p": problem.P, "q": problem.Q, "r": problem.R}
    accumulator = max(4, itemsize(problem.dtype))
    for order in permutations("pqr"):
        P, Q, R = (size[axis] for axis in order)
        vector = problem.vectors["pqr".index(order[2])]
        for config in choices("grad_weight", problem.dtype, problem.precision, vector):
            if not legal(config, device, problem, order):
                continue
            outer = tiles(P, config["P"]) * tiles(Q, config["Q"]) * tiles(R, config["R"])
            for splits in split_choices(tiles(problem.B, config["B"]), outer, device.sm_count):
                if splits == 1 or splits * P * Q * R * accumulator <= MAX_WORKSPACE_BYTES:
                    # Stores of a tile run along r, and along q where r is not the result's last axis: see coalesced.
                    coalesced = order[2] == "r" or (order[1] == "r" and config["Q"] >= 16)
                    predicted = _predict(problem, config, (P, Q, R), vector, splits, coalesced, device)
                    yield Plan(config, order, splits, predicted)


def _predict(
    problem: GradWeightProblem,
    config: Config,
    sizes: tuple[int, int, int],
    vector: int,
    splits: int,
    coalesced: bool,
    device: DeviceSpec,
) -> Estimate:
    P, Q, R = sizes
    item, accumulator = itemsize(problem.dtype), max(4, itemsize(problem.dtype))
    b, p, q, r = config["B"], config["P"], config["Q"], config["R"]
    outer = tiles(P, p) * tiles(Q, q) * tiles(R, r)
    steps = -(-tiles(problem.B, b) // splits)
    # A single row of a multiplies b in the layout of b's load; more of them change layouts.
    step = Step(p * q, r, b, config.num_warps, p * q * b, vector, product_cost=5.5 if p == 1 else 8.0)
    loop = step.instructions(device, problem.dtype, problem.precision) + 2 * q * b * item / 512
    store = p * q * r / (32 if coalesced else 4)
    work = Work(
        programs=outer * splits,
        matrix_flops=steps * step.flops,
        instructions=steps * loop + store + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=steps * b * (p + q + r) * item,
        dram_bytes=(problem.B * (P + Q + R) + P * Q * R) * item,
        workspace_bytes=splits * P * Q * R * accumulator if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
    return estimate(work, device, problem.dtype, problem.precision)
