"""Times one training step (forward and the gradients of x, y, weight and bias) of a bilinear layer on the CPU.

    python bench/cpu_step.py [--quick] [--dtype float32] [--case NAME] [--rounds N] [--json FILE]

Rivals run in turn within this process, on the same inputs, in an order that rotates from round to round; the figures
are medians. A rival is timed only if its numbers are right (against float64). Beside the times stand two prices:
`sgemm`, three contractions at the rate that a large square product of the same dtype (float32 for half precision)
reaches in the same rounds, and `linear`, the three plain products of a linear layer on x (x) y, had its features come
for free.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from math import exp, log
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cpu_cases import CASES, Case
from triton_bilinear import cpu

try:
    from triton_bilinear import bilinear
except ImportError:
    bilinear = None

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # x, y, weight, bias, gradient of the result
Step = Callable[[], tuple[Tensor, ...]]  # -> result and the gradients of x, y, weight, bias

SQUARE = 1024  # edge of the square product that gives the machine's rate
F_BILINEAR_RATE = 2e8  # multiply-adds a second, at worst: decides whether F.bilinear is worth waiting for
LONGEST = 20.0  # seconds of one step beyond which a rival is skipped
LARGEST = 2**30  # elements of a materialised product beyond which the linear price is not taken


def by_autograd(inputs: Inputs, forward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Step:
    leaves = [t.detach().requires_grad_() for t in inputs[:4]]
    gradient = inputs[4]

    def step() -> tuple[Tensor, ...]:
        out = forward(*leaves)
        return (out.detach(), *torch.autograd.grad(out, leaves, gradient))

    return step


def x_first(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bln,bn->bl", torch.einsum("bm,lmn->bln", x, weight), y) + bias


def y_first(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("blm,bm->bl", torch.einsum("bn,lmn->blm", y, weight), x) + bias


def pairs_first(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bmn,lmn->bl", torch.einsum("bm,bn->bmn", x, y), weight) + bias


def by_primitives(inputs: Inputs) -> Step:
    """Ours without autograd's bookkeeping."""
    x, y, weight, bias, g = inputs

    def step() -> tuple[Tensor, ...]:
        out, dx, dy, dw = torch.empty_like(g), torch.empty_like(x), torch.empty_like(y), torch.empty_like(weight)
        if weight.shape[0] <= 2:
            kept = x.new_empty(x.shape[0], weight.shape[0], y.shape[1])
            cpu.contract_keep(x, y, weight, bias, out, kept)
            cpu.contract(g, y, weight.permute(1, 0, 2), None, dx)
            torch.bmm(g.unsqueeze(1), kept, out=dy.unsqueeze(1))
        else:
            cpu.contract(x, y, weight, bias, out)
            cpu.grad_inputs(g, x, y, weight, dx, dy)
        cpu.grad_weight(g, x, y, dw)
        return out, dx, dy, dw, g.sum(0)

    return step


def linear_price(inputs: Inputs, shapes: Case) -> Step:
    """The products of a linear layer with B x (M N) features; its numbers are not the bilinear layer's."""
    _, _, weight, _, g = inputs
    features = torch.randn(shapes.batch, shapes.m * shapes.n, dtype=g.dtype)
    flat = weight.reshape(shapes.l, -1)

    def step() -> tuple[Tensor, ...]:
        return features @ flat.t(), g @ flat, g.t() @ features

    return step


def square_product() -> Step:
    a, out = torch.randn(SQUARE, SQUARE), torch.empty(SQUARE, SQUARE)
    return lambda: (torch.mm(a, a, out=out),)


