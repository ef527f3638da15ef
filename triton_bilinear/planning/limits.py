"""What a tile needs of a device, and whether the device has it: the legality predicate of planner, sweep and tests."""

from __future__ import annotations

from ..tuning.devices import DeviceSpec
from .config import Config
from .problem import itemsize

# Accumulator registers that a thread can have before something is spilt, read off compiled kernels: an asynchronous
# unit takes its operands from shared memory, tcgen05 keeps accumulators in a memory of its own until the epilogue wants
# them all, and the others hold fragments of both operands in registers too.
_ACCUMULATORS = {
    "khatri_rao": {"mma": 64, "wgmma": 64, "tcgen05": 128},
    "project": {"mma": 72, "wgmma": 80, "tcgen05": 72},
    "grad_inputs": {"mma": 64, "wgmma": 80, "tcgen05": 64},
    "grad_weight": {"mma": 64, "wgmma": 128, "tcgen05": 128},
    "chain": {"mma": 96, "wgmma": 96, "tcgen05": 96},
}


def matrix_unit(config: Config, device: DeviceSpec, dtype: str) -> str:
    """How the device multiplies this tile: "wgmma", "tcgen05" (both asynchronous), or "mma" for all else."""
    unit = {"sm_90": "wgmma", "sm_100": "tcgen05"}.get(device.architecture, "mma")
    return unit if dtype != "float64" and product_shape(config)[0] >= 64 else "mma"


def product_shape(config: Config) -> tuple[int, int, int]:
    """(rows, columns, depth) of the tile's matrix product."""
    size = dict(config.blocks)
    match config.kernel:
        case "khatri_rao":
            return size["B"], size["P"], size["Q"] * size["R"]
        case "project":
            return size["B"], size["P"] * size["R"], size["Q"]
        case "grad_inputs":
            return size["B"], size["M"] * size["N"], size["L"]
        case "grad_weight":
            return size["P"] * size["Q"], size["R"], size["B"]
        case _:
            return size["A"], max(size["D"], size["C"]), max(size["C"], size["E"])


def accumulators(config: Config, dtype: str) -> int:
    """Accumulator registers of a thread, with what lives beside them through the whole loop."""
    size = dict(config.blocks)
    rows, columns, _ = product_shape(config)
    elements = rows * columns
    if config.kernel == "grad_inputs":
        elements += 2 * rows * size["N"]  # y and the growing dy
    elif config.kernel == "project":
        elements += rows * size["P"]
    elif config.kernel == "chain":
        elements = size["A"] * (size["C"] + size["D"])
    return elements * max(4, itemsize(dtype)) // 4 // (32 * config.num_warps)


def shared_bytes(config: Config, device: DeviceSpec, dtype: str, held: bool = False) -> int:
    """Shared memory of the software-pipelined tile, as the compiler lays it out.

    An operand that an asynchronous matrix unit reads has a buffer for each stage; one that passes through registers, or
    that the unit does not fetch itself, has one less. held: g is loaded once and kept (grad_inputs).
    """
    size, item = dict(config.blocks), itemsize(dtype)
    rows, columns, depth = product_shape(config)
    waiting = max(config.num_stages - 1, 1)
    streamed = waiting if matrix_unit(config, device, dtype) == "mma" else config.num_stages
    right = depth * columns * item
    match config.kernel:
        case "khatri_rao":
            return right * streamed + rows * (size["Q"] + size["R"]) * item * waiting
        case "grad_weight":
            return right * streamed + depth * (size["P"] + size["Q"]) * item * waiting
        case "grad_inputs" if held:
            return right * streamed + rows * depth * item + 4 * rows * size["N"] // 8
        case "chain":
            inner = size["E"] * (size["A"] + size["C"]) * item
            return inner * streamed + size["C"] * size["D"] * item + size["A"] * size["C"] * item
        case _:
            return (right + rows * depth * item) * streamed


def holds_g(config: Config, L: int) -> bool:
    """Whether grad_inputs keeps all of g's columns on chip with this tile."""
    return config["L"] >= L


def legal(config: Config, device: DeviceSpec, dtype: str, held: bool = False) -> bool:
    """Whether the device has the registers and the shared memory that the tile needs."""
    if accumulators(config, dtype) > _ACCUMULATORS[config.kernel][matrix_unit(config, device, dtype)]:
        return False
    return shared_bytes(config, device, dtype, held) <= device.shared_memory
