"""Every case, everything that grows, and every plot: what the README shows.

    python bench/run_all.py OUT [--case NAME] [--dtype float32 --dtype bfloat16] [--rounds 15] [--budget 30]

writes OUT/results.json and PNGs. Takes an hour or so on two cores; nothing else should run meanwhile. With --case, only
the cases whose names contain one of these, and nothing that grows. A rival is skipped of which a step takes longer than
the budget, in seconds, as F.bilinear's does at the largest sizes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from triton_bilinear.benchmark.cases import CASES, batch_sweep, output_sweep
from triton_bilinear.benchmark.measure import FULL, Bench
from triton_bilinear.benchmark.suite import Outputs, chosen, run_suite
from triton_bilinear.commands.machine import default_device


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for results.json and the PNGs")
    parser.add_argument("--case", action="append", help="part of a case's name; several are taken")
    parser.add_argument("--dtype", action="append", help="fp32, bf16, ...; by default what each case's user has")
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--budget", type=float, default=FULL.budget, help="seconds of each rival of a case")
    options = parser.parse_args()
    try:
        bench = Bench(default_device(), replace(FULL, rounds=options.rounds, budget=options.budget))
        outputs = Outputs(options.out / "results.json", options.out)
        cases = chosen(CASES, options.case, options.dtype)
        outputs.prepare()
    except ValueError as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2
    sweeps = ((), ()) if options.case else (batch_sweep(1_100_000), output_sweep(4096))
    return run_suite(bench, cases, sweeps, outputs)


if __name__ == "__main__":
    sys.exit(main())
