"""What a tile needs of a device, and whether the device has it: the legality predicate of planner, sweep and tests."""

from __future__ import annotations

from ..tuning.devices import DeviceSpec
from .config import Config
from .problem import itemsize

_ACCUMULATOR_REGISTERS = 128  # of a thread: more leave no room for the operands
_THREAD_REGISTERS = 255


def asynchronous_unit(config: Config, device: DeviceSpec, dtype: str) -> bool:
    """Whether the matrix unit reads this tile's operands from shared memory by itself (wgmma, tcgen05)."""
    return (
        device.architecture in ("sm_90", "sm_100")
        and dtype in ("float16", "bfloat16", "float32")
        and product_shape(config)[0] >= 64
    )


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
    streamed = config.num_stages if asynchronous_unit(config, device, dtype) else waiting
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
    threads = 32 * config.num_warps
    if accumulators(config, dtype) > _ACCUMULATOR_REGISTERS:
        return False
    if threads * min(2 * accumulators(config, dtype) + 40, _THREAD_REGISTERS) > device.registers_per_sm:
        return False
    return shared_bytes(config, device, dtype, held) <= device.shared_memory
