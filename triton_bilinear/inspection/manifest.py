"""What `compile` writes down of each kernel: what was compiled, how it is launched, what it needs, and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ..gpu.launch import Launch
from ..tuning.compiler import CompiledReport, CompileRequest, matrix_count
from .compiled import StepLaunch, compile_request, constants, parameters
from .issue import issue_ratio, issued
from .work import launch_work

# File endings of the machine code and of its readable form.
CODE, TEXT = ("cubin", "hsaco"), ("ptx", "amdgcn")


def record(each: StepLaunch, report: CompiledReport) -> dict[str, Any]:
    """All that is known of a launch and its compiled kernel, as JSON takes it.

    useful_flops, bytes_min and bytes_moved belong to the op: its product carries them, a second pass has 0.
    bytes_moved is the planner's prediction for device memory; bytes_loaded and bytes_stored are those of all tiles
    through every cache, padding included. issue.ratio compares instruction slots with matrix cycles (see `issue`).
    """
    launch, problem, device = each.launch, each.problem, each.device
    work, request = launch_work(launch), compile_request(launch, device)
    dtype = str(problem.dtype).removeprefix("torch.")
    return {
        "name": report.name,
        "op": each.op.name,
        "gpu": device.name,
        "shape": list(problem.shape),
        "dtype": dtype,
        "target": report.target,
        "grid": [*launch.grid, 1],
        "num_warps": report.num_warps,
        "num_stages": report.num_stages,
        "shared_bytes": report.shared_bytes,
        "tensor_memory_columns": report.tensor_memory_columns,
        "registers": report.registers,
        "stack_bytes": report.stack_bytes,
        "spills": report.spills,
        "config": config_record(launch),
        "origin": each.origin,
        "source": each.op.plan.source,
        "mma_flops": work.mma_flops,
        "useful_flops": problem.useful_flops(each.op.name) if each.first else 0,
        "bytes_min": problem.minimum_bytes(each.op.name, each.op.keeps) if each.first else 0,
        "bytes_moved": each.bytes_moved,
        "bytes_loaded": work.loaded_bytes,
        "bytes_stored": work.stored_bytes,
        "matrix_instructions": report.matrix_instructions,
        "loop": _main_loop(report),
        "issue": {
            "trips": list(work.trips),
            "warp_instructions": asdict(issued(report, work)),
            "instructions_per_tile": issued(report, work).total * report.num_warps,
            "ratio": issue_ratio(report, work, device, dtype),
        },
        "parameters": _parameters(launch, request),
        "constants": {name: _plain(value) for name, value in constants(launch, request).items()},
    }


def config_record(launch: Launch) -> dict[str, Any]:
    """The tile, and for an op's product the rest of its plan."""
    blocks = {name.removeprefix("BLOCK_"): size for name, size in launch.arguments.items() if name.startswith("BLOCK_")}
    if launch.plan is None:
        return {"kernel": "reduce", "blocks": blocks}
    plan = launch.plan
    return {
        "kernel": plan.config.kernel,
        "blocks": blocks,
        "order": "".join(plan.order),
        "splits": plan.splits,
        "groups": plan.groups,
    }


def file_stems(launches: Sequence[StepLaunch]) -> list[str]:
    """A file name, without its ending, for each launch; no two alike, and the same in every run."""
    stems = []
    for index, each in enumerate(launches):
        same = [other for other in launches[:index] if (other.device, other.problem) == (each.device, each.problem)]
        gpu = "-".join("".join(c if c.isalnum() else " " for c in each.device.name).split())
        sizes = "x".join(map(str, each.problem.shape))
        dtype = str(each.problem.dtype).removeprefix("torch.")
        kernel = each.launch.kernel.__name__.removesuffix("_kernel")
        stems.append(f"{gpu}_{dtype}_{sizes}_{len(same) + 1}_{each.op.name}_{kernel}")
    return stems


def _main_loop(report: CompiledReport) -> dict[str, int] | None:
    """The loop that multiplies: its instructions, and how many of them are matrix instructions."""
    loop = report.main_loop
    return None if loop is None else {"instructions": loop.instructions, "matrix_instructions": matrix_count(loop)}


def _parameters(launch: Launch, request: CompileRequest) -> list[dict[str, Any]]:
    """What the launch passes, in order: a number's value, a tensor's sizes and strides."""
    found = []
    for name, kind in parameters(launch, request).items():
        value = launch.arguments[name]
        row: dict[str, Any] = {"name": name, "type": kind}
        if isinstance(value, Tensor):
            row |= {"sizes": list(value.shape), "strides": list(value.stride())}
        else:
            row["value"] = value
        found.append(row)
    return found


def _plain(value: Any) -> Any:
    """A constant as JSON takes it; a dtype of the kernel's language by its name."""
    return value if isinstance(value, int | str | float | None) else str(value)
