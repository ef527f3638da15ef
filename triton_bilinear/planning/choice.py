"""Which of a problem's plans is taken: a stored one, the cheapest by the machine model, or a safe one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from ..tuning.devices import DeviceSpec
from .config import SEPARATE
from .limits import accumulators, shared_bytes
from .plan import Plan, cheapest
from .problem import Problem

# The store reads and writes this package's data, and builds on it: it is imported where it is asked.
if TYPE_CHECKING:
    from ..tuning.store import Stored

_Planner = TypeVar("_Planner", bound=Callable[..., Any])

_forgetting: list[Callable[[], None]] = []
_refused: set[tuple[Problem, DeviceSpec]] = set()


def remembered(planner: _Planner) -> _Planner:
    """Plans once for each problem and device, until `forget_plans`."""
    cached: Any = lru_cache(maxsize=4096)(planner)
    when_forgotten(cached.cache_clear)
    return cached


def when_forgotten(clear: Callable[[], None]) -> None:
    """Calls `clear` whenever plans are forgotten: of something that was made with them."""
    _forgetting.append(clear)


def forget_plans() -> None:
    """Plan everything anew, from the files of stored configs as they are now, and without what devices refused."""
    from ..tuning import store

    _refused.clear()
    store.forget()
    _forget()


def fall_back(plan: Plan, device: DeviceSpec) -> None:
    """The device did not take the plan at launch: from now on the problem has the safe one."""
    if plan.problem is None:
        raise ValueError("the plan of no problem has nothing to fall back to")
    _refused.add((plan.problem, device))
    _forget()


def choose(
    problem: Problem,
    device: DeviceSpec,
    plans: Iterable[Plan],
    predict: Callable[[list[Plan]], Plan] = cheapest,
) -> Plan:
    """One of the plans, all of them legal: safe where the device refused another; else stored; else predicted."""
    plans = list(plans)
    if (problem, device) in _refused:
        plan = replace(_smallest(plans, device, problem.dtype), origin="safe", source="a launch out of resources")
    else:
        plan = _stored(problem, device, plans) or predict(plans)
    return replace(plan, problem=problem)


def _stored(problem: Problem, device: DeviceSpec, plans: list[Plan]) -> Plan | None:
    """The first stored entry that is one of the plans, with as many splits and groups as this problem allows."""
    from ..tuning import store

    for found in store.lookup(problem, device):
        same = [plan for plan in plans if (plan.config, plan.order) == (found.config, found.order)]
        if same:
            return replace(_nearest(same, found), origin=found.origin, source=found.source)
        if found.problem == problem:
            store.report(f"{found.source}: not used: {found.config} is no plan for {problem}")
    return None


def _nearest(plans: list[Plan], found: Stored) -> Plan:
    """By splits and groups."""
    return min(
        plans, key=lambda plan: abs(math.log(plan.splits / found.splits)) + abs(math.log(plan.groups / found.groups))
    )


def _smallest(plans: list[Plan], device: DeviceSpec, dtype: str) -> Plan:
    def needs(plan: Plan) -> tuple[int, int, int, int]:
        config = plan.config
        return shared_bytes(config, device, dtype), accumulators(config, dtype), plan.splits, plan.groups

    return min((plan for plan in plans if plan.config != SEPARATE), key=needs)


def _forget() -> None:
    for clear in _forgetting:
        clear()
