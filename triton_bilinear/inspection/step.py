"""A training step as data: the ops that it runs and what each launches on a device, over tensors without storage.

The step is run for real, by the public function and autograd, on meta tensors, and its calls of this package's ops are
noted. So there is no second copy of the rules that decide which ops a step consists of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import ops
from ..gpu.chain import chain_launches
from ..gpu.contract import contract_launches
from ..gpu.grad_inputs import grad_inputs_launches
from ..gpu.grad_weight import grad_weight_launches
from ..gpu.launch import Launch
from ..gpu.pairwise import pairwise_grad_weight_operands, pairwise_grad_x_operands, pairwise_operands
from ..planning import Plan
from ..tuning.devices import DeviceSpec
from .problem import StepProblem


@dataclass(frozen=True)
class StepOp:
    """One quantity of the step, or grad x and grad y together, and the launches that compute it, in order.

    name: "forward", "grad_inputs" (both by one product), "grad_x", "grad_y", "grad_weight" or "grad_bias".
    launches: empty where torch's own ops compute it: the bias's gradient, and a gradient from what the forward kept.
    keeps: the forward pass also stores the projection (B, L, N) or (B, L, M); the gradient is made from that.
    """

    name: str
    launches: tuple[Launch, ...]
    keeps: bool = False

    @property
    def plan(self) -> Plan:
        """The plan of the op's product, the first of its launches. ValueError where torch computes the op."""
        plan = self.launches[0].plan if self.launches else None
        if plan is None:
            raise ValueError(f"{self.name} has no plan: torch computes it")
        return plan


def step_ops(problem: StepProblem, device: DeviceSpec, like: Mapping[str, Tensor] | None = None) -> list[StepOp]:
    """Every op of the step, forward first, as tensors on the device would have it. Float32 products have the precision
    that torch's own setting gives them (torch.backends.cuda.matmul.allow_tf32).

    like: the tensors "x", "y", "weight" and, where there is one, "bias" of the problem, for their strides; dense ones
    without it.
    """
    calls = _record(problem, like or problem.tensors())
    found = [StepOp("forward", *_launches(calls[0], device))]
    for call in calls[1:]:
        launches, _ = _launches(call, device)
        if call.op in (ops.grad_weight, ops.pairwise_grad_weight):
            found.append(StepOp("grad_weight", launches))
        elif call.op in (ops.contract, ops.pairwise_grad_x):
            of_x = problem.wants("x") and found[-1].name != "grad_x"
            found.append(StepOp("grad_x" if of_x else "grad_y", launches))
        elif StepOp("", launches).plan.config.kernel == "grad_inputs":
            found.append(StepOp("grad_inputs", launches))
        else:
            # Two contractions, each a pass or two: the second begins where the second plan does.
            second = next(index for index in range(1, len(launches)) if launches[index].plan is not None)
            found += [StepOp("grad_x", launches[:second]), StepOp("grad_y", launches[second:])]
    made = {name for op in found for name in (("grad_x", "grad_y") if op.name == "grad_inputs" else (op.name,))}
    wanted = [f"grad_{name}" for name in problem.gradients if name != "bias" or problem.bias]
    return found + [StepOp(name, (), keeps=name != "grad_bias") for name in wanted if name not in made]


@dataclass(frozen=True)
class _Call:
    op: Any
    arguments: Sequence[Any]
    result: Any


class _Recorder(TorchDispatchMode):
    """Notes the calls of this package's ops, and lets them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op in _LAUNCHES:
            self.calls.append(_Call(op, args, result))
        return result


def _record(problem: StepProblem, like: Mapping[str, Tensor]) -> list[_Call]:
    tensors = {
        name: torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        for name, tensor in like.items()
    }
    wanted = [tensor.requires_grad_() for name, tensor in tensors.items() if problem.wants(name)]
    with torch.enable_grad(), _Recorder() as recorder:
        out = problem.function(tensors["x"], tensors["y"], tensors["weight"], tensors.get("bias"))
        if wanted:
            torch.autograd.grad(out, wanted, torch.empty_like(out))
    return recorder.calls


# What each op of a step launches, from its arguments (features last) and its result.


def _contract(call: _Call, device: DeviceSpec) -> list[Launch]:
    u, v, weight, bias = call.arguments[:4]
    return contract_launches(u, v, weight, bias, call.result, None, device)


def _contract_keep(call: _Call, device: DeviceSpec) -> list[Launch]:
    u, v, weight, bias = call.arguments[:4]
    out, kept = call.result
    return contract_launches(u, v, weight, bias, out, kept, device)


def _grad_inputs(call: _Call, device: DeviceSpec) -> list[Launch]:
    g, x, y, weight = call.arguments[:4]
    out_x, out_y = call.result
    return grad_inputs_launches(g, x, y, weight, out_x, out_y, device)


def _grad_weight(call: _Call, device: DeviceSpec) -> list[Launch]:
    g, x, y = call.arguments[:3]
    return grad_weight_launches(g, x, y, call.result, device)


def _pairwise(call: _Call, device: DeviceSpec) -> list[Launch]:
    x, y, weight, bias = call.arguments
    return chain_launches(*pairwise_operands(x, y, weight, bias, call.result), device)


def _pairwise_grad_x(call: _Call, device: DeviceSpec) -> list[Launch]:
    g, y, weight = call.arguments
    return chain_launches(*pairwise_grad_x_operands(g, y, weight, call.result), device)


def _pairwise_grad_weight(call: _Call, device: DeviceSpec) -> list[Launch]:
    g, x, y = call.arguments
    return chain_launches(*pairwise_grad_weight_operands(g, x, y, call.result), device)


_LAUNCHES: dict[Any, Callable[[_Call, DeviceSpec], list[Launch]]] = {
    ops.contract: _contract,
    ops.contract_keep: _contract_keep,
    ops.grad_inputs: _grad_inputs,
    ops.grad_weight: _grad_weight,
    ops.pairwise: _pairwise,
    ops.pairwise_grad_x: _pairwise_grad_x,
    ops.pairwise_grad_weight: _pairwise_grad_weight,
}


def _launches(call: _Call, device: DeviceSpec) -> tuple[tuple[Launch, ...], bool]:
    return tuple(_LAUNCHES[call.op](call, device)), call.op is ops.contract_keep
