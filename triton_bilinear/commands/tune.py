"""The command `tune`: finds configs and stores them in the user's folder, where the planner looks first.

    python -m triton_bilinear tune --shape 4096,256,256,256 --dtype bf16
    python -m triton_bilinear tune --predict --gpu "NVIDIA H100 80GB HBM3" --set targets

The first measures on this machine's GPU; the second asks the cost model and the compiler and needs no GPU. The folder
is the one that TRITON_BILINEAR_CONFIGS names, or ~/.triton_bilinear.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backend import triton_installed
from ..inspection.problem import StepProblem, parse_dtype, parse_shape, step_of
from .machine import default_device, interpreting
from .progress import advance, progress

if TYPE_CHECKING:
    from ..planning.problem import Problem
    from ..tuning.devices import DeviceSpec
    from ..tuning.schema import Entry

SETS = ("targets", "users")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Describe the command and its options."""
    parser = subparsers.add_parser("tune", help="find the fastest configs for given sizes and store them")
    parser.add_argument(
        "--shape", action="append", default=[], help="B,L,M,N, or B,S,T,L,M,N of pairs; several are taken"
    )
    parser.add_argument("--set", action="append", default=[], choices=SETS, help="shapes by name; several are taken")
    parser.add_argument("--dtype", action="append", help="bf16 (the default), fp16, fp32, fp64; several are taken")
    parser.add_argument("--predict", action="store_true", help="by the cost model and the compiler; needs no GPU")
    parser.add_argument("--gpu", action="append", default=[], help="with --predict: a GPU's name, or all; several")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, a line for each problem")
    return parser


def run(args: argparse.Namespace) -> int:
    """Tune; 0 where every problem has an entry, 1 where one has none, 2 where nothing can be done."""
    if not triton_installed():
        return _fail("triton is not installed; install it with: pip install triton")
    from ..tuning.devices import device_names, find_device
    from ..tuning.store import FOLDER_VARIABLE, user_folder

    folder = user_folder()
    if folder is None:
        return _fail(f"no folder to write to; name one in {FOLDER_VARIABLE}")
    try:
        steps = _steps(args)
        names = [known for name in args.gpu for known in (device_names() if name == "all" else (name,))]
        devices = list(dict.fromkeys(map(find_device, names)))
    except (LookupError, ValueError) as error:
        return _fail(str(error))
    if args.predict != bool(devices):
        return _fail("--predict and --gpu NAME belong together")
    if not args.predict and (interpreting() or default_device().type != "cuda"):
        return _fail("no GPU here to measure on; predict for one with: tune --predict --gpu NAME")
    try:
        folder.mkdir(parents=True, exist_ok=True)  # before hours are spent
    except OSError as error:
        return _fail(f"cannot write to {folder}: {error.strerror or error}")
    found = _predicted(devices, steps, folder) if args.predict else _measured(steps, folder)
    return _show(found, args.json, folder)


def _steps(args: argparse.Namespace) -> list[StepProblem]:
    from ..tuning.sweep.problems import NAMED_SHAPES

    shapes = [parse_shape(text) for text in args.shape] + [shape for name in args.set for shape in NAMED_SHAPES[name]]
    if not shapes:
        raise ValueError("nothing to tune; name sizes with --shape B,L,M,N or --set " + "|".join(SETS))
    dtypes = [parse_dtype(name) for name in args.dtype or ["bf16"]]
    return [step_of(shape, dtype) for dtype in dict.fromkeys(dtypes) for shape in dict.fromkeys(shapes)]


def _problems(steps: Sequence[StepProblem], device: DeviceSpec) -> list[Problem]:
    from ..tuning.sweep.problems import step_problems

    return list(dict.fromkeys(problem for step in steps for problem in step_problems(step, device)))


# A problem on a device, its entry or None, and what was wrong with plans that were tried.
_Found = tuple["DeviceSpec", "Problem", "Entry | None", Sequence[str]]


