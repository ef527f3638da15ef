"""Plans for the gradients of x and y together: jointly from one product g . A, or one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import SEPARATE, Config, product_shape
from .contract import plan_contract
from .cost import (
    PROGRAM_INSTRUCTIONS,
    Estimate,
    Step,
    Work,
    estimate,
    padded,
    product_step,
    rates,
    tiles,
)
from .limits import holds_g, legal
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, Tile, cheapest, split_choices
from .problem import ContractProblem, GradInputsProblem, itemsize, of_one_row, sum_bytes
from .reads import reads

# The depth of the shallowest tiles of half precision.
_LEAST_DEPTH = 16

_Found = TypeVar("_Found", Tile, Plan)


@remembered
def plan_grad_inputs(problem: GradInputsProblem, device: DeviceSpec) -> Plan | None:
    """The stored or the cheapest joint plan, or None where two separate contractions are stored or taken."""
    found = legal_tiles(of_one_row(problem), device)
    plan = choose(problem, device, found, plans_with, _likely(problem, found), partial(joint_or_separate, problem))
    return None if plan.config == SEPARATE else plan


@remembered
def legal_tiles(problem: GradInputsProblem, device: DeviceSpec) -> tuple[Tile, ...]:
    """What the device takes, whatever the rows; last SEPARATE."""
    orders = (("l", "m", "n"), ("l", "n", "m"))
    joint = (
        Tile(config, order, (_step(config, order, problem, device),))
        for order in orders
        for config in choices("grad_inputs", problem.dtype, problem.precision, problem.vector)
        if legal(config, device, problem, order)
    )
    return (*joint, Tile(SEPARATE, orders[0]))


def plans_with(tile: Tile, problem: GradInputsProblem, device: DeviceSpec) -> Iterator[Plan]:
    """A tile's plans; SEPARATE's takes as long as those of both contractions."""
    if tile.config == SEPARATE:
        singles = [plan_contract(single, device).estimate for single in separate_problems(problem)]
        yield Plan(SEPARATE, tile.order, 1, Estimate(*map(sum, zip(*singles, strict=True))))
        return
    config, rate = tile.config, rates(device, problem.dtype, problem.precision)
    M, N = _inputs(problem, tile.order)
    row_bytes = problem.B * sum_bytes(problem.dtype)
    rows, n_tiles, m_tiles = tiles(problem.B, config["B"]), tiles(N, config["N"]), tiles(M, config["M"])
    for share in split_choices(n_tiles, rows, device.sm_count):
        # One group needs no more than a float32 dx; more of them must fit the workspace.
        groups = tiles(n_tiles, tiles(n_tiles, share))
        if groups > 1 and groups * M * row_bytes > MAX_WORKSPACE_BYTES:
            continue
        for splits in split_choices(m_tiles, rows * groups, device.sm_count):
            if splits == 1 or splits * N * row_bytes <= MAX_WORKSPACE_BYTES:
                predicted = estimate(_work(problem, tile, groups, splits, device), rate)
                yield Plan(config, tile.order, splits, predicted, groups)


def joint_or_separate(problem: GradInputsProblem, plans: Iterable[Plan]) -> Plan:
    """The one that is predicted to cost least: of joint plans or, for few outputs, SEPARATE's."""
    likely = _likely(problem, list(plans))
    joint = [plan for plan in likely if plan.config != SEPARATE]
    separate = [plan for plan in likely if plan.config == SEPARATE]
    return min([cheapest(joint), *separate] if joint else separate, key=lambda plan: plan.estimate.seconds)


def _likely(problem: GradInputsProblem, found: Sequence[_Found]) -> Sequence[_Found]:
    """Of tiles or plans those worth a prediction: joint ones no deeper than L wants, if that fills the depth of a tile.

    A step is three units then. For fewer outputs padding takes what the joint product saves: all of them.
    """
    joint = [each for each in found if each.config != SEPARATE]
    if problem.L < _LEAST_DEPTH or not joint:
        return found
    least = min(padded(problem.L, each.config["L"]) for each in joint)
    return [each for each in joint if padded(problem.L, each.config["L"]) <= 1.25 * least]


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


def _inputs(problem: GradInputsProblem, order: tuple[str, ...]) -> tuple[int, int]:
    """The sizes of the kernel's m and n."""
    return (problem.M, problem.N) if order == ("l", "m", "n") else (problem.N, problem.M)


def _step(config: Config, order: tuple[str, ...], problem: GradInputsProblem, device: DeviceSpec) -> Step:
    _, vector = reads(config, problem, order)
    return product_step(*product_shape(config), config.num_warps, 0, vector, problem, device)


def _work(problem: GradInputsProblem, tile: Tile, groups: int, splits: int, device: DeviceSpec) -> Work:
    config, (step,), item = tile.config, tile.steps, itemsize(problem.dtype)
    M, N = _inputs(problem, tile.order)
    b, depth, m, n = config["B"], config["L"], config["M"], config["N"]
    row_tiles, l_tiles = tiles(problem.B, b), tiles(problem.L, depth)
    n_tiles = -(-tiles(N, n) // groups)
    products = n_tiles * -(-tiles(M, m) // splits)
    epilogue = b * m * n * 4 / 32 + b * (m + n) / 8 + 40 * config.num_warps
    g = 0 if holds_g(config, problem.L) else b * depth
    tile_bytes = l_tiles * (depth * m * n + g) * item + 2 * b * m * sum_bytes(problem.dtype)
    programs = row_tiles * groups * splits
    partial_x, partial_y = groups > 1 or n_tiles > 1, splits > 1
    weight = problem.L * M * N * item
    rereads = min(-(-programs // device.sm_count), row_tiles) if weight > device.l2_bytes else 1
    return Work(
        programs=programs,
        matrix_flops=products * l_tiles * step.flops,
        instructions=products * (l_tiles * step.instructions + epilogue) + PROGRAM_INSTRUCTIONS * config.num_warps,
        l2_bytes=products * tile_bytes,
        dram_bytes=weight * rereads + problem.B * (problem.L + 2 * M + 2 * N) * item,
        workspace_bytes=problem.B * (groups * M * partial_x + splits * N * partial_y) * sum_bytes(problem.dtype),
        launches=1 + partial_x + partial_y,
        # The epilogue waits for the product and the next product for the epilogue.
        waits=products * epilogue,
    )
