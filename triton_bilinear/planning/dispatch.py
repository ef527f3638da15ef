"""Planning of a problem of any op: all its plans, the one that serves it, and the one that the model takes."""

from __future__ import annotations

from collections.abc import Iterable

from ..tuning.devices import DeviceSpec
from . import chain, contract, grad_inputs, grad_weight
from .plan import Plan, cheapest
from .problem import ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Problem


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
    match problem:
        case ContractProblem():
            return list(contract._candidates(problem, device))
        case GradInputsProblem():
            return grad_inputs.plans(problem, device)
        case GradWeightProblem():
            return list(grad_weight._candidates(problem, device))
        case ChainProblem():
            return list(chain._candidates(problem, device))


def predicted_best(problem: Problem, plans: Iterable[Plan]) -> Plan:
    """The one of these plans that the model takes."""
    return (
        grad_inputs.joint_or_separate(problem, list(plans))
        if isinstance(problem, GradInputsProblem)
        else cheapest(plans)
    )
