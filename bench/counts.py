"""Deterministic counts of the kernels that named GPUs would run at named problems: nothing is timed, no GPU is needed.

    python bench/counts.py            compare this tree with counts.json and say what got worse, and what better
    python bench/counts.py --update   write this tree's counts there

Machine code depends on the compiler, so counts are kept for each version of it. A comparison ends with status 1 where
something got worse, or where counts.json has nothing to compare with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from triton_bilinear.commands.progress import advance, progress
from triton_bilinear.inspection.compiled import StepLaunch, compile_launches, step_launches
from triton_bilinear.inspection.manifest import record
from triton_bilinear.inspection.problem import PairwiseProblem, StepProblem
from triton_bilinear.tuning.compiler import CompileFailure, CompileResult
from triton_bilinear.tuning.devices import find_device
from triton_bilinear.tuning.pool import CompilerPool
from triton_bilinear.tuning.versions import versions

FILE = Path(__file__).with_name("counts.json")

A100, H100, B200 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA B200"
RTX_4090, MI300X = "NVIDIA GeForce RTX 4090", "AMD Instinct MI300X"

# One large problem on every kind of GPU; the other shapes, dtypes and gradients on one or two.
CASES = (
    *((gpu, StepProblem((4096, 256, 256, 256), torch.bfloat16)) for gpu in (A100, H100, B200, RTX_4090, MI300X)),
    *((gpu, StepProblem((8192, 128, 128, 128), torch.bfloat16)) for gpu in (A100, H100)),
    *((gpu, StepProblem((2048, 64, 32, 32), torch.bfloat16)) for gpu in (A100, H100)),
    *(
        (H100, StepProblem(shape, torch.bfloat16))
        for shape in (
            (18432, 180, 180, 180),
            (200000, 128, 8, 128),
            (65536, 256, 39, 39),
            (4096, 1, 1024, 1024),
            (16, 256, 512, 512),
        )
    ),
    *((gpu, PairwiseProblem((16, 64, 64, 48, 128, 128), torch.bfloat16)) for gpu in (A100, H100)),
    (A100, StepProblem((512, 128, 128, 128), torch.float32)),
    (A100, StepProblem((512, 64, 64, 64), torch.float64)),
)

Counts = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A count that is not what it was. worse: True, False for better, None for neither."""

    where: str
    count: str
    before: Any
    now: Any
    worse: bool | None

    def __str__(self) -> str:
        verdict = {True: "WORSE", False: "better", None: "changed"}[self.worse]
        return f"{verdict:8}{self.where}: {self.count} {self.before} -> {self.now}"


def measure(cases: Sequence[tuple[str, StepProblem]]) -> dict[str, Counts]:
    """The counts of each step, by GPU, dtype and shape."""
    steps = {case: step_launches(case[1], find_device(case[0])) for case in cases}
    launches = [each for step in steps.values() for each in step]
    with CompilerPool() as pool, progress((), "compiling") as bar:
        results = iter(compile_launches(launches, pool, partial(advance, bar)))
    return {
        case_name(gpu, problem): step_counts(step, [next(results) for _ in step])
        for (gpu, problem), step in steps.items()
    }


def step_counts(launches: Sequence[StepLaunch], results: Sequence[CompileResult]) -> Counts:
    """The counts of one step: its totals, and those of each kernel by op and pass.

    mma_over_least: FLOPs of all products of tiles over the least that a step can do with (three contractions, for all
    gradients), so 1 is a step without padding or repetition. bytes_over_minimum: bytes through
    device memory, by the planner's model, over those of every op's own tensors. tile_bytes_over_minimum: bytes of all
    tiles through the caches over the same. A kernel that does not compile has an "error" and no counts.
    """
    records: list[dict[str, Any]] = []
    kernels: dict[str, Counts] = {}
    for each, result in zip(launches, results, strict=True):
        name = f"{each.op.name} {1 + sum(key.startswith(each.op.name + ' ') for key in kernels)}"
        if isinstance(result, CompileFailure):
            kernels[name] = {"error": result.error.strip().splitlines()[-1]}
            continue
        records.append(record(each, result))
        kernels[name] = _kernel_counts(records[-1])
    problem = launches[0].problem
    minimum = sum(row["bytes_min"] for row in records)
    return {
        "launches": len(launches),
        "mma_over_least": _rounded(sum(row["mma_flops"] for row in records), problem.least_flops()),
        "bytes_over_minimum": _rounded(sum(row["bytes_moved"] for row in records), minimum),
        "tile_bytes_over_minimum": _rounded(sum(row["bytes_loaded"] + row["bytes_stored"] for row in records), minimum),
        "kernels": kernels,
    }