def _predicted(devices: Sequence[DeviceSpec], steps: Sequence[StepProblem], folder: Path) -> Iterator[_Found]:
    from ..tuning.pool import CompilerPool
    from ..tuning.save import save
    from ..tuning.sweep.predict import predict

    # GPUs of one architecture share much of what has to be compiled.
    by_architecture = groupby(sorted(devices, key=lambda device: device.architecture), lambda each: each.architecture)
    with CompilerPool() as pool:
        for architecture, group in by_architecture:
            alike = list(group)
            problems = [(problem, device) for device in alike for problem in _problems(steps, device)]
            with progress((), f"compiling for {architecture}") as bar:
                found = predict(problems, pool, partial(advance, bar))
            for device in alike:
                save([each.entry for each in found if each.entry and each.device == device], device, folder)
            yield from ((each.device, each.problem, each.entry, each.faults) for each in found)


def _measured(steps: Sequence[StepProblem], folder: Path) -> Iterator[_Found]:
    from ..gpu.device import device_of
    from ..tuning.pool import CompilerPool
    from ..tuning.sweep.measure import Machine, sweep
    from ..tuning.sweep.sound import compile_plans
    from ..tuning.sweep.timer import GpuTimer

    where = torch.device("cuda", torch.cuda.current_device())
    machine = Machine(device_of(torch.empty(0, device=where)), where)
    timer = GpuTimer(where)
    problems = _problems(steps, machine.spec)
    with CompilerPool() as pool:
        outcomes = sweep(problems, machine, timer, folder, partial(compile_plans, pool=pool))
        for each in progress(outcomes, "tuning", total=len(problems)):
            yield machine.spec, each.problem, each.entry, each.rejected


def _show(found: Iterator[_Found], as_json: bool, folder: Path) -> int:
    """Print each problem when it is done; the exit status."""
    done = missing = 0
    try:
        for device, problem, entry, faults in found:
            done, missing = done + 1, missing + (entry is None)
            print(json.dumps(_record(device, problem, entry, faults)) if as_json else _line(device, problem, entry))
    except KeyboardInterrupt:
        print(f"tune: interrupted; {done} problems are in {folder}, the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(f"cannot write to {folder}: {error.strerror or error}")
    if not as_json:
        print(f"{done - missing} entries in {folder}")
    if missing:
        print(f"tune: {missing} problems have no plan that compiles and is right", file=sys.stderr)
    return 1 if missing else 0


def _record(device: DeviceSpec, problem: Problem, entry: Entry | None, faults: Sequence[str]) -> dict[str, Any]:
    from ..tuning.schema import entry_record

    found = None if entry is None else entry_record(entry)
    return {"gpu": device.name, "problem": str(problem), "entry": found, "rejected": list(faults)}


def _line(device: DeviceSpec, problem: Problem, entry: Entry | None) -> str:
    """One row for people."""
    from ..tuning.schema import op_of, sizes_of

    sizes = " ".join(f"{name} {size}" for name, size in sizes_of(problem).items())
    head = f"{device.name}, {op_of(problem)} {problem.dtype} {sizes}:"
    if entry is None:
        return f"{head} no plan"
    tile = " ".join(f"{axis}{size}" for axis, size in entry.config.blocks)
    plan = f"{head} {entry.config.kernel} {tile}, order {''.join(entry.order)}, splits {entry.splits}"
    if entry.measured is None:
        return f"{plan}, predicted"
    figures = f"measured {entry.measured.median_seconds * 1e6:.1f} us +- {entry.measured.spread_seconds * 5e5:.1f}"
    ratio = entry.measured.ratio
    return f"{plan}, {figures}" + ("" if ratio is None else f", {ratio:.2f} x as fast as the plan in use")


def _fail(message: str) -> int:
    print(f"tune: {message}", file=sys.stderr)
    return 2
