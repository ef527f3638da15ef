"""Plans for out[i, p] = sum_qr u[i, q] v[i, r] T[p, q, r]: the forward pass and single gradients of x or y."""

from __future__ import annotations

from collections.abc import Iterator

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import Config
from .cost import PROGRAM_INSTRUCTIONS, Estimate, Step, Work, estimate, tiles
from .limits import legal, may_split
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, split_choices
from .problem import ContractProblem, itemsize
from .reads import reads


@remembered
def plan_contract(problem: ContractProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the model. u and v may change places: the axis q of T with the axis r."""
    return choose(problem, device, _candidates(problem, device))


def _candidates(problem: ContractProblem, device: DeviceSpec) -> Iterator[Plan]:
    for order, Q, R in (("pqr", problem.Q, problem.R), ("prq", problem.R, problem.Q)):
        for kernel in ("project",) if problem.keep else ("khatri_rao", "project"):
            if problem.keep and order != "pqr":
                continue
            for config in choices(kernel, problem.dtype, problem.precision, problem.vector):
                if not legal(config, device, problem, tuple(order)):
                    continue
                steps = tiles(R, config["R"]) * (tiles(Q, config["Q"]) if kernel == "khatri_rao" else 1)
                programs = tiles(problem.B, config["B"]) * tiles(problem.P, config["P"])
                for splits in split_choices(steps, programs, device.sm_count):
                    partial = splits * problem.B * problem.P * max(4, itemsize(problem.dtype))
                    if splits == 1 or (partial <= MAX_WORKSPACE_BYTES and may_split(config, device, problem)):
                        predicted = _predict(problem, config, tuple(order), splits, device)
                        yield Plan(config, tuple(order), splits, predicted)


def _predict(
    problem: ContractProblem, config: Config, order: tuple[str, ...], splits: int, device: DeviceSpec
) -> Estimate:
    Q, R = (problem.Q, problem.R) if order == ("p", "q", "r") else (problem.R, problem.Q)
    _, vector = reads(config, problem, order)
    item, accumulator = itemsize(problem.dtype), max(4, itemsize(problem.dtype))
    b, p, q, r = config["B"], config["P"], config["Q"], config["R"]
    outer = tiles(problem.B, b) * tiles(problem.P, p)
    if config.kernel == "khatri_rao":
        step = Step(b, p, q * r, config.num_warps, b * q * r, vector)
        steps, dots = -(-tiles(Q, q) * tiles(R, r) // splits), 0
        left_bytes = b * (q + r) * item
    else:
        step = Step(b, p * r, q, config.num_warps, 0, vector)
        dots = -(-tiles(R, r) // splits)
        steps = dots * tiles(Q, q)
        left_bytes = b * q * item
    instructions = steps * step.instructions(device, problem.dtype, problem.precision)
    instructions += dots * 7 * step.rows * step.columns / 32 + PROGRAM_INSTRUCTIONS * config.num_warps
    weight = problem.P * Q * R * item
    rereads = -(-outer * splits // device.sm_count) if weight > device.l2_bytes else 1
    kept = problem.B * problem.P * R * item if problem.keep else 0
    dram = weight * min(rereads, tiles(problem.B, b)) + problem.B * (Q + R + problem.P) * item + kept
    work = Work(
        programs=outer * splits,
        matrix_flops=steps * step.flops,
        instructions=instructions,
        l2_bytes=steps * (step.depth * step.columns * item + left_bytes),
        dram_bytes=dram,
        workspace_bytes=splits * problem.B * problem.P * accumulator if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
    return estimate(work, device, problem.dtype, problem.precision)
