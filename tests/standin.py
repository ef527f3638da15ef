"""A driver that stands in for a GPU: CPU tensors go through Triton's real launch path, up to the launch itself.

Binding of arguments, specialisation, compilation for the GPU named, and the checks of a launch (shared memory, threads)
are Triton's own; the kernel is recorded instead of run, so outputs keep what they held. Triton must not be
interpreting, which a process decides once: `run_standin` therefore starts one.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_bilinear.tuning.devices import DeviceSpec, find_device
from triton_bilinear.tuning.targets import gpu_target


@dataclass(frozen=True)
class TensorArgument:
    """What a launch passed for a tensor."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # of its first byte from a multiple of 16


@dataclass(frozen=True)
class StandInLaunch:
    """One launch as the driver saw it.

    arguments: by name, compile-time constants included; tensors as TensorArgument. signature: the type that each
    argument was specialised to ("constexpr" for constants). divisible: arguments compiled as multiples of 16.
    """

    kernel: str
    target: str
    grid: tuple[int, int, int]
    num_warps: int
    num_stages: int
    shared_bytes: int
    arguments: dict[str, Any]
    signature: dict[str, str]
    divisible: frozenset[str]


@dataclass(frozen=True)
class StandInRun:
    """What a function returned under the stand-in driver, and what it launched."""

    value: Any
    launches: list[StandInLaunch]


def run_standin(function: str, device: str, *arguments: Any, seconds: float = 300.0) -> StandInRun:
    """Calls a function in a new process where every kernel goes to a stand-in for the device named.

    function: "module:name". device: a name that `find_device` knows. arguments and the value have to be picklable.
    RuntimeError with the process's last words where it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        done = subprocess.run(
            [sys.executable, "-c", "import standin; standin.answer()", str(answer)],
            input=pickle.dumps((function, device, arguments)),
            env=environment,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{function} failed for {device}:\n{done.stderr.decode(errors='replace')[-4000:]}")
        return pickle.loads(answer.read_bytes())


def answer() -> None:
    """The other side of `run_standin`: reads what to do from stdin, writes the answer to the file named."""
    function, device, arguments = pickle.loads(sys.stdin.buffer.read())
    module, _, name = function.partition(":")
    driver = activate(find_device(device))
    value = getattr(importlib.import_module(module), name)(*arguments)
    Path(sys.argv[1]).write_bytes(pickle.dumps(StandInRun(value, driver.launches)))


def activate(device: DeviceSpec) -> StandInDriver:
    """Makes a stand-in for this device Triton's active driver, for the rest of the process."""
    import triton

    driver = StandInDriver(device)
    triton.runtime.driver.set_active(driver)
    return driver


class StandInDriver:
    """The parts of a Triton driver that a launch, and a library that asks for the device, make use of."""

    def __init__(self, device: DeviceSpec) -> None:
        self.device = device
        self.launches: list[StandInLaunch] = []
        self.utils = _Utils(device)

    def launcher_cls(self, source: Any, metadata: Any) -> _Launcher:
        return _Launcher(self, source, metadata)

    def get_current_target(self) -> Any:
        return gpu_target(self.device.architecture)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, number: int) -> None:
        if number != 0:
            raise ValueError(f"the stand-in has one device, not number {number}")

    def get_current_stream(self, number: int) -> int:
        return 0

    def get_device_interface(self) -> _Interface:
        return _Interface(self.device)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")


@dataclass(frozen=True)
class _Interface:
    """The one thing asked of the driver's torch interface: the device's name."""

    device: DeviceSpec

    def get_device_name(self, number: int = 0) -> str:
        return self.device.name


@dataclass(frozen=True)
class _Utils:
    device: DeviceSpec

    def get_device_properties(self, number: int) -> dict[str, Any]:
        return {
            "max_shared_mem": self.device.shared_memory,
            "max_num_regs": 65536,
            "multiprocessor_count": self.device.sm_count,
            "warpSize": gpu_target(self.device.architecture).warp_size,
            "sm_clock_rate": int(self.device.clock_hz / 1e3),
            "mem_clock_rate": 0,
            "mem_bus_width": 0,
            "arch": self.device.architecture,
        }

    def load_binary(self, name: str, binary: bytes, shared: int, number: int) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills and the threads that a block may have."""
        return 0, 0, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        pass


class _Launcher:
    """Made once for a compiled kernel, called once for each launch."""

    def __init__(self, driver: StandInDriver, source: Any, metadata: Any) -> None:
        self._driver, self._source, self._metadata = driver, source, metadata

    def __call__(self, x: int, y: int, z: int, stream: int, function: int, packed: Any, *rest: Any) -> None:
        names = self._source.fn.arg_names
        hooks, values = rest[: len(rest) - len(names)], rest[len(rest) - len(names) :]
        if len(hooks) != 3:
            raise TypeError(f"expected launch metadata, two hooks and {len(names)} arguments, got {len(rest)} values")
        if min(x, y, z) < 1 or x >= 2**31 or max(y, z) >= 2**16:
            raise ValueError(f"no GPU launches a grid of {(x, y, z)}")
        self._driver.launches.append(
            StandInLaunch(
                kernel=self._source.fn.__name__,
                target=self._driver.device.architecture,
                grid=(x, y, z),
                num_warps=self._metadata.num_warps,
                num_stages=self._metadata.num_stages,
                shared_bytes=self._metadata.shared,
                arguments={name: _plain(value) for name, value in zip(names, values, strict=True)},
                signature=dict(self._source.signature),
                divisible=frozenset(
                    names[path[0]] for path, notes in self._source.attrs.items() if ["tt.divisibility", 16] in notes
                ),
            )
        )


def _plain(value: Any) -> Any:
    if not hasattr(value, "data_ptr"):
        return value
    return TensorArgument(
        str(value.dtype).removeprefix("torch."), tuple(value.shape), tuple(value.stride()), value.data_ptr() % 16
    )
