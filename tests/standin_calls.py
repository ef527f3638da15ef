"""What test_standin.py runs in a process of its own."""

from collections.abc import Callable

import small_kernels
import torch
import triton

from triton_bilinear import bilinear, use_backend
from triton_bilinear.tuning.devices import DeviceSpec, device_from_properties


def describe_device() -> DeviceSpec:
    """The spec that the library makes of what the driver says."""
    driver = triton.runtime.driver.active
    return device_from_properties(driver.get_current_target(), driver.utils.get_device_properties(0))


def launch_good_and_bad() -> dict[str, str]:
    """Two launches that a GPU takes and two that it refuses; the errors of those by name."""
    small_kernels.launch_product(16, 16, 16, 16)
    errors = {
        "memory": _error(lambda: small_kernels.launch_product(128, 128, 512, 128, torch.float32, num_stages=4)),
        "grid": _error(lambda: small_kernels.adding_kernel[(1, 70000)](torch.zeros(1))),
    }
    small_kernels.launch_product(32, 48, 16, 16)
    return errors


def _error(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def training_steps(steps: list[tuple[tuple[int, int, int, int], bool, tuple[str, ...]]]) -> None:
    """Forward and backward of each (shape, bias, gradients wanted) in float16."""
    for (B, L, M, N), bias, gradients in steps:
        sizes = {"x": (B, M), "y": (B, N), "weight": (L, M, N), "bias": (L,)}
        tensors = {
            name: torch.zeros(size, dtype=torch.float16) for name, size in sizes.items() if bias or name != "bias"
        }
        wanted = [tensor.requires_grad_() for name, tensor in tensors.items() if name in gradients]
        with use_backend("triton"):
            out = bilinear(**tensors)
            if wanted:
                torch.autograd.grad(out, wanted, torch.zeros_like(out))