def make_inputs(case: Case, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shapes = ((case.batch, case.m), (case.batch, case.n), (case.l, case.m, case.n), (case.l,), (case.batch, case.l))
    x, y, weight, bias, g = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, y, weight, bias, g


def truth(inputs: Inputs) -> tuple[Tensor, ...]:
    """The step in float64, a slice of the batch at a time."""
    x, y, weight, bias, g = (t.double() for t in inputs)
    rows = max(1, 2**24 // (x.shape[1] * y.shape[1]))
    flat = weight.flatten(1)
    out, dx, dy = torch.empty_like(g), torch.empty_like(x), torch.empty_like(y)
    dw = torch.zeros_like(flat)
    for start in range(0, len(x), rows):
        s = slice(start, start + rows)
        pairs = (x[s, :, None] * y[s, None, :]).flatten(1)
        tile = (g[s] @ flat).view(-1, x.shape[1], y.shape[1])
        out[s] = pairs @ flat.t() + bias
        dx[s], dy[s] = (tile @ y[s, :, None]).squeeze(2), (x[s, None, :] @ tile).squeeze(1)
        dw += g[s].t() @ pairs
    return out, dx, dy, dw.view_as(weight), g.sum(0)


def error(results: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(results, expected, strict=True) if b.numel())


def rivals(case: Case, inputs: Inputs) -> dict[str, Step]:
    """What is compared. Whoever would take too long is left out, and said so."""
    steps: dict[str, Step] = {"ours": by_autograd(inputs, bilinear) if bilinear else by_primitives(inputs)}
    steps |= {f.__name__: by_autograd(inputs, f) for f in (x_first, y_first, pairs_first)}
    if 4 * case.unit / F_BILINEAR_RATE <= LONGEST:
        steps["F.bilinear"] = by_autograd(inputs, F.bilinear)
    else:
        print(f"  {case.name}: F.bilinear skipped, it could take over {LONGEST:.0f} s a step")
    return steps


def seconds(step: Step, least: float) -> float:
    """Seconds of one step, repeated to last `least` seconds or so where one is short."""
    count, elapsed = 0, 0.0
    start = time.perf_counter()
    while elapsed < least or not count:
        step()
        count += 1
        elapsed = time.perf_counter() - start
    return elapsed / count


def run_case(case: Case, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    inputs = make_inputs(case, dtype)
    expected = truth(inputs)
    bound = {torch.float32: 1e-4, torch.float64: 1e-12}.get(dtype, 5e-2)
    steps = {}
    for name, step in rivals(case, inputs).items():
        size = error(step(), expected)
        if size <= bound:
            steps[name] = step
        else:
            print(f"  {case.name}: {name} is wrong (relative error {size:.1e}), not timed")
    del expected
    if case.batch * case.m * case.n <= LARGEST:
        steps["linear"] = linear_price(inputs, case)
    steps["square"] = square_product()
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if name == "F.bilinear" and i >= 3 and samples[name][0] > 0.5:
                continue
            samples[name].append(seconds(steps[name], 0.01))
    return {"case": asdict(case), "sizes": case.sizes, "samples": samples}


def summarise(record: dict) -> dict[str, float]:
    """Ratios of medians: how many times ours is faster than each rival, and its share of the square product's rate."""
    middle = {name: statistics.median(samples) for name, samples in record["samples"].items()}
    case = Case(**record["case"])
    ours = middle["ours"]
    floor = 3 * case.unit / (SQUARE**3 / middle["square"])
    orders = [middle[name] for name in ("x_first", "y_first", "pairs_first") if name in middle]
    low, high = statistics.quantiles(record["samples"]["ours"], n=4)[::2]
    summary = {"ms": 1e3 * ours, "spread": (high - low) / ours, "einsum": min(orders) / ours, "sgemm": floor / ours}
    if "F.bilinear" in middle:
        summary["F.bilinear"] = middle["F.bilinear"] / ours
    if "linear" in middle:
        summary["linear"] = middle["linear"] / ours
    return summary


def geometric_mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


COLUMNS = ("ms", "spread", "einsum", "F.bilinear", "sgemm", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the short cases only, fewer rounds")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=int, help="default 15, quick 7")
    parser.add_argument("--json", type=Path, help="write the machine, the versions and every sample here")
    options = parser.parse_args()
    rounds = options.rounds or (7 if options.quick else 15)
    cases = [c for c in CASES if (c.quick or not options.quick) and (options.case or "") in c.name]
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{options.dtype}, medians of {rounds} rounds; times faster than the best einsum order and than F.bilinear;")
    print("share of the rate of a square product (sgemm) and of a linear layer's (linear)")
    print(f"{'case':22s} {'(B, L, M, N)':24s}" + "".join(f"{c:>11s}" for c in COLUMNS), flush=True)
    records, summaries = [], []
    for case in cases:
        record = run_case(case, getattr(torch, options.dtype), rounds)
        summary = summarise(record)
        cells = "".join(f"{summary[c]:11.2f}" if c in summary else f"{'-':>11s}" for c in COLUMNS)
        print(f"{case.name:22s} {case.sizes:24s}{cells}", flush=True)
        records.append(record | {"summary": summary})
        summaries.append(summary)
    for column in ("einsum", "sgemm"):
        print(f"geometric mean, {column}: {geometric_mean([s[column] for s in summaries]):.2f}")
    if options.json:
        machine = {"machine": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.json.write_text(json.dumps(machine | {"dtype": options.dtype, "records": records}, indent=1))


if __name__ == "__main__":
    main()
