"""Which problems the planner is asked about by a layer of given sizes, and sizes worth asking about."""

from __future__ import annotations

from dataclasses import replace

from ...inspection.problem import StepProblem
from ...inspection.step import step_ops
from ...planning import ContractProblem
from ...planning.grad_inputs import joint_problem
from ...planning.problem import Problem
from ..devices import DeviceSpec

# (B, L, M, N): sizes at which the library's own targets are set, and sizes of layers in other people's models;
# (B, S, T, L, M, N) of their pairwise forms.
NAMED_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "targets": (
        (4096, 256, 256, 256),
        (8192, 128, 128, 128),
        (2048, 64, 32, 32),
        (18432, 180, 180, 180),
        (200000, 128, 8, 128),
        (65536, 256, 39, 39),
        (4096, 1, 1024, 1024),
        (16, 256, 512, 512),
    ),
    "users": (
        (65536, 128, 39, 128),
        (5000, 128, 128, 89),
        (128, 200, 200, 200),
        (5000, 10, 101, 51),
        (1000, 800, 800, 800),
        (5000, 45, 256, 256),
        (125, 40, 40, 50, 101, 101),
        (100, 50, 50, 160, 401, 401),
        (12, 128, 128, 10, 513, 513),
    ),
}


def step_problems(step: StepProblem, device: DeviceSpec) -> list[Problem]:
    """What inference, training, and the gradient of x or of y alone ask for; single contractions before a joint one."""
    found: dict[Problem, None] = {}
    for gradients in ((), step.gradients, ("x",), ("y",)):
        if set(gradients) <= set(step.gradients):
            found |= dict.fromkeys(_problems(replace(step, gradients=gradients), device))
    return sorted(found, key=lambda problem: not isinstance(problem, ContractProblem))


def _problems(step: StepProblem, device: DeviceSpec) -> list[Problem]:
    plans = {op.name: op.plan for op in step_ops(step, device) if op.launches}
    found = [plan.problem for plan in plans.values() if plan.problem is not None]
    singles = [plans[name].problem for name in ("grad_x", "grad_y") if name in plans]
    if len(singles) == 2 and isinstance(singles[0], ContractProblem) and isinstance(singles[1], ContractProblem):
        found.append(joint_problem(singles[0], singles[1]))
    return found
