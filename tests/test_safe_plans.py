"""A device that has less than its description says: one retry with a safe plan, which is remembered."""

import pytest

pytest.importorskip("triton")
from standin import run_standin

from triton_bilinear.planning import ContractProblem, plan_contract
from triton_bilinear.planning.limits import shared_bytes
from triton_bilinear.tuning.devices import find_device

L4 = find_device("NVIDIA L4")


def needed() -> int:
    """The shared memory of the plan that resource_calls runs first."""
    problem = ContractProblem(512, 64, 64, 64, "float16", "ieee", "r", 16, 16)
    return shared_bytes(plan_contract(problem, L4).config, L4, "float16")


def test_a_launch_out_of_resources_is_planned_again_and_runs():
    memory = needed() - 1
    run = run_standin("resource_calls:forward_with", L4.name, memory)
    assert run.value == [
        ("predicted", "cost model"),
        ("safe", "a launch out of resources"),
        ("safe", "a launch out of resources"),
    ]
    products = [launch for launch in run.launches if launch.kernel.startswith("contract")]
    assert len(products) == 2
    assert all(launch.shared_bytes <= memory for launch in run.launches)


def test_there_is_one_retry():
    run = run_standin("resource_calls:forward_with", L4.name, 1000)
    assert "out of resource: shared memory" in run.value
    assert run.launches == []
