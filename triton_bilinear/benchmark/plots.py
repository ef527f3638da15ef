"""Pictures of what was measured, and one of what is predicted. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from ..backend import triton_installed
from ..explain import explain
from .cases import CASES, ROWS
from .measure import Record
from .report import BEST_EINSUM, seconds_of, speedup
from .rivals import COMPILED, EINSUM_ORDERS, F_BILINEAR, LINEAR, OURS

# Colours that people with any kind of colour vision tell apart (Okabe and Ito), and a marker for each.
_STYLES = {
    OURS: ("#0072B2", "o"),
    BEST_EINSUM: ("#D55E00", "s"),
    EINSUM_ORDERS[0]: ("#D55E00", "s"),
    EINSUM_ORDERS[1]: ("#E69F00", "D"),
    EINSUM_ORDERS[2]: ("#CC79A7", "v"),
    F_BILINEAR: ("#000000", "X"),
    COMPILED: ("#009E73", "^"),
    LINEAR: ("#56B4E9", "P"),
}
_SIZE = (10.0, 6.0)
_DPI = 144
_PREDICTED_GPUS = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA B200", "AMD Instinct MI300X")


def draw_plots(
    records: Sequence[Record],
    batches: Sequence[Record],
    outputs: Sequence[Record],
    folder: Path,
    machine: Mapping[str, Any],
) -> list[Path]:
    """Draw everything there are records for, and return the files.

    Args:
        records: of the cases. batches, outputs: of cases that grow in B and in L.
        folder: made where it does not exist.
        machine: as `report.machine` gives it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    where = f"{machine['device']}, {machine['threads']} threads, torch {machine['versions']['torch']}"
    timed = [record for record in records if record.entry(OURS) is not None]
    figures: dict[str, Figure] = {}
    if timed:
        figures["speedup"] = _speedup(timed, where)
        figures["roofline"] = _roofline(timed, where)
    for name, axis, words, sweep in (
        ("batch", "b", "batch size B", batches),
        ("outputs", "l", "number of outputs L", outputs),
    ):
        if sweep:
            figures[name] = _growth(sweep, axis, words, where)
    if triton_installed():
        figures["predicted"] = _predicted()
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _save(figure: Figure, path: Path) -> Path:
    with matplotlib.rc_context({"font.size": 11}):
        figure.savefig(path, dpi=_DPI)
    return path


