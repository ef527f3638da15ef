"""What of a training step on the CPU is matrix products, and what more speed would take than torch's own operators.

    python bench/products.py [--case NAME ...] [--dtype float32]

For every case: the step against the best of einsum's orders, the linear price and F.bilinear; the shares of its time,
by torch's profiler, in matrix products, in what reads or writes an intermediate one by one (products of x and y, dot
products with a row or sums of weighted rows, copies), and in everything else (calls); and how fast the step would be,
against the same best einsum and F.bilinear, were the matrix products all there is. That is the bound for a kernel that
does the rest while it packs the operands of its products, which no operator of torch does. In bfloat16 on a matrix unit
products are such passes too where each row of the batch is a matrix of its own with one row or a sum of one term.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from triton_bilinear.benchmark.cases import CASES, Case, draw
from triton_bilinear.benchmark.measure import QUICK, Bench
from triton_bilinear.benchmark.report import BEST_EINSUM, floor_share, geometric_mean, speedup
from triton_bilinear.benchmark.rivals import F_BILINEAR, LINEAR, OURS, Step, rivals
from triton_bilinear.benchmark.suite import chosen

CPU = torch.device("cpu")
RUNS = 10
# Of torch's operators: matrix products, unless one is a row (those are dot products), and passes over elements.
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_"} | {
    "mkldnn::_linear_pointwise"  # oneDNN's
}
PASSES = {"aten::mul", "aten::add", "aten::add_", "aten::copy_", "aten::sum", "aten::zero_", "aten::fill_"} | {
    "aten::native_channel_shuffle",  # transposes
    "aten::_embedding_bag_forward_only",  # products of x and y, and weighted rows added up
}


@dataclass(frozen=True)
class Shares:
    """Of a step's time; the rest is calls."""

    products: float
    passes: float


def shares(step: Step) -> Shares:
    """Where a step's time goes."""
    step.backward(step.forward())
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        for _ in range(RUNS):
            step.backward(step.forward())
    spent = {"products": 0.0, "passes": 0.0, "rest": 0.0}
    for event in profiled.key_averages(group_by_input_shape=True):
        spent[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total
    total = sum(spent.values())
    return Shares(spent["products"] / total, spent["passes"] / total)


def kind_of(operator: str, shapes: list[list[int]]) -> str:
    """Of the matrices of a batched product the one with a single row is a vector: its result is dot products."""
    if operator in PRODUCTS:
        matrices = [shape for shape in shapes if len(shape) == 3]
        return "passes" if any(1 in shape[1:] for shape in matrices) else "products"
    return "passes" if operator in PASSES else "rest"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="part of a case's name; all by default")
    parser.add_argument("--dtype", default="float32", help="bf16, fp16, fp32 or fp64; float32 by default")
    options = parser.parse_args()
    try:
        cases = chosen(CASES, options.case, [options.dtype])
    except ValueError as error:
        print(f"products: {error}", file=sys.stderr)
        return 2
    bench = Bench(CPU, replace(QUICK, compile_seconds=0.0))
    print(f"{'':22s}  times as fast as                share of the step        of matmul's  products alone: times")
    print(f"{'case':22s}  best einsum  linear  F.bilin.   products  passes  calls        rate  best einsum  F.bilin.")
    rows = [row for case in cases if (row := measured(bench, case)) is not None]
    if not rows:
        print("products: no order of einsum was timed, each takes too long", file=sys.stderr)
        return 2
    for label, values in zip(
        ("against best einsum", "the same, products alone", "share of the rate of a large matrix product"),
        zip(*rows, strict=True),
        strict=True,
    ):
        print(f"geometric mean of {len(values)} cases, {label}: {geometric_mean(values):.2f}")
    return 0


def measured(bench: Bench, case: Case) -> tuple[float, ...] | None:
    """Prints a case's line; the step's speed against the best einsum, that of its products alone, the share of a large
    product's rate; None where no einsum was timed.
    """
    record = bench.run(case)
    ours = next(rival for rival in rivals(record.case, CPU) if rival.name == OURS)
    of = shares(ours.build(record.case, draw(record.case, CPU)))
    against, linear, f_bilinear = (speedup(record, name) for name in (BEST_EINSUM, LINEAR, F_BILINEAR))
    share = floor_share(record)
    if against is None or share is None:
        print(f"{case.name:22s}  not timed", flush=True)
        return None
    alone = against / of.products
    print(
        f"{case.name:22s}  {against:11.2f}  {_ratio(linear, 2):>6s}  {_ratio(f_bilinear, 1):>8s}  {of.products:9.0%}"
        f"  {of.passes:6.0%}  {1 - of.products - of.passes:5.0%}  {share:10.0%}  {alone:11.2f}"
        f"  {_ratio(f_bilinear and f_bilinear / of.products, 1):>8s}",
        flush=True,
    )
    return against, alone, share


def _ratio(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
