"""Performance-regression tests, on whatever device is there. Nothing here compares absolute times of two runs.

    python bench/regress.py --base REV       this tree against another revision, both timed in turn, case by case
    python bench/regress.py --expected       ratios against rivals, against those in expectations.json
    python bench/regress.py --update         write this device's ratios there, of several runs

`--base` builds the revision in a temporary git worktree. For each case the tree is first timed against itself, as two
processes: that shows the noise band; then against the base. A case fails where its ratio lies beyond the band with all
of its uncertainty; see `paired.py`. `--expected` fails where ours is slower, compared with a rival, than in any of the
stored runs by more than a band; a device without expectations is skipped. `--case NAME` chooses cases.

Status: 0, 1 for a regression, 2 where nothing can be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.paired import Pair, Verdict, judge
from triton_bilinear.benchmark.cases import CASES, Case
from triton_bilinear.benchmark.measure import QUICK, Bench, Record
from triton_bilinear.benchmark.report import BEST_EINSUM, machine, ours_are_right, speedup
from triton_bilinear.benchmark.rivals import F_BILINEAR, LINEAR
from triton_bilinear.benchmark.suite import chosen, measured
from triton_bilinear.commands.machine import default_device
from triton_bilinear.commands.progress import progress

TREE = Path(__file__).resolve().parent.parent
FILE = Path(__file__).with_name("expectations.json")
PAIRS = 25
SAMPLE_SECONDS = 0.03

# Runs that make an expectation, and by how much a ratio may fall short of the lowest of theirs: another day, another
# load, another build of torch.
RUNS = 3
EXPECTED_BAND = 0.15

Ratios = dict[str, dict[str, float]]  # case and dtype -> rival -> its time over ours
Expectations = dict[str, dict[str, list[float]]]  # the same of each run


class Worker:
    """A process that times the steps of one tree."""

    def __init__(self, tree: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("step_worker.py")), str(tree)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._tree = tree

    def prepare(self, request: dict[str, Any]) -> None:
        """RuntimeError where the package comes from somewhere else than the tree."""
        origin = Path(self._ask({"prepare": request})["origin"])
        if self._tree not in origin.parents:
            raise RuntimeError(f"expected triton_bilinear from {self._tree}, got {origin}")

    def seconds(self) -> float:
        return self._ask({"time": SAMPLE_SECONDS})["seconds"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that times {self._tree} ended")
        return json.loads(answer)


def request_of(case: Case, device: str) -> dict[str, Any]:
    """What a worker needs to know of a case."""
    names = ("x", "y", "weight", *(("bias",) if case.bias else ()), "g")
    tensors = {}
    for name in names:
        axes = case.axes(name)
        stored = case.stored.get(name, axes)
        tensors[name] = {
            "shape": [case.sizes[axis] for axis in axes],
            "order": [axes.index(axis) for axis in stored],
            "width": case.sliced if name in ("x", "y") else 1,
        }
    function = case.form.function
    plain, keywords = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    return {
        "function": plain.__name__, "keywords": keywords, "tensors": tensors, "gradients": case.gradients,
        "dtype": case.dtype, "device": device,
    }  # fmt: skip


def take_pairs(one: Worker, other: Worker) -> list[Pair]:
    """Times in turn; who goes first changes from pair to pair."""
    pairs = []
    for turn in range(PAIRS):
        if turn % 2:
            second = other.seconds()
            pairs.append((one.seconds(), second))
        else:
            first = one.seconds()
            pairs.append((first, other.seconds()))
    return pairs


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """The files of a revision, in a folder that goes away again. CalledProcessError for an unknown one."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "base"
        git = ("git", "-C", str(TREE), "worktree")
        subprocess.run([*git, "add", "--detach", str(tree), revision], check=True, capture_output=True, text=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def compare_trees(cases: Sequence[Case], base: Path, device: str) -> Iterator[tuple[Case, Verdict]]:
    """Each case: this tree against itself, then against the base."""
    with ExitStack() as stack:
        this, twin, other = (Worker(tree) for tree in (TREE, TREE, base))
        for worker in (this, twin, other):
            stack.callback(worker.close)
        for case in progress(cases, "comparing"):
            for worker in (this, twin, other):
                worker.prepare(request_of(case, device))
            against_itself = take_pairs(this, twin)
            yield case, judge(take_pairs(this, other), against_itself)


def line(case: Case, verdict: Verdict) -> str:
    """One row for people."""
    ratio = verdict.ratio
    word = "SLOWER" if verdict.slower else "ok"
    return (
        f"{case.name:22}{ratio.middle:6.3f} times the base's time ({ratio.low:.3f} to {ratio.high:.3f}); "
        f"band {verdict.band:.1%}, sees {verdict.resolution:.1%} and more  {word}"
    )


def ratios(records: Sequence[Record]) -> Ratios:
    """Times of rivals over ours, for whole steps."""
    found = {}
    for record in records:
        known = {name: speedup(record, name) for name in (BEST_EINSUM, F_BILINEAR, LINEAR)}
        rounded = {name: round(ratio, 3) for name, ratio in known.items() if ratio is not None}
        found[f"{record.case.name}, {record.case.dtype}"] = rounded
    return found


def gathered(runs: Sequence[Ratios]) -> Expectations:
    """What expectations.json holds of a device. A run may lack a rival: one that then seemed too slow to be timed."""
    found: Expectations = {}
    for run in runs:
        for case, of_rivals in run.items():
            for rival, ratio in of_rivals.items():
                found.setdefault(case, {}).setdefault(rival, []).append(ratio)
    return found


def shortfalls(expected: Expectations, now: Ratios) -> list[str]:
    """Where ours has lost against a rival, in words. A rival that was not timed now says nothing."""
    found = []
    for case in expected.keys() & now.keys():
        for rival, runs in expected[case].items():
            got = now[case].get(rival)
            if got is not None and got < min(runs) * (1 - EXPECTED_BAND):
                expectation = f"{min(runs):.2f} to {max(runs):.2f}"
                found.append(f"{case}: {rival} takes {got:.2f} times as long as ours, expected {expectation}")
    return sorted(found)


def device_key(about: dict[str, Any]) -> str:
    """How a device is called in expectations.json: threads make another device of a CPU."""
    return f"{about['device']}, {about['threads']} threads"


def run_base(cases: Sequence[Case], revision: str, device: str) -> int:
    """Compare with a revision and print; the status."""
    try:
        with worktree(revision) as base:
            verdicts = []
            for case, verdict in compare_trees(cases, base, device):
                print(line(case, verdict), flush=True)
                verdicts.append(verdict)
    except subprocess.CalledProcessError as error:
        return _fail(f"no worktree of {revision}: {(error.stderr or str(error)).strip()}")
    except RuntimeError as error:
        return _fail(str(error))
    slower = sum(verdict.slower for verdict in verdicts)
    print(f"{len(verdicts)} cases against {revision}: {slower} slower beyond the noise")
    return 1 if slower else 0


class NotTimedError(Exception):
    """There is no time of ours for a case."""


def timed(device: torch.device, cases: Sequence[Case]) -> Ratios:
    """The ratios of one run. NotTimedError where ours was wrong, failed or did not fit."""
    records = list(measured(Bench(device, QUICK), cases, "timing"))
    missing = {case.name for case in cases} - {record.case.name for record in records if ours_are_right([record])}
    if missing:
        raise NotTimedError(f"no time of ours for {', '.join(sorted(missing))}: wrong, failed or too large")
    return ratios(records)


def run_update(cases: Sequence[Case]) -> int:
    """Write this device's ratios; the status."""
    device = default_device()
    key, stored = device_key(machine(device)), stored_expectations()
    try:
        written = gathered([timed(device, cases) for _ in range(RUNS)])
    except NotTimedError as error:
        return _fail(str(error))
    known = stored.get(key, {}) | written
    FILE.write_text(json.dumps(stored | {key: known}, indent=1, sort_keys=True) + "\n")
    print(f"{len(written)} cases written for {key}")
    return 0


def run_expected(cases: Sequence[Case]) -> int:
    """Compare this device's ratios with the expected ones; the status."""
    device = default_device()
    key, stored = device_key(machine(device)), stored_expectations()
    if key not in stored:
        print(f"SKIPPED: no expectations for {key}; known are: {'; '.join(stored) or 'none'}")
        return 0
    try:
        now = timed(device, cases)
    except NotTimedError as error:
        return _fail(str(error), status=1)
    found = shortfalls(stored[key], now)
    summary = f"{len(now)} cases on {key}: {len(found)} ratios below what is expected by more than {EXPECTED_BAND:.0%}"
    print("\n".join([*found, summary]))
    return 1 if found else 0


def stored_expectations() -> dict[str, Expectations]:
    """By device."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def _fail(message: str, status: int = 2) -> int:
    print(f"regress: {message}", file=sys.stderr)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--base", metavar="REV", help="compare with this revision")
    mode.add_argument("--expected", action="store_true", help="compare with expectations.json")
    mode.add_argument("--update", action="store_true", help="write this device's ratios to expectations.json")
    parser.add_argument("--case", action="append", help="cases whose name contains this; several are taken")
    options = parser.parse_args(arguments)
    device = default_device()
    try:
        cases = chosen(CASES if options.case else [case for case in CASES if case.quick], options.case, None)
    except ValueError as error:
        return _fail(str(error))
    if options.base:
        return run_base([case.on(device) for case in cases], options.base, str(device))
    return run_update(cases) if options.update else run_expected(cases)


if __name__ == "__main__":
    sys.exit(main())
