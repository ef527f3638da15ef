"""The command `bench`: this machine's times and memory of a bilinear layer, ours and everybody else's.

    python -m triton_bilinear bench
    python -m triton_bilinear bench --case DimeNet --dtype bf16 --json FILE --plot DIR

A quick set of cases by default. A rival whose numbers are wrong gets no time, ours included: then the status is 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ..benchmark.cases import CASES, batch_sweep, output_sweep
from ..benchmark.measure import QUICK, Bench
from ..benchmark.suite import Outputs, chosen, run_suite
from .machine import default_device

# Few and small enough for a minute more.
_LARGEST_BATCH, _SWEEP_BATCH = 64000, 1024


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Describe the command and its options."""
    parser = subparsers.add_parser("bench", help="time and memory: ours, torch's, einsum's, a linear layer's")
    parser.add_argument("--case", action="append", help="cases whose name contains this; several are taken")
    parser.add_argument("--dtype", action="append", help="bf16, fp16, fp32, fp64; several are taken")
    parser.add_argument("--rounds", type=int, default=QUICK.rounds, help=f"samples of each (default {QUICK.rounds})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine, versions and every sample")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw PNGs; measures what grows for some of them")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 1 where a case of ours has no time, or 2 where nothing can be done."""
    device = default_device()
    try:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"times are taken on CPUs and on CUDA and ROCm GPUs; this machine has {device.type}")
        bench = Bench(device, replace(QUICK, rounds=args.rounds))
        outputs = Outputs(args.json, args.plot)
        cases = chosen(CASES if args.case else [case for case in CASES if case.quick], args.case, args.dtype)
        outputs.prepare()
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    sweeps = (batch_sweep(_LARGEST_BATCH), output_sweep(_SWEEP_BATCH))
    return run_suite(bench, cases, sweeps, outputs)
