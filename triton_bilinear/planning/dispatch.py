"""Planning of a problem of any op: all its plans, the one that serves it, and the one that the model takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..tuning.devices import DeviceSpec
from . import chain, contract, grad_inputs, grad_weight
from .plan import Plan, cheapest
from .problem import ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Problem, of_one_row

MODULES = {
    ContractProblem: contract,
    GradInputsProblem: grad_inputs,
    GradWeightProblem: grad_weight,
    ChainProblem: chain,
}


def plan_of(problem: Problem, device: DeviceSpec) -> Plan | None:
    """The plan that serves the problem; None where two contractions do (GradInputsProblem alone)."""
    match problem:
        case ContractProblem():
            return contract.plan_contract(problem, device)
        case GradInputsProblem():
            return grad_inputs.plan_grad_inputs(problem, device)
        case GradWeightProblem():
            return grad_weight.plan_grad_weight(problem, device)
        case ChainProblem():
            return chain.plan_chain(problem, device)


def plans_of(problem: Problem, device: DeviceSpec) -> list[Plan]:
    """Every plan that the device can run; for a GradInputsProblem the last one's config is SEPARATE."""
    module: Any = MODULES[type(problem)]
    legal = module.legal_tiles(of_one_row(problem), device)
    return [plan for tile in legal for plan in module.plans_with(tile, problem, device)]


def predicted_best(problem: Problem, plans: Iterable[Plan]) -> Plan:
    """The one of these plans that the model takes."""
    return grad_inputs.joint_or_separate(problem, plans) if isinstance(problem, GradInputsProblem) else cheapest(plans)
