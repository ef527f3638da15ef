"""A kernel launch as data: built from tensors and a plan, then run, compiled ahead of time, or looked at in a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..planning import LEAST_COPY, Config, Plan, Problem, loads_ahead
from ..tuning.devices import DeviceSpec
from ..tuning.targets import gpu_target
from .device import interpreting, on_device

# An offset of so many elements needs 64 bits.
BEYOND_32_BITS = 2**31


@dataclass(frozen=True)
class Launch:
    """arguments: every argument of the kernel by name, compile-time constants included.

    options: of the compiler, beside these. plan: the plan that it carries out; None for the second pass of a split.
    """

    kernel: Any
    grid: tuple[int, int]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int
    options: Mapping[str, Any]
    plan: Plan | None = None

    def run(self) -> Any:
        """Runs it. Returns the compiled kernel; None in Triton's interpreter."""
        arguments = self.arguments
        if interpreting():
            # `vectors` relies on strides of 1 being constants of the launch, which they are not in the interpreter.
            arguments = {name: 1 if name.startswith("VEC_") else value for name, value in arguments.items()}
        return self.kernel[self.grid](**arguments, num_warps=self.num_warps, num_stages=self.num_stages, **self.options)


def plan_launch(
    kernel: Any, grid: tuple[int, int], arguments: dict[str, Any], plan: Plan, device: DeviceSpec
) -> Launch:
    """The launch that carries out a plan on a device. RuntimeError for more programs than a grid of it holds."""
    config = plan.config
    most = _most_programs(device, config.num_warps)
    if grid[0] > most:
        raise RuntimeError(f"expected at most {most} tiles of the result on {device.name}, got {grid[0]}")
    return Launch(kernel, grid, arguments, config.num_warps, config.num_stages, compiler_options(device), plan)


def _most_programs(device: DeviceSpec, num_warps: int) -> int:
    """Along a grid's first axis: CUDA counts its programs in 31 bits, HIP its threads in 32."""
    if device.vendor == "nvidia":
        return 2**31 - 1
    return (2**32 - 1) // (gpu_target(device.architecture).warp_size * num_warps)


def compiler_options(device: DeviceSpec) -> dict[str, Any]:
    """What every kernel is compiled with."""
    options: dict[str, Any] = {"enable_fp_fusion": True}
    if device.vendor == "nvidia":
        # Left to itself, ptxas spills a little rather than pass the registers that one more block on the SM would need.
        options["maxnreg"] = 255
    return options


def run(launches: Iterable[Launch], where: Tensor) -> None:
    """Runs the launches in order on the tensor's device."""
    with on_device(where.device):
        for launch in launches:
            launch.run()


def accumulator(tensor: Tensor) -> torch.dtype:
    """The type that sums over this tensor are kept in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def common_constants(plan: Plan, problem: Problem, device: DeviceSpec, spans: Iterable[int]) -> dict[str, Any]:
    """The compile-time constants that every kernel with a matrix product takes.

    spans: of each tensor, the largest distance of an element from where the kernel's 64-bit base points.
    """
    ahead = loads_ahead(plan.config, device, problem, plan.order)
    return {
        **plan.config.constants(),
        **{f"AHEAD_{operand.upper()}": narrow for operand, narrow in ahead.items()},
        "ACC": tl.float64 if problem.dtype == "float64" else tl.float32,
        "PRECISION": problem.precision,
        "WIDE": max(spans) >= BEYOND_32_BITS,
    }


def evens(sizes: Mapping[str, int], config: Config) -> dict[str, bool]:
    """The EVEN_ constants: whether tiles cover a size without a mask."""
    return {f"EVEN_{name}": size % config[name] == 0 for name, size in sizes.items()}


def stride_arguments(name: str, tensor: Tensor, axes: str) -> dict[str, int]:
    """The kernels' arguments for the last axes of a tensor, a letter for each."""
    steps = tensor.stride()[-len(axes) :]
    return {f"stride_{name}{axis}": step for axis, step in zip(axes, steps, strict=True)}


def stride_vector(tensor: Tensor) -> int:
    """The elements of the widest vector that starts at every multiple of the strides, 16 bytes at most."""
    if tensor.data_ptr() % 16:
        return 1
    widest = 16 // tensor.element_size()
    return gcd(widest, *(s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if s != 1 and size > 1))


def size_vector(size: int) -> int:
    """The largest power of two, 16 at most, that divides the size."""
    return gcd(16, size)


def vectors(tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, int]:
    """The VEC_ constants of a kernel's operands and sizes; RUN among these is `Rows.run`, which divides B and B_INNER.

    `kernels.helpers.aligned` makes them visible to the compiler.
    """
    widths = {name: stride_vector(tensor) for name, tensor in tensors.items()}
    widths |= {name: size_vector(size) for name, size in sizes.items()}
    return {f"VEC_{name}": width for name, width in widths.items()}


def unit_axis(tensor: Tensor, names: str) -> tuple[str, int]:
    """The axis (a letter of names) along which the tensor is read in vectors, and their bytes; ("", item) for none.

    Four bytes are the least that a GPU copies to shared memory asynchronously.
    """
    item = tensor.element_size()
    for axis, name in enumerate(names):
        if tensor.stride(axis) == 1 and tensor.shape[axis] > 1:
            width = item * gcd(stride_vector(tensor), size_vector(tensor.shape[axis]))
            return (name, width) if width >= LEAST_COPY else ("", item)
    return "", item


def vector_bytes(tensor: Tensor) -> int:
    """The bytes that a tile (rows, features) of an operand is read with at a time; 16 for a single column.

    Vectors lie along the features, or along the batch's innermost axis: tiles walk the others in steps.
    """
    if tensor.shape[-1] == 1:
        return 16
    inner = max((axis for axis, size in enumerate(tensor.shape[:-1]) if size > 1), default=-1)
    names = "".join("b" if axis in (inner, tensor.dim() - 1) else "s" for axis in range(tensor.dim()))
    name, width = unit_axis(tensor, names)
    return tensor.element_size() if name == "s" else width


def matrix_vector_bytes(tensor: Tensor) -> int:
    """The same of a tile of the last two axes."""
    name, width = unit_axis(tensor, "s" * (tensor.dim() - 2) + "ij")
    return tensor.element_size() if name == "s" else width


def distinct_elements(tensor: Tensor) -> int:
    """How many elements the tensor has, expanded axes counted once."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def span(tensor: Tensor, axes: int) -> int:
    """The largest offset of an element along the last `axes` axes."""
    sizes, strides = tensor.shape[-axes:], tensor.stride()[-axes:]
    return sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
