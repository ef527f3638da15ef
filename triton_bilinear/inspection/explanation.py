"""What `explain` answers with: for each op of a step its plan, where that comes from, and what is predicted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..planning import ContractProblem, GradInputsProblem
from ..planning.cost import floor_seconds
from ..planning.dispatch import plans_of
from ..planning.grad_inputs import joint_problem
from ..planning.plan import cheapest
from ..tuning.devices import DeviceSpec
from .manifest import config_record
from .problem import StepProblem
from .step import StepOp

# The terms of planning.cost.Estimate, in words.
_LIMITS = {
    "matrix": "the matrix unit",
    "issue": "instruction issue",
    "l2": "bytes through the L2 cache",
    "dram": "bytes through device memory",
    "launch": "the overhead of launching",
}


@dataclass(frozen=True)
class OpExplanation:
    """One op of a step. Times are predicted, in seconds; no GPU has measured them.

    name: see `step.StepOp`. by: "triton", or "torch" where torch's own ops compute it (then plan, origin, source, limit
    and predicted_seconds are None and terms is empty). launches: how many. plan: kernel, tile, order, splits, groups,
    warps and stages. origin: "measured", "predicted" or "safe". source: the file that the plan comes from, "cost
    model", or why it is safe. floor_arithmetic_seconds, floor_bytes_seconds: useful FLOPs over the full rate, and every
    operand once over the full bandwidth. terms: of the prediction, in seconds. limit: the largest of them.
    """

    name: str
    by: str
    launches: int
    plan: dict[str, Any] | None
    origin: str | None
    source: str | None
    floor_arithmetic_seconds: float
    floor_bytes_seconds: float
    predicted_seconds: float | None
    terms: dict[str, float]
    limit: str | None

    @property
    def floor_seconds(self) -> float:
        return max(self.floor_arithmetic_seconds, self.floor_bytes_seconds)

    def __str__(self) -> str:
        floor = f"floor {_time(self.floor_seconds)} ({_floor_by(self)})"
        if self.plan is None or self.predicted_seconds is None:
            return f"{self.name}: by torch's own ops; {floor}"
        plan = self.plan
        tile = ", ".join(f"{axis} {size}" for axis, size in plan["blocks"].items())
        extra = "".join(f", {plan[name]} {name}" for name in ("splits", "groups") if plan[name] > 1)
        ratio = self.predicted_seconds / self.floor_seconds
        terms = ", ".join(f"{name} {_time(seconds)}" for name, seconds in self.terms.items())
        return (
            f"{self.name}: kernel {plan['kernel']}, order {plan['order']}, tile {tile}, {plan['num_warps']} warps, "
            f"{plan['num_stages']} stages{extra}; {self.launches} launch{'es' * (self.launches > 1)}\n"
            f"  config {self.origin}, from {self.source}\n"
            f"  predicted {_time(self.predicted_seconds)}, {ratio:.2f} x {floor}\n"
            f"  predicted terms: {terms}; limited by {_LIMITS[self.limit or '']}"
        )


@dataclass(frozen=True)
class InputsChoice:
    """The two ways to the gradients of x and y together, in predicted seconds: by one product, from which both follow,
    or by two contractions. joint_seconds is None where no tile of the joint kernel fits the GPU.
    """

    chosen: str  # "joint" or "separate"
    joint_seconds: float | None
    separate_seconds: float

    def __str__(self) -> str:
        joint = "one product: no tile fits"
        if self.joint_seconds is not None:
            joint = f"one product: predicted {_time(self.joint_seconds)}"
        separate = f"two contractions: predicted {_time(self.separate_seconds)}"
        taken, left = (joint, separate) if self.chosen == "joint" else (separate, joint)
        return f"x and y together, by {taken}; not by {left}"


@dataclass(frozen=True)
class Explanation:
    """A step of a layer on a GPU; `str` says it in words, `as_dict` as plain data. All times are predicted.

    inputs: why the gradients of x and y come from one product or from two; None where not both are made by kernels.
    """

    gpu: str
    shape: tuple[int, ...]
    dtype: str
    precision: str
    ops: tuple[OpExplanation, ...]
    inputs: InputsChoice | None = None

    @property
    def predicted_seconds(self) -> float:
        """Of all launches; torch's own ops are not predicted."""
        return sum(op.predicted_seconds or 0.0 for op in self.ops)

    @property
    def floor_seconds(self) -> float:
        """Of the ops whose time is predicted."""
        return sum(op.floor_seconds for op in self.ops if op.predicted_seconds is not None)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        totals = {"predicted_seconds": self.predicted_seconds, "floor_seconds": self.floor_seconds}
        return {**asdict(self), **totals}

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in zip("BLMN", self.shape, strict=True))
        precision = "" if self.precision == "ieee" else f" ({self.precision} products)"
        head = f"{self.gpu}, {self.dtype}{precision}, {sizes}. Times are predicted, not measured."
        total = (
            f"in all: predicted {_time(self.predicted_seconds)}, "
            f"{self.predicted_seconds / self.floor_seconds:.2f} x floor {_time(self.floor_seconds)}"
        )
        choice = [] if self.inputs is None else [str(self.inputs)]
        return "\n".join([head, *map(str, self.ops), *choice, total])


def explain_op(op: StepOp, problem: StepProblem, device: DeviceSpec, precision: str) -> OpExplanation:
    """What is known of one op of the step."""
    dtype = str(problem.dtype).removeprefix("torch.")
    flops = problem.useful_flops(op.name) if op.launches else 0
    floors = floor_seconds(device, dtype, precision, flops, problem.minimum_bytes(op.name, op.keeps))
    if not op.launches:
        return OpExplanation(op.name, "torch", 0, None, None, None, *floors, None, {}, None)
    plan, first = op.plan, op.launches[0]
    terms = {name: getattr(plan.estimate, name) for name in _LIMITS}
    return OpExplanation(
        name=op.name,
        by="triton",
        launches=len(op.launches),
        plan={**config_record(first), "num_warps": first.num_warps, "num_stages": first.num_stages},
        origin=plan.origin,
        source=plan.source,
        floor_arithmetic_seconds=floors[0],
        floor_bytes_seconds=floors[1],
        predicted_seconds=plan.estimate.seconds,
        terms=terms,
        limit=max(terms, key=lambda name: terms[name]),
    )


def inputs_choice(ops: Sequence[StepOp], device: DeviceSpec) -> InputsChoice | None:
    """How the step's gradients of x and y are made, and what else was looked at."""
    by_name = {op.name: op.plan.problem for op in ops if op.launches}
    problem = by_name.get("grad_inputs")
    chosen = "joint" if problem else "separate"
    if problem is None:
        grad_x, grad_y = by_name.get("grad_x"), by_name.get("grad_y")
        if not (isinstance(grad_x, ContractProblem) and isinstance(grad_y, ContractProblem)):
            return None
        problem = joint_problem(grad_x, grad_y)
    if not isinstance(problem, GradInputsProblem):
        return None
    *joint, separate = plans_of(problem, device)
    best = cheapest(joint).estimate.seconds if joint else None
    return InputsChoice(chosen, best, separate.estimate.seconds)


def _floor_by(op: OpExplanation) -> str:
    return "arithmetic" if op.floor_arithmetic_seconds >= op.floor_bytes_seconds else "bytes"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"
