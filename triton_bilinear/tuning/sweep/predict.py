"""Configs for a GPU that is not here: the model's choice, or the next one where the compiler finds fault with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ...planning import SEPARATE, Plan
from ...planning.dispatch import plans_of, predicted_best
from ...planning.problem import Problem
from ..devices import DeviceSpec
from ..pool import CompilerPool
from ..schema import Entry
from .entries import make_entry, without
from .sound import compile_plans
from .task import Task, make_task


@dataclass
class _Search:
    """A problem, the plans that are left for it, and what was found wrong with the others."""

    task: Task
    plans: list[Plan]
    faults: list[str]
    found: Entry | None = None

    @property
    def open(self) -> bool:
        return self.found is None and bool(self.plans)

    def best(self) -> Plan:
        return predicted_best(self.task.problem, self.plans)

    def judge(self, plan: Plan, faults: list[str]) -> None:
        if faults:
            self.faults += [f"{plan.config}: {fault}" for fault in faults]
            self.plans = without(self.plans, plan)
        else:
            self.found = make_entry(self.task.problem, plan, self.task.device)


@dataclass(frozen=True)
class Predicted:
    """What came out for a problem on a device: an entry, or None; and what was wrong with plans that came before."""

    problem: Problem
    device: DeviceSpec
    entry: Entry | None
    faults: list[str]


def predict(
    problems: Iterable[tuple[Problem, DeviceSpec]],
    pool: CompilerPool,
    progress: Callable[[int, int], Any] | None = None,
) -> list[Predicted]:
    """The first plan of each problem, in the model's order, whose kernels compile without fault."""
    searches = [
        _Search(make_task(problem, device, torch.device("meta")), plans_of(problem, device), [])
        for problem, device in problems
    ]
    while pending := [search for search in searches if search.open]:
        plans = [search.best() for search in pending]
        # Two contractions are stored by entries of their own.
        compiled = [(search.task, plan) for search, plan in zip(pending, plans, strict=True) if plan.config != SEPARATE]
        faults = iter(compile_plans(compiled, pool, progress))
        for search, plan in zip(pending, plans, strict=True):
            search.judge(plan, [] if plan.config == SEPARATE else next(faults))
    return [Predicted(search.task.problem, search.task.device, search.found, search.faults) for search in searches]
