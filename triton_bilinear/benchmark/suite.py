"""Several cases measured one after the other, shown, and written down."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ..commands.progress import progress
from ..inspection.problem import parse_dtype
from .cases import CASES, Case
from .measure import Bench, Record
from .report import as_json, machine, ours_are_right, summary, table


@dataclass(frozen=True)
class Outputs:
    """Where results go beside the terminal: a JSON file, and a folder of PNGs."""

    json: Path | None = None
    plots: Path | None = None

    def prepare(self) -> None:
        """Make the folder of plots, before anything is measured.

        ValueError where the file or the PNGs could not be written in the end, or plots can't be drawn.
        """
        if self.plots is not None:
            if find_spec("matplotlib") is None:
                raise ValueError("matplotlib is not installed; install it with: pip install matplotlib")
            try:
                self.plots.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"cannot write to {self.plots}: {error.strerror}") from error
        if self.json is not None and not os.access(self.json.parent, os.W_OK):
            raise ValueError(f"cannot write to {self.json}: no such folder, or none of yours")


def chosen(cases: Iterable[Case], names: Sequence[str] | None, dtypes: Sequence[str] | None) -> list[Case]:
    """The cases whose names contain one of these, in each of these dtypes (fp32, bfloat16, ...).

    ValueError where there is none, and for a dtype that is none.
    """
    found = [case for case in cases if not names or any(name.lower() in case.name.lower() for name in names)]
    if not found:
        raise ValueError(f"no case named {', '.join(names or [])}; known are {', '.join(case.name for case in CASES)}")
    parsed = dict.fromkeys(str(parse_dtype(dtype)).removeprefix("torch.") for dtype in dtypes or [])
    return [replace(case, dtype=dtype) for dtype in parsed for case in found] if parsed else found


def run_suite(
    bench: Bench, cases: Sequence[Case], sweeps: tuple[Sequence[Case], Sequence[Case]], outputs: Outputs
) -> int:
    """Measure the cases and print each when it is done, then write. The sweeps, of batch and of outputs, are for plots.

    Returns:
        The status of a command: 0, 1 where a case of ours has no time, 2 where nothing could be written.
    """
    about = machine(bench.device)
    print(
        f"{about['device']}, {about['threads']} threads, torch {torch.__version__}; medians of "
        f"{bench.settings.rounds} rounds, ± half of what lies between the quartiles"
    )
    records = []
    for record in measured(bench, cases, "timing"):
        print(f"\n{table(record)}", flush=True)
        records.append(record)
    print(f"\n{summary(records)}")
    batches, grown = (list(measured(bench, sweep, "timing what grows")) if outputs.plots else [] for sweep in sweeps)
    try:
        if outputs.json is not None:
            found = as_json([*records, *batches, *grown], bench)
            outputs.json.write_text(json.dumps(found, indent=1) + "\n")
        if outputs.plots is not None:
            from .plots import draw_plots  # matplotlib is optional

            for path in draw_plots(records, batches, grown, outputs.plots, about):
                print(path)
    except OSError as error:
        print(f"bench: cannot write to {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0 if ours_are_right(records) else 1


def measured(bench: Bench, cases: Sequence[Case], what: str) -> Iterator[Record]:
    """The records of the cases; one that does not fit says so."""
    for case in progress(cases, what):
        try:
            yield bench.run(case)
        except (MemoryError, torch.OutOfMemoryError) as error:
            print(f"\n{case.name} skipped: {error or 'out of memory'}")
