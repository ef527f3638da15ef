"""The kernels of a step compiled for a GPU: launches to requests, requests to reports."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import triton.language as tl
from torch import Tensor

from ..gpu.launch import Launch
from ..tuning.compiler import CompileRequest, CompileResult, argument_type, kernel_name
from ..tuning.devices import DeviceSpec
from ..tuning.pool import CompilerPool
from .problem import StepProblem
from .step import StepOp, step_ops

_TWO_GB = 2**31


class DeviceLaunch(Protocol):
    """A launch, and the device that it is for."""

    @property
    def device(self) -> DeviceSpec: ...

    @property
    def launch(self) -> Launch: ...


@dataclass(frozen=True)
class StepLaunch:
    """One launch of a step of a problem on a GPU, and the op and the plan that it belongs to."""

    device: DeviceSpec
    problem: StepProblem
    op: StepOp
    launch: Launch

    @property
    def first(self) -> bool:
        """Whether this is the op's product, not a second pass."""
        return self.launch.plan is not None

    @property
    def origin(self) -> str:
        """Where the op's plan comes from: "measured", "predicted" or "safe"."""
        return self.op.plan.origin

    @property
    def bytes_moved(self) -> int:
        """Bytes through device memory by the planner's model, second passes included and counted with the product."""
        return round(self.op.plan.estimate.dram_bytes) if self.first else 0


def step_launches(problem: StepProblem, device: DeviceSpec) -> list[StepLaunch]:
    """Every launch of the step, in order."""
    return [StepLaunch(device, problem, op, launch) for op in step_ops(problem, device) for launch in op.launches]


def compile_request(launch: Launch, device: DeviceSpec) -> CompileRequest:
    """What the launch would have Triton compile on this device."""
    tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
    return CompileRequest(
        kernel_name(launch.kernel),
        device.architecture,
        launch.arguments,
        launch.num_warps,
        launch.num_stages,
        options=launch.options,
        below_2gb=all(tensor.untyped_storage().nbytes() < _TWO_GB for tensor in tensors),
    )


def compile_launches(
    launches: Sequence[DeviceLaunch], pool: CompilerPool, progress: Callable[[int, int], Any] | None = None
) -> list[CompileResult]:
    """A result for each launch; launches that compile to the same kernel are compiled once."""
    requests = [compile_request(each.launch, each.device) for each in launches]
    keys = [_key(each.launch, request) for each, request in zip(launches, requests, strict=True)]
    unique = dict(zip(keys, requests, strict=True))
    results = dict(zip(unique, pool.compile_many(list(unique.values()), progress), strict=True))
    return [results[key] for key in keys]


def parameters(launch: Launch, request: CompileRequest) -> dict[str, str]:
    """The arguments that the compiled kernel takes, in its order, with their types ("*bf16:16", "i32:16", ...)."""
    types = {
        name: argument_type(request.arguments[name])
        for name, parameter in inspect.signature(launch.kernel.fn).parameters.items()
        if parameter.annotation is not tl.constexpr
    }
    return {name: kind for name, kind in types.items() if kind != "constexpr"}


def constants(launch: Launch, request: CompileRequest) -> dict[str, Any]:
    """The arguments that are compiled in, sizes and strides of 1 among them."""
    passed = parameters(launch, request)
    return {name: value for name, value in request.arguments.items() if name not in passed}


def _key(launch: Launch, request: CompileRequest) -> tuple[Any, ...]:
    """What decides the compiled kernel."""
    taken = tuple(parameters(launch, request).items())
    built_in = tuple((name, str(value)) for name, value in sorted(constants(launch, request).items()))
    options = (request.num_warps, request.num_stages, request.below_2gb, *sorted(request.options.items()))
    return request.kernel, request.target, *options, taken, built_in
