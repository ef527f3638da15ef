"""What is shipped in tune_configs/: every file is understood, every entry legal, current, and compiles for its GPU.

By default one entry of each op and architecture is compiled; `pytest -m slow` compiles all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")

from triton_bilinear.planning import SEPARATE, Plan
from triton_bilinear.planning.dispatch import plans_of
from triton_bilinear.tuning.devices import DeviceSpec, device_names, find_device
from triton_bilinear.tuning.pool import CompilerPool
from triton_bilinear.tuning.save import file_path, is_current
from triton_bilinear.tuning.schema import Entry, gpu_of, op_of
from triton_bilinear.tuning.store import ConfigFile, package_folder, read_folder
from triton_bilinear.tuning.sweep.sound import compile_plans
from triton_bilinear.tuning.sweep.task import make_task
from triton_bilinear.tuning.versions import versions

FILES = {file.path.stem: file for file in read_folder(package_folder())}


def shipped() -> Iterator[tuple[DeviceSpec, Entry]]:
    for file in FILES.values():
        device = find_device(file.gpu.name)
        yield from ((device, entry) for entry in file.entries)


def plan_in(entry: Entry, device: DeviceSpec) -> Plan | None:
    """The entry's plan, if it is one that the planner could make."""
    wanted = (entry.config, entry.order, entry.splits, entry.groups)
    plans = plans_of(entry.problem, device)
    return next((p for p in plans if (p.config, p.order, p.splits, p.groups) == wanted), None)


def test_every_gpu_of_the_table_has_a_file() -> None:
    assert set(FILES) == {file_path(find_device(name), package_folder()).stem for name in device_names()}


@pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))
def test_every_entry_is_understood_and_current(file: ConfigFile) -> None:
    device = find_device(file.gpu.name)
    assert file.gpu == gpu_of(device)
    assert file.path == file_path(device, package_folder())
    assert file.entries
    assert len(file.entries) == len(file.raw)
    problems = [entry.problem for entry in file.entries]
    assert len(set(problems)) == len(problems)
    old = [entry.problem for entry in file.entries if not is_current(entry)]
    assert not old, "kernels have changed; see tune_configs/README.md"


@pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))
def test_every_entry_is_legal(file: ConfigFile) -> None:
    device = find_device(file.gpu.name)
    assert [entry for entry in file.entries if plan_in(entry, device) is None] == []


def faults(entries: list[tuple[DeviceSpec, Entry]]) -> list[str]:
    """What the compiler finds wrong with them."""
    tasks = []
    for device, entry in entries:
        plan = plan_in(entry, device)
        assert plan is not None
        tasks.append((make_task(entry.problem, device, torch.device("meta")), plan))
    with CompilerPool() as pool:
        found = compile_plans(tasks, pool)
    return [
        f"{device.name} {entry.problem}: {entry.config}: {fault}"
        for (device, entry), of_entry in zip(entries, found, strict=True)
        for fault in of_entry
        if not (fault.endswith("spills") and may_spill(device, entry))
    ]


def may_spill(device: DeviceSpec, entry: Entry) -> bool:
    """Whether the entry says nothing of what this Triton spills: on AMD, where it was found with another release.

    The lookup reports such an entry as stale.
    """
    installed, found = (str(version).split(".")[:2] for version in (versions()["triton"], entry.versions["triton"]))
    return device.vendor != "nvidia" and installed != found


def test_one_entry_of_each_op_and_architecture_compiles() -> None:
    chosen: dict[tuple[str, str], tuple[DeviceSpec, Entry]] = {}
    for device, entry in shipped():
        if entry.config != SEPARATE:
            chosen.setdefault((device.architecture, op_of(entry.problem)), (device, entry))
    assert faults(list(chosen.values())) == []


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted({find_device(name).architecture for name in device_names()}))
def test_every_entry_compiles(architecture: str) -> None:
    entries = [
        (device, entry)
        for device, entry in shipped()
        if device.architecture == architecture and entry.config != SEPARATE
    ]
    assert entries
    assert faults(entries) == []
