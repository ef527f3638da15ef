"""Which of a problem's plans is taken: a stored one, the cheapest by the machine model, or a safe one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from ..tuning.devices import DeviceSpec
from .config import SEPARATE
from .limits import accumulators, shared_bytes
from .plan import Plan, Tile, cheapest
from .problem import Problem

# The store reads and writes this package's data, and builds on it: it is imported where it is asked.
if TYPE_CHECKING:
    from ..tuning.store import Stored

_Problem = TypeVar("_Problem", bound=Problem)
_Planner = TypeVar("_Planner", bound=Callable[..., Any])

_forgetting: list[Callable[[], None]] = []
_refused: set[tuple[Problem, DeviceSpec]] = set()


def remembered(planner: _Planner) -> _Planner:
    """Called once for each problem and device, until `forget_plans`."""
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
    problem: _Problem,
    device: DeviceSpec,
    tiles: Sequence[Tile],
    plans_with: Callable[[Tile, _Problem, DeviceSpec], Iterable[Plan]],
    likely: Sequence[Tile] | None = None,
    predict: Callable[[list[Plan]], Plan] = cheapest,
) -> Plan:
    """A plan with one of the legal tiles: safe where the device refused another; else stored; else predicted.

    plans_with: all plans with a tile. likely: the tiles that a prediction looks at; None for all.
    """
    if (problem, device) in _refused:
        plans = plans_with(_smallest(tiles, device, problem.dtype), problem, device)
        plan = min(plans, key=lambda plan: (plan.splits, plan.groups))
        plan = replace(plan, origin="safe", source="a launch out of resources")
    else:
        plan = _stored(problem, device, tiles, plans_with) or predict(
            [plan for tile in likely or tiles for plan in plans_with(tile, problem, device)]
        )
    return replace(plan, problem=problem)


def _stored(
    problem: _Problem,
    device: DeviceSpec,
    tiles: Sequence[Tile],
    plans_with: Callable[[Tile, _Problem, DeviceSpec], Iterable[Plan]],
) -> Plan | None:
    """The first stored entry whose tile is legal, with as many splits and groups as this problem allows."""
    from ..tuning import store

    for found in store.lookup(problem, device):
        for tile in tiles:
            if (tile.config, tile.order) == (found.config, found.order):
                plan = _nearest(plans_with(tile, problem, device), found)
                return replace(plan, origin=found.origin, source=found.source)
        if found.problem == problem:
            store.report(f"{found.source}: not used: {found.config} is no plan for {problem}")
    return None


def _nearest(plans: Iterable[Plan], found: Stored) -> Plan:
    """By splits and groups."""
    return min(
        plans, key=lambda plan: abs(math.log(plan.splits / found.splits)) + abs(math.log(plan.groups / found.groups))
    )


def _smallest(tiles: Sequence[Tile], device: DeviceSpec, dtype: str) -> Tile:
    """The one that needs least shared memory, then fewest registers."""
    joint = (tile for tile in tiles if tile.config != SEPARATE)
    return min(joint, key=lambda tile: (shared_bytes(tile.config, device, dtype), accumulators(tile.config, dtype)))


def _forget() -> None:
    for clear in _forgetting:
        clear()
