"""Entries for the files of stored configs, made from plans."""

from __future__ import annotations

from collections.abc import Iterable

from ...planning import Plan
from ...planning.problem import Problem
from ..devices import DeviceSpec
from ..schema import Entry, Measured, bucket
from ..sources import compiler_versions, kernel_hash


def make_entry(problem: Problem, plan: Plan, device: DeviceSpec, measured: Measured | None = None) -> Entry:
    """The entry of a plan that was found for a problem: measured where there are figures, else predicted."""
    return Entry(
        problem=problem,
        serves=bucket(problem),
        config=plan.config,
        order=plan.order,
        splits=plan.splits,
        groups=plan.groups,
        origin="predicted" if measured is None else "measured",
        measured=measured,
        versions=compiler_versions(device.architecture),
        kernel_hash=kernel_hash(plan.config.kernel),
    )


def without(plans: Iterable[Plan], plan: Plan) -> list[Plan]:
    """Those that are another kernel, tile or order, so that they compile to something else."""
    return [other for other in plans if (other.config, other.order) != (plan.config, plan.order)]
