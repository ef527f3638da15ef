"""The command `compile`: a training step planned for named GPUs, and its kernels compiled, on a machine without any.

    python -m triton_bilinear compile --gpu "NVIDIA H100 80GB HBM3" --dtype bf16 --shape 4096,256,256,256 --out DIR

DIR gets the machine code of each kernel (cubin, hsaco), its readable form (ptx, amdgcn) and manifest.json: "versions",
"kernels" (a record for each launch of each step, in order; see inspection.manifest) and "failures". To launch a cubin
by hand: `name` is its symbol; a block has 32 * num_warps threads and shared_bytes of dynamic shared memory; it takes
`parameters` in their order, then two null pointers (scratch memory, which these kernels do not use).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..backend import triton_installed
from ..inspection.problem import StepProblem, parse_dtype, parse_shape, step_of
from ..tuning.devices import DeviceSpec, find_device
from .progress import advance, progress


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Describe the command and its options."""
    parser = subparsers.add_parser("compile", help="compile a training step's kernels for named GPUs, without one")
    parser.add_argument("--gpu", action="append", required=True, help="a GPU's name; several are taken")
    parser.add_argument(
        "--shape", action="append", required=True, help="B,L,M,N, or B,S,T,L,M,N of pairs; several are taken"
    )
    parser.add_argument("--dtype", required=True, help="bf16, fp16, fp32, fp64 or torch's name")
    parser.add_argument("--out", required=True, type=Path, help="folder for the kernels and manifest.json")
    parser.add_argument("--json", action="store_true", help="print the manifest")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compile and write; 0 where all compiled, 1 where a kernel did not, 2 where nothing can be done."""
    if not triton_installed():
        print("compile: triton is not installed; install it with: pip install triton", file=sys.stderr)
        return 2
    try:
        devices = list(dict.fromkeys(find_device(name) for name in args.gpu))
        dtype = parse_dtype(args.dtype)
        steps = [step_of(shape, dtype) for shape in dict.fromkeys(map(parse_shape, args.shape))]
    except (LookupError, ValueError) as error:
        print(f"compile: {error}", file=sys.stderr)
        return 2
    try:
        manifest = compile_steps([(device, step) for device in devices for step in steps], args.out)
    except OSError as error:
        print(f"compile: cannot write to {args.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(manifest, indent=1))
    else:
        for kernel in manifest["kernels"]:
            print(_line(kernel))
        print(f"{len(manifest['kernels'])} kernels in {args.out}")
    for failure in manifest["failures"]:
        print(f"compile: {failure['op']} for {failure['gpu']} failed: {failure['error']}", file=sys.stderr)
    return 1 if manifest["failures"] else 0


def compile_steps(steps: Sequence[tuple[DeviceSpec, StepProblem]], folder: Path) -> dict[str, Any]:
    """The manifest of these steps, written to the folder with the kernels' files."""
    from ..inspection.compiled import compile_launches, step_launches
    from ..inspection.manifest import CODE, TEXT, file_stems, record
    from ..tuning.compiler import CompileFailure
    from ..tuning.pool import CompilerPool
    from ..tuning.versions import versions

    folder.mkdir(parents=True, exist_ok=True)
    launches = [each for device, problem in steps for each in step_launches(problem, device)]
    with CompilerPool() as pool, progress((), "compiling") as bar:
        results = compile_launches(launches, pool, partial(advance, bar))
    kernels, failures = [], []
    for each, stem, result in zip(launches, file_stems(launches), results, strict=True):
        if isinstance(result, CompileFailure):
            failures.append({"op": each.op.name, "gpu": each.device.name, "error": _last_line(result.error)})
            continue
        files = {}
        for key, endings in (("file", CODE), ("text_file", TEXT)):
            ending = next(ending for ending in endings if ending in result.artifacts)
            files[key] = f"{stem}.{ending}"
            content = result.artifacts[ending]
            (folder / files[key]).write_bytes(content if isinstance(content, bytes) else content.encode())
        kernels.append({**files, **record(each, result)})
    manifest = {"versions": versions(), "kernels": kernels, "failures": failures}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def _line(kernel: dict[str, Any]) -> str:
    """One row for people."""
    ratio = kernel["issue"]["ratio"]
    issue = "" if ratio is None else f", issue/matrix {ratio:.2f}"
    sizes = ",".join(map(str, kernel["shape"]))
    return (
        f"{kernel['gpu']} {sizes} {kernel['op']:12} {kernel['name']:28} {kernel['registers']:3} registers, "
        f"stack {kernel['stack_bytes']}, {kernel['shared_bytes']:6} B shared{issue}, {kernel['origin']}"
    )