def _kernel_counts(row: dict[str, Any]) -> Counts:
    """Counts of a kernel; those that only a product has are left out of a second pass."""
    counts = {name: row[name] for name in ("registers", "stack_bytes", "spills", "shared_bytes")}
    if row["loop"] is not None:
        counts |= {f"loop_{name}": count for name, count in row["loop"].items()}
    if row["issue"]["ratio"] is not None:
        counts["issue_ratio"] = round(row["issue"]["ratio"], 3)
    if row["useful_flops"]:
        counts["mma_over_useful"] = _rounded(row["mma_flops"], row["useful_flops"])
        counts["bytes_over_minimum"] = _rounded(row["bytes_moved"], row["bytes_min"])
        counts["tile_bytes_over_minimum"] = _rounded(row["bytes_loaded"] + row["bytes_stored"], row["bytes_min"])
    return {"kernel": row["name"], "config": _config(row)} | counts


def _config(row: dict[str, Any]) -> str:
    config = row["config"]
    tile = " ".join(f"{axis}{size}" for axis, size in config["blocks"].items())
    plan = (
        f", order {config['order']}, splits {config['splits']}, groups {config['groups']}" if "order" in config else ""
    )
    return f"{tile}, {row['num_warps']} warps, {row['num_stages']} stages{plan}"


def _rounded(value: float, unit: float) -> float:
    return round(value / unit, 3) if unit else 0.0


def compare(before: dict[str, Counts], now: dict[str, Counts]) -> list[Change]:
    """What changed, step by step. A step or a kernel that is no longer there is worse: nothing guards it any more."""
    changes = []
    for step, old in before.items():
        if step not in now:
            changes.append(Change(step, "step", "there", "gone", True))
            continue
        new = now[step]
        changes += _compare_counts(step, _totals(old), _totals(new))
        for kernel, counts in old["kernels"].items():
            where = f"{step}, {kernel}"
            if kernel in new["kernels"]:
                changes += _compare_kernels(where, counts, new["kernels"][kernel])
            else:
                changes.append(Change(where, "kernel", "there", "gone", None))
        changes += [
            Change(f"{step}, {kernel}", "kernel", "none", "new", _error(counts) is not None or None)
            for kernel, counts in new["kernels"].items()
            if kernel not in old["kernels"]
        ]
    return changes


# What a smaller or larger number means depends on the tile: another tile has other registers, and a longer loop.
_OF_THE_TILE = frozenset({"registers", "shared_bytes", "loop_instructions", "loop_matrix_instructions"})


def _compare_kernels(where: str, before: Counts, now: Counts) -> list[Change]:
    if _error(now) or _error(before):
        change = Change(where, "error", _error(before), _error(now), _error(now) is not None)
        return [] if change.before == change.now else [change]
    if (before["kernel"], before["config"]) == (now["kernel"], now["config"]):
        return _compare_counts(where, before, now)
    described = Change(
        where, "config", f"{before['kernel']} {before['config']}", f"{now['kernel']} {now['config']}", None
    )
    return [described] + [
        Change(where, change.count, change.before, change.now, None if change.count in _OF_THE_TILE else change.worse)
        for change in _compare_counts(where, before, now)
    ]


def _compare_counts(where: str, before: Counts, now: Counts) -> list[Change]:
    """Numbers that both have, and differ. More is worse, but for matrix instructions, of which fewer are."""
    changes = []
    for name, old in before.items():
        new = now.get(name)
        if isinstance(old, str) or new is None or new == old:
            continue
        more = new > old
        changes.append(Change(where, name, old, new, not more if name == "loop_matrix_instructions" else more))
    return changes


def _totals(step: Counts) -> Counts:
    return {name: value for name, value in step.items() if name != "kernels"}


def _error(kernel: Counts) -> str | None:
    return kernel.get("error")


def case_name(gpu: str, problem: StepProblem) -> str:
    """The key of a step in counts.json."""
    return f"{gpu}, {str(problem.dtype).removeprefix('torch.')} {','.join(map(str, problem.shape))}"


def compiler() -> str:
    """The compiler's version, as counts.json is keyed."""
    found = versions()
    return f"triton {found['triton']}, ptxas {found['ptxas']} and {found['ptxas_blackwell']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing with them")
    options = parser.parse_args()
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    if not options.update and compiler() not in stored:
        known = "; ".join(stored) or "none"
        print(f"no counts for {compiler()} (there are: {known}); run: python bench/counts.py --update", file=sys.stderr)
        return 1
    now = measure(CASES)
    if options.update:
        FILE.write_text(json.dumps(stored | {compiler(): now}, indent=1) + "\n")
        print(f"{len(now)} steps written to {FILE.name} for {compiler()}")
        return 0
    changes = compare(stored[compiler()], now)
    for change in sorted(changes, key=lambda change: {True: 0, None: 1, False: 2}[change.worse]):
        print(change)
    worse = sum(change.worse is True for change in changes)
    print(f"{len(now)} steps compared: {worse} counts worse, {len(changes) - worse} changed or better")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
