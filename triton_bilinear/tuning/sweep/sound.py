"""What the compiler says of a plan's kernels: whether they are fit to be stored for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...gpu.launch import Launch
from ...inspection.compiled import compile_launches
from ...planning import Plan
from ...planning.config import product_shape
from ..compiler import CompileFailure, CompileResult
from ..devices import DeviceSpec
from ..pool import CompilerPool
from ..targets import expected_matrix_class
from .task import Task


@dataclass(frozen=True)
class _TaskLaunch:
    device: DeviceSpec
    launch: Launch


def compile_plans(
    plans: Sequence[tuple[Task, Plan]], pool: CompilerPool, progress: Callable[[int, int], Any] | None = None
) -> list[list[str]]:
    """For each plan what is wrong with its kernels, compiled for its task's device; nothing for a sound one."""
    made = [(task, task.launches(plan)) for task, plan in plans]
    flat = [_TaskLaunch(task.device, launch) for task, launches in made for launch in launches]
    results = iter(compile_launches(flat, pool, progress))
    return [
        [fault for launch in launches for fault in faults(launch, next(results), task.device, task.problem.dtype)]
        for task, launches in made
    ]


def faults(launch: Launch, result: CompileResult, device: DeviceSpec, dtype: str) -> list[str]:
    """What is wrong with a launch's kernel, compiled for the device; nothing with a sound one. dtype: torch's name."""
    if isinstance(result, CompileFailure):
        return [f"does not compile: {result.error.strip().splitlines()[-1]}"]
    found = []
    # AMD's compiler asks for a few bytes of stack at times where it spills no vector register.
    if result.stack_bytes if device.vendor == "nvidia" else result.spills:
        found.append(f"{result.stack_bytes} bytes of stack, {result.spills} spills, {result.registers} registers")
    if result.shared_bytes > device.shared_memory:
        found.append(f"{result.shared_bytes} bytes of shared memory of {device.shared_memory}")
    wanted = _matrix_class(launch, device, dtype)
    if wanted is not None and wanted not in result.matrix_classes:
        found.append(f"no {wanted} instructions but {result.matrix_instructions}")
    return found


def _matrix_class(launch: Launch, device: DeviceSpec, dtype: str) -> str | None:
    """The matrix instructions that the launch's product should become; None for a second pass."""
    if launch.plan is None:
        return None
    rows = product_shape(launch.plan.config)[0]
    return expected_matrix_class(device.architecture, dtype, launch.arguments["PRECISION"], rows, launch.num_warps)
