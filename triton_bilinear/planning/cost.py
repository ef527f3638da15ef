"""The machine model: how long a launch takes on a device, each term visible.

A prediction, never a measurement. One program of the launch runs on one SM at a time in the model. What the matrix
unit, the instruction slots, the L2 cache and the memory need overlaps, but not without loss: the time is the 3-norm of
the four. The programs of a launch come in waves.
"""

from __future__ import annotations

from typing import NamedTuple

from ..tuning.devices import DeviceSpec
from ..tuning.targets import asynchronous_unit
from .problem import Problem, itemsize

LAUNCH_SECONDS = 3e-6
PROGRAM_INSTRUCTIONS = 450  # of each warp, before and behind a program's loop
PROGRAM_SECONDS = 1e-6  # start, first loads and drain of a program: latency that no other program hides in one wave
ISSUE_SLOTS = 4  # warp instructions an SM issues in a clock
L2_BYTES_PER_CLOCK = 40  # an SM's share of the L2 cache's bandwidth
MATRIX_EFFICIENCY = 0.8  # share of the matrix peak that a pipelined loop of large tiles reaches


class Work(NamedTuple):
    """What a launch does. Per program: matrix-unit FLOPs, warp instructions, bytes read through L2; the rest in all.

    waits: those of a program's instructions that the matrix unit waits for.
    workspace_bytes: the size of what one launch writes and the next one reads.
    """

    programs: int
    matrix_flops: float
    instructions: float
    l2_bytes: float
    dram_bytes: float
    launches: int = 1
    waits: float = 0.0
    workspace_bytes: float = 0.0


class Estimate(NamedTuple):
    """Predicted seconds, the total and its terms; matrix-unit FLOPs, padding included; bytes through device memory."""

    seconds: float
    matrix: float
    issue: float
    l2: float
    dram: float
    launch: float
    waves: int
    matrix_flops: float
    dram_bytes: float


class Rates(NamedTuple):
    """What a device does in a second: an SM's matrix FLOPs, warp instructions and bytes through L2; the memory's bytes.

    cached_bytes: of a workspace that is still in the L2 cache when it is read.
    """

    sm_count: int
    flops: float
    instructions: float
    l2_bytes: float
    dram_bytes: float
    cached_bytes: float


def rates(device: DeviceSpec, dtype: str, precision: str) -> Rates:
    """Of products of this dtype at this precision."""
    return Rates(
        sm_count=device.sm_count,
        flops=matrix_rate(device, dtype, precision) * MATRIX_EFFICIENCY / device.sm_count,
        instructions=ISSUE_SLOTS * device.clock_hz,
        l2_bytes=L2_BYTES_PER_CLOCK * device.clock_hz,
        dram_bytes=device.memory_bandwidth,
        cached_bytes=device.l2_bytes / 2,
    )


def matrix_rate(device: DeviceSpec, dtype: str, precision: str) -> float:
    """FLOP/s of the device's fastest unit for products of this dtype at this precision."""
    if dtype == "float32":
        if precision == "ieee":
            return device.fp32_flops
        return device.matrix_flops["tf32"] / (3 if precision == "tf32x3" else 1)
    return device.matrix_flops.get(dtype, device.fp32_flops / (64 if dtype == "float64" else 1))


def uses_matrix_unit(device: DeviceSpec, dtype: str, precision: str) -> bool:
    """Whether products of this dtype and precision run on matrix instructions rather than on scalar ones."""
    return (dtype != "float32" or precision != "ieee") and (dtype != "float64" or "float64" in device.matrix_flops)


def estimate(work: Work, rates: Rates) -> Estimate:
    """Seconds of a launch and its second pass, if any."""
    waves = -(-work.programs // rates.sm_count)
    matrix = waves * (work.matrix_flops / rates.flops + work.waits / rates.instructions)
    issue = waves * work.instructions / rates.instructions
    l2 = waves * work.l2_bytes / rates.l2_bytes
    # The next launch waits for a workspace, and reads it again: a small one from the L2 cache, a large one from memory.
    lost = work.workspace_bytes * min(1.0, max(0.0, work.workspace_bytes / rates.cached_bytes - 1))
    again_l2 = (work.workspace_bytes - lost) / (rates.sm_count * rates.l2_bytes)
    again_dram = lost / rates.dram_bytes
    l2 += again_l2
    dram = work.dram_bytes / rates.dram_bytes + again_dram
    launch = work.launches * LAUNCH_SECONDS + PROGRAM_SECONDS
    overlapped = (matrix**3 + issue**3 + l2**3 + dram**3) ** (1 / 3)
    return Estimate(
        seconds=overlapped + again_l2 + again_dram + launch,
        matrix=matrix,
        issue=issue,
        l2=l2 + again_l2,
        dram=dram + again_dram,
        launch=launch,
        waves=waves,
        matrix_flops=work.programs * work.matrix_flops,
        dram_bytes=work.dram_bytes + 2 * lost,
    )


def floor_seconds(
    device: DeviceSpec, dtype: str, precision: str, flops: float, dram_bytes: float
) -> tuple[float, float]:
    """The two lower bounds of an operation: useful FLOPs over the full rate, bytes over the full bandwidth."""
    return flops / matrix_rate(device, dtype, precision), dram_bytes / device.memory_bandwidth


def padded(size: int, block: int) -> int:
    """The size rounded up to whole tiles."""
    return -(-size // block) * block


def tiles(size: int, block: int) -> int:
    """How many tiles cover the size."""
    return -(-size // block)


class Step(NamedTuple):
    """One step of a kernel's loop: FLOPs and warp instructions of all warps."""

    flops: float
    instructions: float


def product_step(
    rows: int,
    columns: int,
    depth: int,
    num_warps: int,
    product: int,
    vector: int,
    problem: Problem,
    device: DeviceSpec,
    product_cost: float = 4.0,
) -> Step:
    """A step that multiplies tiles (rows, depth) and (depth, columns).

    product: elements of the left operand that are made in registers rather than loaded, at `product_cost` instructions
    for 32 pairs of 16 bits. vector: the bytes that operands are read with at a time. The coefficients are read off
    compiled loops; good to a third.
    """
    item, flops = itemsize(problem.dtype), 2.0 * rows * columns * depth
    if not uses_matrix_unit(device, problem.dtype, problem.precision):
        matrix = flops / 64
    elif asynchronous_unit(device.architecture) is not None and rows >= 64:
        matrix = 4.0 * num_warps
    else:
        matrix = 1.5 * flops / (4096 if item == 2 else 2048)
    elements = depth * (columns + (0 if product else rows))
    loads = 3 * elements * item / (32 * vector)
    return Step(flops, matrix + product_cost * product * item / 128 + loads + 60 * num_warps)
