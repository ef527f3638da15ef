"""The device that commands use, and its description."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from ..backend import triton_installed


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, found out without importing triton."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def default_device() -> torch.device:
    """The first GPU that Triton serves, or the CPU; the CPU too while kernels are interpreted."""
    if not interpreting():
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.xpu.is_available():
            return torch.device("xpu")
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """One line: the device, and the versions that decide what runs on it."""
    if device.type == "cpu":
        name = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    else:
        name = torch.get_device_module(device).get_device_name(device)
    triton = f"triton {importlib.metadata.version('triton')}" if triton_installed() else "no triton"
    return f"{name}, torch {torch.__version__}, {triton}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
