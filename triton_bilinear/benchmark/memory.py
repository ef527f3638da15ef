"""The peak of memory beyond inputs and results, from what is allocated; and how much memory there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from .rivals import Step

# The mark between the passes.
_BACKWARD = "triton_bilinear: backward"


@dataclass(frozen=True)
class _Usage:
    """Bytes above those before the step: the peak of the forward pass, what is left of it, the peak of backward."""

    forward: int
    between: int
    backward: int


def extra_bytes(step: Step, device: torch.device) -> dict[str, int | None]:
    """Bytes that forward, backward and the whole step hold at their peaks beyond inputs and results.

    What the forward pass keeps for the backward pass counts for "forward" and "step". "backward" starts from there: it
    counts what comes on top. None where there is no backward pass.
    """
    usage, out, gradients = (_on_cpu if device.type == "cpu" else _on_cuda)(step)
    forward = max(0, usage.forward - _bytes((out,)))
    if not step.leaves:
        return {"forward": forward, "backward": None, "step": None}
    backward = max(0, usage.backward - usage.between - _bytes(gradients))
    whole = max(usage.forward, usage.backward) - _bytes((out, *gradients))
    return {"forward": forward, "backward": backward, "step": max(0, whole)}


_Run = tuple[_Usage, Tensor, tuple[Tensor, ...]]


def _on_cpu(step: Step) -> _Run:
    """From what torch's allocator hands out while the step runs."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library writes to stderr at any lower level
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        out = step.forward()
        with record_function(_BACKWARD):
            gradients = step.backward(out) if step.leaves else ()
    kineto: Any = profiled.profiler
    level = between = 0
    peaks, part = [0, 0], 0
    for event in sorted(kineto.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == _BACKWARD:
            between, part = level, 1
        elif event.name() == "[memory]":
            level += event.nbytes()
            peaks[part] = max(peaks[part], level)
    return _Usage(peaks[0], between, peaks[1]), out, gradients


def _on_cuda(step: Step) -> _Run:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = step.forward()
    torch.cuda.synchronize()
    forward, between = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    gradients = step.backward(out) if step.leaves else ()
    torch.cuda.synchronize()
    return _Usage(forward, between, torch.cuda.max_memory_allocated() - before), out, gradients


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    """Of the storages, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def available_bytes(device: torch.device) -> int:
    """What can still be allocated on the device, as far as the system says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = _meminfo_bytes()
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used)


def _meminfo_bytes() -> int:
    """Linux says what is available; elsewhere all there is must do."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].removesuffix("kB")) << 10


def _cgroup_bytes(name: str) -> int | None:
    """A container's limit, or what it has used of it; None where there is no limit."""
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return None if text == "max" else int(text)
