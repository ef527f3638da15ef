"""The planner: from a problem and a device, both plain data, to a plan. Knows neither torch nor Triton."""

from .chain import plan_chain
from .choice import fall_back, forget_plans, when_forgotten
from .config import SEPARATE, Config
from .contract import plan_contract
from .grad_inputs import plan_grad_inputs
from .grad_weight import plan_grad_weight
from .limits import holds_g
from .plan import Plan
from .problem import ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Problem
from .reads import LEAST_COPY, loads_ahead

__all__ = [
    "LEAST_COPY",
    "SEPARATE",
    "ChainProblem",
    "Config",
    "ContractProblem",
    "GradInputsProblem",
    "GradWeightProblem",
    "Plan",
    "Problem",
    "fall_back",
    "forget_plans",
    "holds_g",
    "loads_ahead",
    "plan_chain",
    "plan_contract",
    "plan_grad_inputs",
    "plan_grad_weight",
    "when_forgotten",
]
