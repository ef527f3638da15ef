"""A planning problem with dense tensors to run it on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...gpu.contract import contract_launches
from ...gpu.grad_inputs import grad_inputs_launches
from ...gpu.grad_weight import grad_weight_launches
from ...gpu.launch import Launch
from ...planning import SEPARATE, ContractProblem, GradInputsProblem, GradWeightProblem, Plan
from ...planning.problem import Problem
from ..devices import DeviceSpec

# The order in which a weight's axes are stored whose axis of stride 1 is the one named.
_FIRST_LAST, _MIDDLE_LAST, _AS_IT_IS = (1, 2, 0), (0, 2, 1), (0, 1, 2)
_STORED = {"p": _FIRST_LAST, "q": _MIDDLE_LAST, "r": _AS_IT_IS, "l": _FIRST_LAST, "m": _MIDDLE_LAST, "n": _AS_IT_IS}


@dataclass(frozen=True)
class Task:
    """A problem on a device. inputs: in the order of the op's arguments. outputs: by name."""

    problem: Problem
    device: DeviceSpec
    inputs: tuple[Tensor, ...]
    outputs: dict[str, Tensor]

    def launches(self, plan: Plan) -> list[Launch]:
        """What a plan launches, its workspace allocated. A plan by two contractions has theirs as they are planned."""
        first, second, third, *rest = self.inputs
        out = list(self.outputs.values())
        match self.problem:
            case ContractProblem(keep=keep):
                kept = out[1] if keep else None
                return contract_launches(first, second, third, rest[0], out[0], kept, self.device, plan)
            case GradInputsProblem() if plan.config == SEPARATE:
                return [
                    *contract_launches(first, third, rest[0].permute(1, 0, 2), None, out[0], None, self.device),
                    *contract_launches(first, second, rest[0].permute(2, 0, 1), None, out[1], None, self.device),
                ]
            case GradInputsProblem():
                return grad_inputs_launches(first, second, third, rest[0], out[0], out[1], self.device, plan)
            case _:
                return grad_weight_launches(first, second, third, out[0], self.device, plan)


def make_task(problem: Problem, device: DeviceSpec, where: torch.device) -> Task:
    """Tensors for the problem: random inputs in [-1, 1], or tensors without storage where that is the meta device."""
    dtype = getattr(torch, problem.dtype)
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    match problem:
        case ContractProblem(B, P, Q, R):
            inputs = {"u": (B, Q), "v": (B, R), "weight": (P, Q, R), "bias": (P,)}
            outputs = {"out": (B, P), **({"kept": (B, P, R)} if problem.keep else {})}
        case GradInputsProblem(B, L, M, N):
            inputs, outputs = {"g": (B, L), "x": (B, M), "y": (B, N), "weight": (L, M, N)}, {"dx": (B, M), "dy": (B, N)}
        case GradWeightProblem(B, P, Q, R):
            inputs, outputs = {"a": (B, P), "b": (B, Q), "c": (B, R)}, {"out": (P, Q, R)}
        case _:
            raise ValueError(f"expected a problem of a layer's step, got {problem}")
    order = _AS_IT_IS if isinstance(problem, GradWeightProblem) else _STORED.get(problem.unit, _AS_IT_IS)
    draw = torch.Generator(where.type if where.type != "meta" else "cpu").manual_seed(0)

    def random(size: tuple[int, ...]) -> Tensor:
        axes = order if len(size) == 3 else tuple(range(len(size)))
        stored = torch.empty([size[axis] for axis in axes], dtype=dtype, device=where)
        if where.type != "meta":
            stored.uniform_(-1, 1, generator=draw)
        return stored.permute([axes.index(axis) for axis in range(len(size))])

    empty = {name: torch.empty(size, dtype=dtype, device=where) for name, size in outputs.items()}
    return Task(problem, device, tuple(random(size) for size in inputs.values()), empty)