def _figure(title: str, below: str, columns: int = 1, height: float = _SIZE[1]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    figure.suptitle(f"{title}\n{below}", fontsize=12)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _label(record: Record) -> str:
    return f"{record.case.name} ({record.case.dtype})"


def _speedup(records: Sequence[Record], where: str) -> Figure:
    """A row for each case: how many times as long as ours the others take."""
    figure, (axes,) = _figure("Training step: time of others over ours", where, height=2.4 + 0.38 * len(records))
    for name in (BEST_EINSUM, COMPILED, F_BILINEAR, LINEAR):
        found = [(ratio, row) for row, record in enumerate(records) if (ratio := speedup(record, name)) is not None]
        if found:
            colour, marker = _STYLES[name]
            ratios, rows = zip(*found, strict=True)
            axes.scatter(ratios, rows, color=colour, marker=marker, s=60, label=name, zorder=3)
    axes.axvline(1, color="#0072B2", linewidth=2, label="ours")
    axes.set_xscale("log")
    axes.set_yticks(range(len(records)), [_label(record) for record in records])
    axes.invert_yaxis()
    axes.set_xlabel("times as long as ours (right of the line: ours is faster)")
    _ratio_ticks(axes.xaxis)
    axes.grid(axis="both", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def _ratio_ticks(axis: Any) -> None:
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _roofline(records: Sequence[Record], where: str) -> Figure:
    """Arithmetic rate of the whole step over its arithmetic intensity, under the roof of this machine."""
    figure, (axes,) = _figure("Training step under the roof", where)
    steps = [record.work["step"] for record in records]
    intensities = [work.flops / work.moved_bytes for work in steps]
    span = [min(intensities) / 3, max(intensities) * 3]
    for dtype in dict.fromkeys(record.case.dtype for record in records):
        roof = next(record.roof for record in records if record.case.dtype == dtype)
        knee = roof.flops / roof.bandwidth
        points = sorted({*span, min(max(knee, span[0]), span[1])})
        rates = [min(roof.flops, point * roof.bandwidth) / 1e9 for point in points]
        axes.plot(points, rates, linewidth=2, color="#444444", label=f"roof, {dtype}: {roof.source}")
    for name in (F_BILINEAR, BEST_EINSUM, OURS):
        found = [
            (intensity, work.flops / seconds / 1e9)
            for record, work, intensity in zip(records, steps, intensities, strict=True)
            if (seconds := seconds_of(record, name)) is not None
        ]
        if found:
            colour, marker = _STYLES[name]
            size = 150 if name == OURS else 45
            xs, ys = zip(*found, strict=True)
            axes.scatter(xs, ys, color=colour, marker=marker, s=size, label=name, zorder=3)
            if name == OURS:
                for number, point in enumerate(found, 1):
                    axes.annotate(f"{number}", point, color="white", fontsize=7, ha="center", va="center", zorder=4)
    names = "\n".join(f"{number}  {_label(record)}" for number, record in enumerate(records, 1))
    axes.annotate(names, (1.01, 1.0), xycoords="axes fraction", fontsize=8, va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte, each operand of each product moved once")
    axes.set_ylabel("useful GFLOP/s")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _growth(records: Sequence[Record], axis: str, words: str, where: str) -> Figure:
    """Time and extra memory of a step, each over a size that grows."""
    sizes = ", ".join(f"{name.upper()} {size}" for name, size in records[0].case.sizes.items() if name != axis)
    figure, (time, memory) = _figure(f"Training step as the {words} grows", f"{sizes}, {where}", columns=2)
    rows = [(record.case.sizes[axis], record) for record in records]
    floor = [(size, record.work["step"].floor_seconds * 1e3) for size, record in rows]
    time.plot(*zip(*floor, strict=True), color="#888888", linestyle="--", label="floor")
    for name in (OURS, *EINSUM_ORDERS, F_BILINEAR, COMPILED, LINEAR):
        _line(time, name, [(size, seconds_of(record, name), 1e3) for size, record in rows])
        if name != LINEAR:  # whose features are an input
            _line(memory, name, [(size, _extra(record, name), 2.0**-20) for size, record in rows])
    for axes, title in ((time, "time, ms"), (memory, "peak memory beyond inputs and results, MiB")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(words)
        axes.set_title(title, fontsize=11)
        axes.grid(alpha=0.3, which="both")
    handles, labels = time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _line(axes: Axes, name: str, found: Sequence[tuple[int, float | None, float]]) -> None:
    """Through what is known of (size, value, scale); zeros do not show on a logarithmic axis."""
    points = [(size, value * scale) for size, value, scale in found if value]
    if points:
        colour, marker = _STYLES[name]
        width = 2.5 if name == OURS else 1.3
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=width, label=name)


def _extra(record: Record, name: str) -> float | None:
    entry = record.entry(name)
    return None if entry is None else entry.extra_bytes["step"]


def _predicted() -> Figure:
    """The cost model's times for GPUs that are not here."""
    cases = [case for case in CASES if case.form == ROWS]
    figure, (axes,) = _figure(
        "PREDICTED, not measured: training step over its floor",
        "by the cost model, bfloat16; no GPU was involved",
        height=2.4 + 0.38 * len(cases),
    )
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
    for gpu, colour, marker in zip(_PREDICTED_GPUS, colours, "osD^", strict=True):
        steps = [explain(*case.problem().shape, dtype=torch.bfloat16, gpu=gpu) for case in cases]
        ratios = [step.predicted_seconds / step.floor_seconds for step in steps]
        axes.scatter(ratios, range(len(cases)), color=colour, marker=marker, s=50, label=gpu, zorder=3)
    axes.axvline(1, color="#444444", linewidth=2, label="floor")
    axes.set_xscale("log")
    _ratio_ticks(axes.xaxis)
    axes.set_yticks(range(len(cases)), [case.name for case in cases])
    axes.invert_yaxis()
    axes.set_xlabel("predicted time over the floor")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
