"""The command `check`: every public function and gradient against float64, on this machine's own device.

What may be wrong by how much is said in `bounds`; what is checked is listed in `problems`. On a GPU both backends are
checked in every dtype. Without one the torch backend is, and under TRITON_INTERPRET=1 the kernels too, at small sizes
and without bfloat16, which Triton's interpreter computes wrongly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from ...backend import triton_installed, use_backend
from ..machine import default_device, describe, interpreting
from .bounds import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32, Error, Exact, Precision, exact, worst_error
from .derive import cotangents, quantities
from .problems import Draw, Problem, problems


@dataclass(frozen=True)
class Finding:
    """What the check of one quantity of one problem found: an error, or why there is none."""

    quantity: str
    problem: Problem
    error: Error | None
    reason: str = ""

    @property
    def ratio(self) -> float:
        return float("inf") if self.error is None else self.error.ratio

    @property
    def missed(self) -> bool:
        return not self.ratio <= 1


@dataclass(frozen=True)
class Setting:
    """How problems are computed."""

    backend: str
    device: torch.device
    precision: Precision
    scale: str


def settings() -> Iterator[Setting]:
    """What this machine can check, in order."""
    device = default_device()
    scale = "medium" if device.type == "cpu" else "large"
    precisions = [FLOAT64, FLOAT32, FLOAT16, BFLOAT16]
    if device.type == "cuda":
        precisions.insert(2, TF32)
    if triton_installed() and (interpreting() or device.type != "cpu"):
        for precision in precisions:
            if not (interpreting() and precision is BFLOAT16):
                yield Setting("triton", device, precision, "small" if interpreting() else scale)
    for precision in precisions:
        yield Setting("torch", device, precision, scale)


def check_problem(problem: Problem, setting: Setting) -> list[Finding]:
    """Compute one problem and compare each of its quantities; an exception is a finding too."""
    precision = setting.precision
    draw = Draw(precision.dtype, setting.device)
    tensors = problem.tensors(draw)
    tensors += cotangents(problem, tensors, draw)
    # A second derivative chains two sums: in half precision a first sum is rounded, which is not this rule's case.
    second_order = precision.dtype in (torch.float64, torch.float32)
    try:
        references = exact(partial(quantities, problem.twin, problem.names, second_order), tensors)
        with use_backend(setting.backend), tf32_allowed(precision.allow_tf32):
            found = quantities(problem.function, problem.names, second_order, *tensors)
    except Exception as error:  # whatever a device or compiler raises belongs in the table, and the rest still runs
        return [Finding("all", problem, None, f"{type(error).__name__}: {error}")]
    return [_compare(name, problem, found[name], reference, precision) for name, reference in references.items()]


def _compare(name: str, problem: Problem, actual: torch.Tensor, exact: Exact, precision: Precision) -> Finding:
    try:
        return Finding(name, problem, worst_error(actual, exact, precision))
    except ValueError as error:
        return Finding(name, problem, None, str(error))


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """torch's own setting for float32 products on a GPU."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


HEADER = f"{'function':18}{'quantity':15}{'error':>9}{'bound':>9}{'ratio':>7}  worst of"


def line(finding: Finding) -> str:
    """One row of the table."""
    start = f"{finding.problem.operation:18}{finding.quantity:15}"
    if finding.error is None:
        return f"{start}{'-':>9}{'-':>9}{'-':>7}  {finding.problem.label}  FAILED: {finding.reason}"
    error = finding.error
    verdict = "  MISSED" if finding.missed else ""
    return f"{start}{error.error:9.1e}{error.bound:9.1e}{error.ratio:7.2f}  {finding.problem.label}{verdict}"


def rows(findings: list[Finding]) -> list[Finding]:
    """The worst finding of each quantity of each function, and every further one that missed."""
    worst: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.problem.operation, finding.quantity)
        if key not in worst or finding.ratio > worst[key].ratio:
            worst[key] = finding
    shown = list(worst.values())
    return shown + [finding for finding in findings if finding.missed and finding not in shown]


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Describe the command and its options."""
    parser = subparsers.add_parser("check", help="compare every function and gradient with float64 on this device")
    parser.add_argument("--all", action="store_true", help="show every problem, not only the worst of each quantity")
    return parser


def run(args: argparse.Namespace) -> int:
    """Check and print; 0 where every error meets its bound, 1 where one misses it."""
    print(f"{describe(default_device())}; errors and bounds are relative to the root of the terms' squares' sum")
    checked = missed = 0
    backends = set()
    for setting in settings():
        findings = [finding for problem in problems(setting.scale) for finding in check_problem(problem, setting)]
        print(f"\n{setting.backend} on {setting.device}, {setting.precision.name}\n{HEADER}")
        for finding in findings if args.all else rows(findings):
            print(line(finding))
        checked += len(findings)
        missed += sum(finding.missed for finding in findings)
        backends.add(setting.backend)
    if "triton" not in backends:
        print("\nTriton's kernels were not checked: that takes a GPU, or TRITON_INTERPRET=1, and triton installed")
    elif interpreting():
        print("\nkernels ran in Triton's interpreter: small sizes, and no bfloat16, which it computes wrongly")
    print(f"{checked} results checked, {missed} missed their bound")
    return 1 if missed else 0
