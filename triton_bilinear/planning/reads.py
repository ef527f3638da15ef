"""How a kernel reads the tiles of its operands: in which vectors, and which of them a step ahead."""

from __future__ import annotations

from ..tuning.devices import DeviceSpec
from .config import Config, product_shape
from .problem import ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Problem, itemsize

# The bytes at a time that a GPU copies to shared memory asynchronously, at least.
LEAST_COPY = 4


def reads(config: Config, problem: Problem, order: tuple[str, ...]) -> tuple[int, int]:
    """The bytes in which the left and the right operand of the tile's product are read at a time."""
    match problem:
        case ContractProblem() | GradInputsProblem():
            axes = "pqr" if isinstance(problem, ContractProblem) else "lmn"
            unit = axes[order.index(problem.unit)] if problem.unit else ""
            item = itemsize(problem.dtype)
            keeps = _keeps_vectors(config, unit, problem.vector // item)
            return problem.row_vector, problem.vector if keeps else item
        case GradWeightProblem():
            p, q, r = (problem.vectors["pqr".index(axis)] for axis in order)
            return min(p, q), r
        case ChainProblem():
            return problem.vector, problem.vector


def _keeps_vectors(config: Config, unit: str, run: int) -> bool:
    """Whether a tile holds whole vectors (`run` elements) along the weight's axis (the kernel's name) with stride 1."""
    match config.kernel:
        case _ if unit == "":
            return False
        case "grad_inputs":
            return unit != "m"
        case "khatri_rao":
            return unit != "q" and config[unit.upper()] >= run
        case _:
            # A flat tile (p, r) is stored with r running fastest.
            return unit != "p" and config[unit.upper()] >= run


def loads_ahead(config: Config, device: DeviceSpec, problem: Problem, order: tuple[str, ...]) -> dict[str, bool]:
    """Of each operand (the kernel's name), whether its tiles are loaded into registers a step ahead of their product.

    So are those that the GPU cannot copy to shared memory asynchronously. For GPUs that copy nothing so, the compiler
    loads every tile ahead by itself.
    """
    size, (left, right) = dict(config.blocks), reads(config, problem, order)
    rows, columns, depth = product_shape(config)
    match problem:
        case ContractProblem() if config.kernel == "khatri_rao":
            tiles = {"u": (rows * size["Q"], left), "v": (rows * size["R"], left), "t": (depth * columns, right)}
        case ContractProblem():
            tiles = {"u": (rows * depth, left), "t": (depth * columns, right)}
        case GradInputsProblem():
            tiles = {"g": (rows * depth, left), "a": (depth * columns, right)}
        case GradWeightProblem():
            vectors = (problem.vectors["pqr".index(axis)] for axis in order)
            tiles = {
                name: (depth * size[axis], vector) for name, axis, vector in zip("abc", "PQR", vectors, strict=True)
            }
        case ChainProblem():
            tiles = {"p": (size["A"] * size["E"], left), "q": (size["E"] * size["C"], right)}
    item = itemsize(problem.dtype)
    return {
        name: _cannot_be_copied(elements, vector, item, config, device) for name, (elements, vector) in tiles.items()
    }


def _cannot_be_copied(elements: int, vector: int, item: int, config: Config, device: DeviceSpec) -> bool:
    """Whether a tile is too small or too narrow for a GPU that copies others to shared memory asynchronously."""
    if device.vendor == "nvidia":
        # Rows may lie too narrow for a copy, or a thread load a single 16-bit element, as of a tile of one column.
        return min(vector, elements_of_a_thread(elements, config) * item) < LEAST_COPY
    # On gfx950 every thread copies, and never 8 bytes: the compiler fails where it would have to. Others never copy.
    return device.architecture == "gfx950" and (elements < 64 * config.num_warps or item == 8)


def elements_of_a_thread(elements: int, config: Config) -> int:
    """How many of a tile's elements a thread loads."""
    return max(1, elements // (32 * config.num_warps))
