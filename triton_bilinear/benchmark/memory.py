"""The peak of memory beyond inputs and results, from what is allocated; and how much memory there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .rivals import Step


def extra_bytes(step: Step, device: torch.device) -> dict[str, int | None]:
    """Bytes that forward, backward and the whole step hold at their peaks beyond inputs and results.

    What the forward pass keeps for the backward pass counts for "forward" and "step". "backward" starts from there: it
    counts what comes on top. None where there is no backward pass.
    """
    peak = _peak_on_cpu if device.type == "cpu" else _peak_on_cuda
    forward = peak(lambda: (step.forward(),))
    if not step.leaves:
        return {"forward": forward, "backward": None, "step": None}

    def whole() -> tuple[Tensor, ...]:
        out = step.forward()
        return out, *step.backward(out)

    out = step.forward()
    return {"forward": forward, "backward": peak(lambda: step.backward(out)), "step": peak(whole)}


def _peak_on_cpu(function: Callable[[], tuple[Tensor, ...]]) -> int:
    """Of what torch's allocator hands out while the function runs, less its results."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library writes to stderr at any lower level
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        results = function()
    kineto: Any = profiled.profiler
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return max(0, peak - _bytes(results))


def _peak_on_cuda(function: Callable[[], tuple[Tensor, ...]]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = function()
    torch.cuda.synchronize()
    return max(0, torch.cuda.max_memory_allocated() - before - _bytes(results))


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
