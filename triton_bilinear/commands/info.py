"""The command `info`: this machine's devices, the versions in play, and which configs serve each device.

Works without a GPU and without triton, and then says so.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from typing import Any

import torch

from .. import __version__
from ..backend import triton_installed
from ..tuning.devices import DeviceSpec
from .machine import interpreting


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Describe the command and its options."""
    parser = subparsers.add_parser("info", help="devices, versions, and which configs serve them")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print what is known; always 0."""
    known = information()
    print(json.dumps(known, indent=1) if args.json else _in_words(known))
    return 0


def information() -> dict[str, Any]:
    """Versions by name (None for what is not installed), and the devices: the CPU, then each GPU."""
    return {"versions": _versions(), "devices": [_cpu(), *map(_gpu, range(torch.cuda.device_count()))]}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "triton_bilinear": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": None,
    }
    if triton_installed():
        from ..tuning.versions import versions

        found |= {name: version for name, version in versions().items() if name != "torch"}
    return found


def _cpu() -> dict[str, Any]:
    served = "Triton's interpreter, under use_backend('triton')" if interpreting() else None
    return {
        "device": "cpu",
        "name": platform.machine(),
        "threads": torch.get_num_threads(),
        "served_by": "torch's matrix products" + (f"; {served}" if served else ""),
        "configs": None,
    }


def _gpu(number: int) -> dict[str, Any]:
    device = torch.device("cuda", number)
    known = {"device": str(device), "name": torch.cuda.get_device_name(number)}
    if not triton_installed():
        return {**known, "served_by": "torch's matrix products (triton is not installed)", "configs": None}
    spec = _spec(device)
    return {
        **known,
        "architecture": spec.architecture,
        "sm_count": spec.sm_count,
        "shared_memory": spec.shared_memory,
        "description": spec.source,
        "served_by": "Triton's kernels",
        "configs": [*_stored(spec), {"source": "cost model", "origins": {"predicted": None}}],
    }


def _spec(device: torch.device) -> DeviceSpec:
    from ..gpu.device import device_of

    return device_of(torch.empty(0, device=device))


def _stored(spec: DeviceSpec) -> list[dict[str, Any]]:
    """The files of stored configs for the GPU, in the order of the lookup, and their usable entries by origin."""
    from ..tuning.sources import kernel_hash
    from ..tuning.store import files_for

    return [
        {
            "source": str(file.path),
            "origins": Counter(
                entry.origin for entry in file.entries if entry.kernel_hash == kernel_hash(entry.config.kernel)
            ),
        }
        for file in files_for(spec)
    ]


def _in_words(known: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in known["versions"].items())
    return "\n".join([versions, *map(_device_in_words, known["devices"])])


def _device_in_words(device: dict[str, Any]) -> str:
    head = f"{device['device']}: {device['name']}"
    if "architecture" in device:
        head += f", {device['architecture']}, {device['sm_count']} SMs, {device['shared_memory']} B of shared memory"
        head += f" (from {device['description']})"
    lines = [head, f"  served by {device['served_by']}"]
    for configs in device["configs"] or ():
        origins = ", ".join(name if count is None else f"{count} {name}" for name, count in configs["origins"].items())
        lines.append(f"  configs from {configs['source']}: {origins or 'none that this version can use'}")
    return "\n".join(lines)
