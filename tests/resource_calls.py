"""What test_safe_plans.py runs in a process of its own: a device with less shared memory than its table says."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from standin import _Utils

from triton_bilinear import gpu
from triton_bilinear.planning import ContractProblem, plan_contract
from triton_bilinear.tuning.devices import find_device


def forward_with(shared_memory: int) -> list[tuple[str, str]] | str:
    """Origin and source of the problem's plan before a forward pass, after it, and after a second one; or its error."""
    driver = triton.runtime.driver.active
    driver.utils = _Utils(replace(driver.device, shared_memory=shared_memory))
    device = find_device(driver.device.name)
    problem = ContractProblem(512, 64, 64, 64, "float16", "ieee", "r", 16, 16)
    x, y, weight = torch.zeros(512, 64).half(), torch.zeros(512, 64).half(), torch.zeros(64, 64, 64).half()
    plans = [plan_contract(problem, device)]
    for _ in range(2):
        try:
            gpu.contract(x, y, weight, None, torch.empty(512, 64).half())
        except triton.OutOfResources as error:
            return str(error)
        plans.append(plan_contract(problem, device))
    return [(plan.origin, plan.source) for plan in plans]
