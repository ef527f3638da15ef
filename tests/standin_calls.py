"""What tests run in a process of its own under the stand-in driver."""

from collections.abc import Callable
from types import SimpleNamespace

import small_kernels
import standin
import torch
import triton

from triton_bilinear import bilinear, bilinear_form, pairwise_bilinear, use_backend
from triton_bilinear.gpu.device import device_of
from triton_bilinear.tuning.devices import DeviceSpec, device_from_properties, find_device


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


def train(dtype: torch.dtype, sizes: tuple[int, int, int, int]) -> None:
    """Forward and backward of bilinear, with x stored features first."""
    B, L, m, n = sizes
    x, y, weight, bias = (torch.zeros(shape, dtype=dtype) for shape in ((m, B), (B, n), (L, m, n), (L,)))
    _step(bilinear, x.T, y, weight, bias)


def train_form_and_pairs(dtype: torch.dtype) -> None:
    """Forward and backward of bilinear_form and of pairwise_bilinear."""
    x, y, weight = (torch.zeros(shape, dtype=dtype) for shape in ((300, 40), (300, 72), (2, 40, 72)))
    _step(bilinear_form, x, y, weight[0])
    _step(pairwise_bilinear, x.view(3, 100, 40), y.view(3, 100, 72), weight, torch.zeros(2, dtype=dtype))


def _step(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> None:
    leaves = [tensor.requires_grad_() for tensor in tensors]
    with use_backend("triton"):
        result = function(*leaves)
        torch.autograd.grad(result, leaves, torch.zeros_like(result))


def float32_precisions(settings: list[str]) -> list[str]:
    """The precision of the products that bilinear launches, after each of these statements."""
    found = []
    for statement in settings:
        exec(statement, {"torch": torch})
        before = len(triton.runtime.driver.active.launches)
        with use_backend("triton"):
            bilinear(torch.zeros(64, 32), torch.zeros(64, 32), torch.zeros(64, 32, 32))
        found.append(triton.runtime.driver.active.launches[before].arguments["PRECISION"])
    return found


def switch_devices(names: list[str]) -> list[DeviceSpec]:
    """The device that the library sees as one driver after another becomes active."""
    specs = []
    for name in names:
        standin.activate(find_device(name))
        specs.append(device_of(torch.zeros(1)))
    return specs


def train_on_a_driver_of_few_words() -> tuple[DeviceSpec, list[standin.StandInLaunch]]:
    """A training step where the driver knows neither its device's name nor a clock."""
    driver = triton.runtime.driver.active
    few = {
        name: driver.utils.get_device_properties(0)[name]
        for name in ("max_shared_mem", "multiprocessor_count", "warpSize")
    }
    driver.utils = SimpleNamespace(get_device_properties=lambda number: few, load_binary=driver.utils.load_binary)
    reticent = Reticent(driver)
    triton.runtime.driver.set_active(reticent)
    train(torch.float16, (300, 64, 40, 72))
    return device_of(torch.zeros(1)), driver.launches


class Reticent:
    """A driver without `get_device_interface`."""

    def __init__(self, driver: standin.StandInDriver) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> object:
        if name == "get_device_interface":
            raise AttributeError(name)
        return getattr(self._driver, name)


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


def repeated_steps() -> list[list[standin.StandInLaunch]]:
    """What two steps with tensors of one layout launch, and one whose x begins elsewhere; a second pass among it."""
    launches = triton.runtime.driver.active.launches
    found = []
    for offset in (0, 0, 1):
        before = len(launches)
        x = torch.zeros(8000 * 40 + offset, dtype=torch.float16)[offset:].view(8000, 40)
        with use_backend("triton"):
            _step(bilinear, x, *(torch.zeros(shape).half() for shape in ((8000, 24), (16, 40, 24), (16,))))
        found.append(launches[before:])
    return found
