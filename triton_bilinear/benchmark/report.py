"""What the terminal and the JSON file say of measured cases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from math import exp, log
from pathlib import Path
from typing import Any

import torch

from ..commands.info import information
from .measure import Bench, Entry, Record
from .rivals import COMPILED, EINSUM_ORDERS, F_BILINEAR, LINEAR, OURS
from .timing import PARTS

BEST_EINSUM = "best einsum order"


def machine(device: torch.device) -> dict[str, Any]:
    """The device that was measured, and everything that `info` knows: versions and all devices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **information()}


def cpu_name(file: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model and family where the system tells them: on a shared machine models can share a name."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return "CPU"
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    family = told.get("cpu family")
    return told.get("model name", "CPU") + (f", family {family}" if family else "")


def as_json(records: Sequence[Record], bench: Bench) -> dict[str, Any]:
    """Everything that was measured, every sample among it. Times in seconds."""
    return {
        "machine": machine(bench.device),
        "settings": asdict(bench.settings),
        "records": [_record(record) for record in records],
    }


def _record(record: Record) -> dict[str, Any]:
    case = record.case
    return {
        "case": case.name,
        "sizes": dict(case.sizes),
        "axes": {name: case.axes(name) for name in ("x", "y", "weight", "g")},
        "dtype": case.dtype,
        "gradients": list(case.gradients),
        "stored": dict(case.stored),
        "sliced": case.sliced,
        "roof": asdict(record.roof),
        "work": {part: asdict(work) for part, work in record.work.items()},
        "rivals": [asdict(entry) for entry in record.entries],
    }


def seconds_of(record: Record, name: str, part: str = "step") -> float | None:
    """The median time of a rival, or of the best of the three einsum orders; None where it was not timed."""
    names = EINSUM_ORDERS if name == BEST_EINSUM else (name,)
    entries = [entry for entry in map(record.entry, names) if entry is not None]
    return min((seconds for entry in entries if (seconds := entry.median(part)) is not None), default=None)


def speedup(record: Record, name: str, part: str = "step") -> float | None:
    """How many times as long as ours a rival takes; None where one of the two was not timed."""
    theirs, ours = seconds_of(record, name, part), seconds_of(record, OURS, part)
    return None if theirs is None or ours is None else theirs / ours


def ours_are_right(records: Sequence[Record]) -> bool:
    """Whether no case lacks a time of ours."""
    return all(record.entry(OURS) is not None for record in records)


_COLUMNS = f"  {'':26}" + "".join(f"{part:>17}" for part in PARTS) + f"{'step, ours = 1':>16}{'extra memory':>14}"


def table(record: Record) -> str:
    """A case, with a line for each rival: medians, the spread between the quartiles, and the step over ours."""
    floor = ", ".join(f"{part} {duration(work.floor_seconds)}" for part, work in record.work.items())
    lines = [str(record.case), f"  floor: {floor} ({record.roof.source})", _COLUMNS]
    return "\n".join(lines + [_line(entry, record) for entry in record.entries])


def _line(entry: Entry, record: Record) -> str:
    if entry.skipped is not None:
        return f"  {entry.name:26}not timed: {entry.skipped}"
    cells = "".join(f"{_cell(entry, part):>17}" for part in PARTS)
    ratio = speedup(record, entry.name)
    extra = entry.extra_bytes["step"]
    return f"  {entry.name:26}{cells}{'-' if ratio is None else f'{ratio:.2f}':>16}{size(extra):>14}"


def _cell(entry: Entry, part: str) -> str:
    seconds = entry.median(part)
    return "-" if seconds is None else f"{duration(seconds)} ±{50 * entry.spread(part):2.0f}%"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{_three_digits(seconds * scale)} {unit}"


def size(count: int | None) -> str:
    """Bytes, in the unit that suits them."""
    if count is None:
        return "-"
    value, units = float(count), ["GiB", "MiB", "KiB", "B"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop()
    return f"{_three_digits(value)} {units[-1]}"


def _three_digits(value: float) -> str:
    whole = len(str(int(value)))
    return f"{value:.{max(0, 3 - whole)}f}"


def summary(records: Sequence[Record]) -> str:
    """Geometric means over the cases of one dtype, and the worst case; for each dtype."""
    lines = []
    for dtype in dict.fromkeys(record.case.dtype for record in records):
        timed = [record for record in records if record.case.dtype == dtype and record.entry(OURS) is not None]
        lines.append(f"{dtype}, whole step, ours against")
        for name in (BEST_EINSUM, F_BILINEAR, COMPILED, LINEAR):
            ratios = {record.case.name: ratio for record in timed if (ratio := speedup(record, name)) is not None}
            if ratios:
                worst = min(ratios, key=lambda case: ratios[case])
                lines.append(
                    f"  {name:26}{geometric_mean(list(ratios.values())):7.2f} times as fast in the geometric mean of "
                    f"{len(ratios)} cases; least {ratios[worst]:.2f} ({worst})"
                )
        shares = [share for record in timed if (share := floor_share(record)) is not None]
        if shares:
            lines.append(f"  {'the floor':26}{geometric_mean(shares):7.0%} of its speed in the geometric mean")
    return "\n".join(lines)


def floor_share(record: Record) -> float | None:
    """The least time of a step over ours."""
    ours = seconds_of(record, OURS)
    return None if ours is None else record.work["step"].floor_seconds / ours


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values, one at least."""
    return exp(sum(map(log, values)) / len(values))
