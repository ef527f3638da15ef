"""Plans for the gradients of x and y together: jointly from one product g . A, or one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from functools import partial

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import SEPARATE, Config
from .contract import plan_contract
from .cost import (
    PROGRAM_INSTRUCTIONS,
    Estimate,
    Step,
    Work,
    estimate,
    padded,
    tiles,
)
from .limits import holds_g, legal
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, cheapest, split_choices
from .problem import ContractProblem, GradInputsProblem, itemsize
from .reads import reads

# The depth of the shallowest tiles of half precision.
_LEAST_DEPTH = 16


@remembered
def plan_grad_inputs(problem: GradInputsProblem, device: DeviceSpec) -> Plan | None:
    """The stored or the cheapest joint plan, or None where two separate contractions are stored or taken."""
    plan = choose(problem, device, plans(problem, device), partial(joint_or_separate, problem))
    return None if plan.config == SEPARATE else plan


def plans(problem: GradInputsProblem, device: DeviceSpec) -> list[Plan]:
    """Every joint plan, and last the one whose config is SEPARATE."""
    singles = [astuple(plan_contract(single, device).estimate) for single in separate_problems(problem)]
    both = Estimate(*(sum(terms) for terms in zip(*singles, strict=True)))
    return [*_candidates(problem, device), Plan(SEPARATE, ("l", "m", "n"), 1, both)]


def joint_or_separate(problem: GradInputsProblem, plans: list[Plan]) -> Plan:
    """The cheapest of joint plans, or SEPARATE's, the last.

    That one for fewer outputs than fill the depth of a tile, where it is predicted to cost less: padding takes what the
    joint product saves. From there on a step is three units, the joint tile no deeper than L wants.
    """
    *joint, separate = plans
    if problem.L >= _LEAST_DEPTH:
        least = min((padded(problem.L, plan.config["L"]) for plan in joint), default=0)
        joint = [plan for plan in joint if padded(problem.L, plan.config["L"]) <= 1.25 * least]
        return cheapest(joint) if joint else separate
    best = cheapest(joint) if joint else separate
    return best if best.estimate.seconds <= separate.estimate.seconds else separate


def separate_problems(problem: GradInputsProblem) -> tuple[ContractProblem, ContractProblem]:
    """Grad x as contract(g, y, A with axes m, l, n) and grad y as contract(g, x, A with axes n, l, m)."""
    B, L, M, N, dtype, precision = problem.B, problem.L, problem.M, problem.N, problem.dtype, problem.precision
    grad_x_unit = {"m": "p", "l": "q", "n": "r", "": ""}[problem.unit]
    grad_y_unit = {"n": "p", "l": "q", "m": "r", "": ""}[problem.unit]
    return (
        ContractProblem(B, M, L, N, dtype, precision, grad_x_unit, problem.vector, problem.row_vector),
        ContractProblem(B, N, L, M, dtype, precision, grad_y_unit, problem.vector, problem.row_vector),
    )


def joint_problem(grad_x: ContractProblem, grad_y: ContractProblem) -> GradInputsProblem:
    """The problem that these two contractions, for the gradient of x and that of y, solve one after the other."""
    unit = {"p": "m", "q": "l", "r": "n", "": ""}[grad_x.unit]
    row_vector = min(grad_x.row_vector, grad_y.row_vector)
    sizes = (grad_x.B, grad_x.Q, grad_x.P, grad_x.R)
    return GradInputsProblem(*sizes, grad_x.dtype, grad_x.precision, unit, grad_x.vector, row_vector)


def _candidates(problem: GradInputsProblem, device: DeviceSpec) -> Iterator[Plan]:
    accumulator = max(4, itemsize(problem.dtype))
    for order, M, N in (("lmn", problem.M, problem.N), ("lnm", problem.N, problem.M)):
        for config in choices("grad_inputs", problem.dtype, problem.precision, problem.vector):
            if not legal(config, device, problem, tuple(order)):
                continue
            rows, n_tiles = tiles(problem.B, config["B"]), tiles(N, config["N"])
            for share in split_choices(n_tiles, rows, device.sm_count):
                # One group needs no more than a float32 dx; more of them must fit the workspace.
                groups = tiles(n_tiles, tiles(n_tiles, share))
                if groups > 1 and groups * problem.B * M * accumulator > MAX_WORKSPACE_BYTES:
                    continue
                for splits in split_choices(tiles(M, config["M"]), rows * groups, device.sm_count):
                    if splits > 1 and splits * problem.B * N * accumulator > MAX_WORKSPACE_BYTES:
                        continue
                    predicted = _predict(problem, config, tuple(order), groups, splits, device)
                    yield Plan(config, tuple(order), splits, predicted, groups)


def _predict(
    problem: GradInputsProblem, config: Config, order: tuple[str, ...], groups: int, splits: int, device: DeviceSpec
) -> Estimate:
    M, N = (problem.M, problem.N) if order == ("l", "m", "n") else (problem.N, problem.M)
    item, accumulator = itemsize(problem.dtype), max(4, itemsize(problem.dtype))
    b, depth, m, n = config["B"], config["L"], config["M"], config["N"]
    held = holds_g(config, problem.L)
    _, vector = reads(config, problem, order)
    step = Step(b, m * n, depth, config.num_warps, 0, vector)
    n_tiles, m_tiles, l_tiles = -(-tiles(N, n) // groups), -(-tiles(M, m) // splits), tiles(problem.L, depth)
    epilogue = b * m * n * 4 / 32 + b * (m + n) / 8 + 40 * config.num_warps
    per_tile = l_tiles * step.instructions(device, problem.dtype, problem.precision) + epilogue
    tile_bytes = l_tiles * (depth * m * n + (0 if held else b * depth)) * item + 2 * b * m * accumulator
    programs = tiles(problem.B, b) * groups * splits
    partial = problem.B * accumulator * (groups * M * (groups > 1 or n_tiles > 1) + splits * N * (splits > 1))
    weight = problem.L * M * N * item
    rereads = min(-(-programs // device.sm_count), tiles(problem.B, b)) if weight > device.l2_bytes else 1
    work = Work(
        programs=programs,
        matrix_flops=n_tiles * m_tiles * l_tiles * step.flops,
        instructions=n_tiles * m_tiles * per_tile + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=n_tiles * m_tiles * tile_bytes,
        dram_bytes=weight * rereads + problem.B * (problem.L + 2 * M + 2 * N) * item,
        workspace_bytes=partial,
        launches=1 + (splits > 1) + (groups > 1 or n_tiles > 1),
        # The epilogue waits for the product and the next product for the epilogue.
        waits=n_tiles * m_tiles * epilogue,
    )
    return estimate(work, device, problem.dtype, problem.precision)
