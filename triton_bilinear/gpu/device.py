"""The device that Triton's active driver serves, as the planner wants it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from ..tuning.devices import DeviceSpec, device_from_properties, find_device

# The interpreter has no device of its own. It runs the plans of this one with a single SM, so in few and large
# programs: an interpreted step takes milliseconds, whatever the tile.
_INTERPRETED_DEVICE = "NVIDIA A100-SXM4-80GB"


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return bool(triton.knobs.runtime.interpret)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which launches go to this device."""
    return nullcontext() if device.type == "cpu" else torch.accelerator.device_index(device.index)


def device_of(tensor: Tensor) -> DeviceSpec:
    """The spec of the device that will run kernels over this tensor."""
    if interpreting():
        return _interpreted_device()
    return _device_of_driver(triton.runtime.driver.active, tensor.device)


@lru_cache(maxsize=1)
def _interpreted_device() -> DeviceSpec:
    return replace(find_device(_INTERPRETED_DEVICE), name="Triton's interpreter", sm_count=1)


@lru_cache(maxsize=64)
def _device_of_driver(driver: Any, device: torch.device) -> DeviceSpec:
    """Asks Triton's driver, not torch.cuda, so that a driver of another kind (a stand-in too) is served."""
    with on_device(device):  # the driver tells the architecture of the current one
        number = driver.get_current_device() if device.index is None else device.index
        return device_from_properties(driver.get_current_target(), driver.utils.get_device_properties(number), number)


def float32_precision(tensor: Tensor, device: DeviceSpec) -> str:
    """`tl.dot`'s input_precision for this dtype, under torch's own setting for float32 products.

    Full precision is the default, by whichever of plain float32 and three tf32 products the device does faster. Of the
    setting's several names fp32_precision is read: it holds what was set by any of them, where allow_tf32 may raise.
    """
    if tensor.dtype != torch.float32 or "tf32" not in device.matrix_flops:
        return "ieee"
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3" if device.vendor == "nvidia" and device.matrix_flops["tf32"] / 3 > device.fp32_flops else "ieee"
