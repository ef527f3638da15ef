"""Writing stored configs: entries merged into a GPU's file, which is replaced whole, under a lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from .devices import DeviceSpec, find_device, normalised
from .schema import Entry, gpu_of, write_file
from .sources import kernel_hash
from .store import read_config_file


def file_path(device: DeviceSpec, folder: Path) -> Path:
    """The file of a device. A GPU that has not all of its SMs (a partition) has one of its own."""
    name = "-".join(normalised(device.name).split())
    return folder / (f"{name}.json" if _whole(device) else f"{name}-{device.sm_count}-sms.json")


def save(entries: Sequence[Entry], device: DeviceSpec, folder: Path) -> Path:
    """Merge entries into the device's file in the folder, made if need be, and return its path.

    An entry replaces one for the same problem, but a predicted one leaves a measured one of these kernels alone.
    Readers see the old file or the new one; writers take turns. What cannot be understood in the old file is kept in a
    copy of it that ends in .unreadable. OSError where the folder cannot be written.
    """
    path = file_path(device, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        old = saved_entries(device, folder)
        if path.exists() and not old.complete:
            shutil.copyfile(path, path.with_suffix(".unreadable"))
        text = write_file(gpu_of(device), merge(old.entries, entries))
        written = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            written.write_text(text, encoding="utf-8")
            os.replace(written, path)
        finally:
            written.unlink(missing_ok=True)
    return path


def merge(old: Iterable[Entry], new: Iterable[Entry]) -> list[Entry]:
    """Old and new entries, one for each problem. Predictions for other kernels than these are dropped."""
    merged = {entry.problem: entry for entry in old if entry.origin == "measured" or is_current(entry)}
    for entry in new:
        before = merged.get(entry.problem)
        if before is None or entry.origin == "measured" or not (before.origin == "measured" and is_current(before)):
            merged[entry.problem] = entry
    return list(merged.values())


def is_current(entry: Entry) -> bool:
    """Whether the entry is for the kernels as they are."""
    return entry.kernel_hash == kernel_hash(entry.config.kernel)


@dataclass(frozen=True)
class Saved:
    """The entries of a device's file. complete: whether they are all that is in it."""

    entries: tuple[Entry, ...]
    complete: bool


def saved_entries(device: DeviceSpec, folder: Path) -> Saved:
    """What the device's file in the folder holds; nothing where there is none."""
    file = read_config_file(file_path(device, folder))
    if file is None or file.gpu != gpu_of(device):
        return Saved((), complete=False)
    return Saved(file.entries, complete=len(file.entries) == len(file.raw))


def _whole(device: DeviceSpec) -> bool:
    try:
        return gpu_of(find_device(device.name)) == gpu_of(device)
    except LookupError:
        return True
