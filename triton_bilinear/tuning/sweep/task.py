"""A planning problem with dense tensors to run it on."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from ...gpu.chain import chain_launches
from ...gpu.contract import contract_launches
from ...gpu.grad_inputs import grad_inputs_launches
from ...gpu.grad_weight import grad_weight_launches
from ...gpu.launch import Launch
from ...planning import SEPARATE, ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Plan
from ...planning.problem import Problem
from ..devices import DeviceSpec
from .chains import chain_of


@dataclass(frozen=True)
class Task:
    """A problem on a device. inputs: in the order of the op's arguments; of a chain as `chain_of` has them stored.
    outputs: by name.
    """

    problem: Problem
    device: DeviceSpec
    inputs: tuple[Tensor, ...]
    outputs: dict[str, Tensor]

    def launches(self, plan: Plan | None) -> list[Launch]:
        """What a plan, or the planner's, launches, its workspace allocated; two contractions as they are planned."""
        first, second, third, *rest = self.inputs
        out = list(self.outputs.values())
        match self.problem:
            case ContractProblem(keep=keep):
                kept = out[1] if keep else None
                return contract_launches(first, second, third, rest[0], out[0], kept, self.device, plan)
            case GradInputsProblem() if plan is not None and plan.config == SEPARATE:
                return [
                    *contract_launches(first, third, rest[0].permute(1, 0, 2), None, out[0], None, self.device),
                    *contract_launches(first, second, rest[0].permute(2, 0, 1), None, out[1], None, self.device),
                ]
            case GradInputsProblem():
                return grad_inputs_launches(first, second, third, rest[0], out[0], out[1], self.device, plan)
            case GradWeightProblem():
                return grad_weight_launches(first, second, third, out[0], self.device, plan)
            case ChainProblem():
                operands = chain_of(self.problem).expanded(first, second, third)
                return chain_launches(*operands, None, out[0], self.device, plan)


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
        case ChainProblem():
            chain = chain_of(problem)
            inputs = {name: chain.shape(axes) for name, axes in zip("pqr", chain.stored, strict=True)}
            outputs = {"out": chain.result()}
    draw = torch.Generator(where.type if where.type != "meta" else "cpu").manual_seed(0)

    def random(name: str, size: tuple[int, ...]) -> Tensor:
        axes = list(range(len(size)))
        if name == "weight":
            last = _stored_last(problem, size)
            axes = [axis for axis in axes if axis != last] + [last]
        stored = torch.empty([size[axis] for axis in axes], dtype=dtype, device=where)
        if where.type != "meta":
            stored.uniform_(-1, 1, generator=draw)
        return stored.permute([axes.index(axis) for axis in range(len(size))])

    empty = {name: torch.empty(size, dtype=dtype, device=where) for name, size in outputs.items()}
    return Task(problem, device, tuple(random(*item) for item in inputs.items()), empty)


def _stored_last(problem: Problem, size: tuple[int, ...]) -> int:
    """The weight's axis of stride 1; where it is read element by element, the one whose size is why."""
    assert isinstance(problem, ContractProblem | GradInputsProblem)
    if problem.unit:
        return ("pqr" if isinstance(problem, ContractProblem) else "lmn").index(problem.unit)
    return min(reversed(range(3)), key=lambda axis: gcd(16, size[axis]))
