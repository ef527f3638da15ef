"""Configs for the GPU that is here: of the plans that the model likes best, the one that takes the least time.

The plan in use is always among them and is timed next to the winner. Each problem is saved when it is done, so a sweep
that is interrupted goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...gpu.launch import Launch, run
from ...planning import SEPARATE, Plan, forget_plans
from ...planning.dispatch import plan_of, plans_of
from ...planning.problem import Problem
from ..devices import DeviceSpec
from ..save import is_current, save, saved_entries
from ..schema import Entry, Measured
from ..sources import compiler_versions
from .entries import make_entry
from .task import Task, make_task
from .timer import Timer, middle
from .verify import Verifier

_CONTENDERS = 24
_OF_A_TILE = 2  # contenders that differ in nothing but splits and groups
_ROUNDS = 2

# What is wrong with each plan's compiled kernels.
Soundness = Callable[[Sequence[tuple[Task, Plan]]], list[list[str]]]


@dataclass(frozen=True)
class Machine:
    """The GPU that is measured: its description, and where its tensors are."""

    spec: DeviceSpec
    where: torch.device

    def run(self, launches: Iterable[Launch]) -> None:
        """Start them in order. Whatever a launch raises goes to the caller."""
        run(launches, self._anchor)

    @cached_property
    def _anchor(self) -> Tensor:
        return torch.empty(0, device=self.where)


@dataclass(frozen=True)
class Outcome:
    """What came out for a problem: the entry that was saved, or None where no plan was right.

    rejected: plans that were not timed, and why. resumed: the entry is from before.
    """

    problem: Problem
    entry: Entry | None
    rejected: tuple[str, ...] = ()
    resumed: bool = False


@dataclass
class _Trial:
    plan: Plan
    launches: list[Launch]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return middle(self.seconds)[0]


def sweep(
    problems: Iterable[Problem], machine: Machine, timer: Timer, folder: Path, sound: Soundness
) -> Iterator[Outcome]:
    """Measure each problem that the folder has no measured entry of these kernels and this compiler for, and save it.

    OSError where the folder cannot be written.
    """
    for problem in problems:
        before = _measured_before(problem, machine.spec, folder)
        if before is not None:
            yield Outcome(problem, before, resumed=True)
            continue
        outcome = measure(problem, machine, timer, sound)
        if outcome.entry is not None:
            save([outcome.entry], machine.spec, folder)
            forget_plans()
        yield outcome


def measure(problem: Problem, machine: Machine, timer: Timer, sound: Soundness) -> Outcome:
    """The fastest plan of a problem among those that compile without fault, launch, and are right."""
    task = make_task(problem, machine.spec, machine.where)
    plans = plans_of(problem, machine.spec)
    in_use = plan_of(problem, machine.spec) or plans[-1]
    contenders = _contenders(plans, in_use)
    rejected, trials = [], []
    verifier = Verifier(task)
    for plan, faults in zip(contenders, sound([(task, plan) for plan in contenders]), strict=True):
        trial = _Trial(plan, task.launches(plan))
        faults = faults or _try(trial, machine, timer, verifier)
        rejected += [f"{plan.config}, {plan.splits} splits: {fault}" for fault in faults]
        trials += [] if faults else [trial]
    if not trials:
        return Outcome(problem, None, tuple(rejected))
    winner = min(trials, key=lambda trial: trial.median)
    base = next((trial for trial in trials if trial.plan is contenders[0]), None)
    if base is not None and base is not winner:
        winner = _side_by_side(base, winner, machine, timer)
    median, spread = middle(winner.seconds)
    figures = Measured(median, spread, None if base is None else base.median / median)
    return Outcome(problem, make_entry(problem, winner.plan, machine.spec, figures), tuple(rejected))


def _contenders(plans: list[Plan], in_use: Plan) -> list[Plan]:
    """The plan in use, two contractions for a joint product, and what the model likes best, few of each tile."""
    found, of_a_tile = [in_use], Counter([(in_use.config, in_use.order)])
    for plan in sorted(plans, key=lambda plan: (plan.config != SEPARATE, plan.estimate.seconds)):
        if len(found) == _CONTENDERS:
            break
        same = (plan.config, plan.order, plan.splits, plan.groups) == (
            in_use.config, in_use.order, in_use.splits, in_use.groups,
        )  # fmt: skip
        if not same and of_a_tile[plan.config, plan.order] < _OF_A_TILE:
            of_a_tile[plan.config, plan.order] += 1
            found.append(plan)
    return found


def _try(trial: _Trial, machine: Machine, timer: Timer, verifier: Verifier) -> list[str]:
    """Run, compare, then time; what is wrong, if anything."""
    verifier.clear()
    try:
        machine.run(trial.launches)
        errors = verifier.errors()
        if not errors:
            trial.seconds += timer(lambda: machine.run(trial.launches))
    except Exception as error:  # a GPU has many ways to refuse a launch
        return [f"does not run: {type(error).__name__}: {error}"]
    return errors


def _side_by_side(base: _Trial, other: _Trial, machine: Machine, timer: Timer) -> _Trial:
    """Time both anew, in turns, so that a GPU that grew warm or was busy tells on both; the faster one."""
    for trial in (base, other):
        trial.seconds.clear()
    for _ in range(_ROUNDS):
        for trial in (base, other):
            trial.seconds += timer(lambda trial=trial: machine.run(trial.launches))  # type: ignore[misc]
    return min(base, other, key=lambda trial: trial.median)


def _measured_before(problem: Problem, device: DeviceSpec, folder: Path) -> Entry | None:
    versions = compiler_versions(device.architecture)
    for entry in saved_entries(device, folder).entries:
        current = entry.origin == "measured" and is_current(entry) and entry.versions == versions
        if current and entry.problem == problem:
            return entry
    return None
