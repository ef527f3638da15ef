"""Plans for out[i, p] = sum_qr u[i, q] v[i, r] T[p, q, r]: the forward pass and single gradients of x or y."""

from __future__ import annotations

from collections.abc import Iterator

from ..tuning.devices import DeviceSpec
from .choice import choose, remembered
from .config import Config, product_shape
from .cost import PROGRAM_INSTRUCTIONS, Step, Work, estimate, product_step, rates, tiles
from .limits import legal, may_split
from .menu import choices
from .plan import MAX_WORKSPACE_BYTES, Plan, Tile, split_choices
from .problem import ContractProblem, itemsize, of_one_row, sum_bytes
from .reads import reads


@remembered
def plan_contract(problem: ContractProblem, device: DeviceSpec) -> Plan:
    """The stored plan, or the cheapest by the model. u and v may change places: the axis q of T with the axis r."""
    return choose(problem, device, legal_tiles(of_one_row(problem), device), plans_with)


@remembered
def legal_tiles(problem: ContractProblem, device: DeviceSpec) -> tuple[Tile, ...]:
    """What the device takes, whatever the rows."""
    orders = (("p", "q", "r"),) if problem.keep else (("p", "q", "r"), ("p", "r", "q"))
    kernels = ("project",) if problem.keep else ("khatri_rao", "project")
    return tuple(
        Tile(config, order, (_step(config, order, problem, device),))
        for order in orders
        for kernel in kernels
        for config in choices(kernel, problem.dtype, problem.precision, problem.vector)
        if legal(config, device, problem, order)
    )


def plans_with(tile: Tile, problem: ContractProblem, device: DeviceSpec) -> Iterator[Plan]:
    """A tile's plans."""
    config, rate = tile.config, rates(device, problem.dtype, problem.precision)
    Q, R = _contracted(problem, tile.order)
    steps = tiles(R, config["R"]) * (tiles(Q, config["Q"]) if config.kernel == "khatri_rao" else 1)
    programs = tiles(problem.B, config["B"]) * tiles(problem.P, config["P"])
    for splits in split_choices(steps, programs, device.sm_count):
        partial = splits * problem.B * problem.P * sum_bytes(problem.dtype)
        if splits == 1 or (partial <= MAX_WORKSPACE_BYTES and may_split(config, device, problem)):
            yield Plan(config, tile.order, splits, estimate(_work(problem, tile, splits, device), rate))


def _contracted(problem: ContractProblem, order: tuple[str, ...]) -> tuple[int, int]:
    """The sizes of the kernel's q and r."""
    return (problem.Q, problem.R) if order == ("p", "q", "r") else (problem.R, problem.Q)


def _step(config: Config, order: tuple[str, ...], problem: ContractProblem, device: DeviceSpec) -> Step:
    made = config["B"] * config["Q"] * config["R"] if config.kernel == "khatri_rao" else 0
    _, vector = reads(config, problem, order)
    return product_step(*product_shape(config), config.num_warps, made, vector, problem, device)


def _work(problem: ContractProblem, tile: Tile, splits: int, device: DeviceSpec) -> Work:
    config, (step,), item = tile.config, tile.steps, itemsize(problem.dtype)
    Q, R = _contracted(problem, tile.order)
    b, p, q, r = config["B"], config["P"], config["Q"], config["R"]
    row_tiles = tiles(problem.B, b)
    programs = row_tiles * tiles(problem.P, p) * splits
    instructions: float = PROGRAM_INSTRUCTIONS * config.num_warps
    if config.kernel == "khatri_rao":
        steps = -(-tiles(Q, q) * tiles(R, r) // splits)
        left = b * (q + r)
    else:
        dots = -(-tiles(R, r) // splits)
        steps, left = dots * tiles(Q, q), b * q
        instructions += dots * 7 * b * p * r / 32
    weight = problem.P * Q * R * item
    rereads = -(-programs // device.sm_count) if weight > device.l2_bytes else 1
    kept = problem.B * problem.P * R * item if problem.keep else 0
    return Work(
        programs=programs,
        matrix_flops=steps * step.flops,
        instructions=steps * step.instructions + instructions,
        l2_bytes=steps * (p * q * r + left) * item,
        dram_bytes=weight * min(rereads, row_tiles) + problem.B * (Q + R + problem.P) * item + kept,
        workspace_bytes=splits * problem.B * problem.P * sum_bytes(problem.dtype) if splits > 1 else 0,
        launches=1 + (splits > 1),
    )
