"""A kernel launch as data: built from tensors and a plan, then run, compiled ahead of time, or looked at in a test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..planning import Config

# Beyond this many elements an offset needs 64 bits.
_WIDE = 2**31


@dataclass(frozen=True)
class Launch:
    """arguments: every argument of the kernel by name, compile-time constants included."""

    kernel: Any
    grid: tuple[int, int]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        self.kernel[self.grid](
            **self.arguments, num_warps=self.num_warps, num_stages=self.num_stages, enable_fp_fusion=True
        )


def run(launches: Iterable[Launch], where: Tensor) -> None:
    """Runs the launches in order on the tensor's device."""
    if where.device.type == "cpu":
        for launch in launches:
            launch.run()
        return
    with torch.accelerator.device_index(where.device.index):
        for launch in launches:
            launch.run()


def accumulator(tensor: Tensor) -> torch.dtype:
    """The type that sums over this tensor are kept in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def common_constants(config: Config, tensors: Iterable[Tensor], precision: str) -> dict[str, Any]:
    """The compile-time constants that every kernel with a matrix product takes."""
    tensors = list(tensors)
    return {
        **config.constants(),
        "ACC": tl.float64 if tensors[0].dtype == torch.float64 else tl.float32,
        "PRECISION": precision,
        "WIDE": any(_span(tensor) >= _WIDE for tensor in tensors),
    }


def even(size: int, block: int) -> bool:
    """Whether tiles of this block cover the size without a mask."""
    return size % block == 0


def unit_axis(tensor: Tensor, names: str) -> str:
    """The axis (one letter of names each) along which the tensor can be read 16 bytes at a time, or ""."""
    run = 16 // tensor.element_size()
    if tensor.data_ptr() % 16 or tensor.storage_offset() % run:
        return ""
    for axis, name in enumerate(names):
        others = [s for i, s in enumerate(tensor.stride()) if i != axis and tensor.shape[i] > 1]
        if tensor.stride(axis) == 1 and tensor.shape[axis] > 1 and all(s % run == 0 for s in others):
            return name
    return ""


def _span(tensor: Tensor) -> int:
    """The largest offset of an element, plus one."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
