"""Compiled loops wait for no load of their own step: copies are asynchronous, what is too narrow for them comes early.

Read off the compiler's last representation of the loop around the product: the result of a load there is for the next
step, and not used in this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from triton_bilinear.gpu.contract import contract_launches
from triton_bilinear.gpu.grad_inputs import grad_inputs_launches
from triton_bilinear.gpu.grad_weight import grad_weight_launches
from triton_bilinear.inspection.compiled import compile_launches, compile_request, step_launches
from triton_bilinear.inspection.problem import StepProblem
from triton_bilinear.tuning.compiler import CompiledReport
from triton_bilinear.tuning.devices import find_device
from triton_bilinear.tuning.pool import CompilerPool

GPUS = {"sm_80": "NVIDIA A100-SXM4-80GB", "sm_90": "NVIDIA H100 80GB HBM3", "sm_100": "NVIDIA B200"}

# Rows of an odd number of 16-bit elements; and tiles of one column, of grad weight and of grad x.
SHAPES = [(65536, 256, 39, 39), (4096, 1, 1024, 1024)]

PRODUCT = re.compile(r"ttng\.warp_group_dot |ttng\.tc_gen5_mma|tt\.dot ")
LOAD = re.compile(r"(%\w+) = tt\.load ")


@pytest.fixture(scope="module")
def pool() -> Iterator[CompilerPool]:
    with CompilerPool() as pool:
        yield pool


def body_of_the_innermost_loop(ttgir: str) -> list[str]:
    """The statements of the deepest block with a product, its last one the yield."""
    lines = ttgir.splitlines()
    depths = [len(line) - len(line.lstrip()) for line in lines]
    product = max((i for i, line in enumerate(lines) if PRODUCT.search(line)), key=depths.__getitem__)
    first = max(i for i in range(product) if depths[i] < depths[product])
    assert "scf.for" in lines[first], "the product stands in no loop"
    last = next(i for i in range(product, len(lines)) if depths[i] < depths[product])
    return lines[first + 1 : last]


def loads_used_at_once(ttgir: str) -> list[str]:
    """The loads of the loop whose results a statement of the same step reads."""
    *body, end = body_of_the_innermost_loop(ttgir)
    assert "scf.yield" in end
    loaded = [found.group(1) for line in body if (found := LOAD.search(line))]
    return [name for name in loaded if sum(len(re.findall(rf"{name}\b", line)) for line in body) > 1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", GPUS)
def test_no_step_waits_for_its_own_loads(architecture: str, shape: tuple[int, ...], pool: CompilerPool) -> None:
    launches = [
        each
        for each in step_launches(StepProblem(shape, torch.bfloat16), find_device(GPUS[architecture]))
        if each.first
    ]
    for each, report in zip(launches, compile_launches(launches, pool), strict=True):
        assert isinstance(report, CompiledReport)
        assert loads_used_at_once(str(report.artifacts["ttgir"])) == [], each.op.name


# Rows that lie side by side: of whose number Triton itself would only know whether it is a multiple of 16.
SIDE_BY_SIDE = {
    "1000": lambda features: empty(features, 1000).T,
    "1004": lambda features: empty(features, 1004).T,
    "1001": lambda features: empty(features, 1001).T,
    "features between batch axes": lambda features: empty(20, features, 196).movedim(1, -1),
    "along an outer axis": lambda features: empty(features, 20, 50).permute(2, 1, 0),
}


def empty(*sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.bfloat16, device="meta")


@pytest.mark.parametrize("rows", SIDE_BY_SIDE)
@pytest.mark.parametrize("architecture", GPUS)
def test_no_step_waits_where_features_come_first(architecture: str, rows: str, pool: CompilerPool) -> None:
    """There a vector holds elements of several rows."""
    x, y, g = (SIDE_BY_SIDE[rows](features) for features in (64, 64, 96))
    weight, device = empty(96, 64, 64), find_device(GPUS[architecture])
    launches = {
        "contract": contract_launches(x, y, weight, None, g, None, device),
        "grad_inputs": grad_inputs_launches(g, x, y, weight, x, y, device),
        "grad_weight": grad_weight_launches(g, x, y, weight, device),
    }
    reports = pool.compile_many([compile_request(launch, device) for (launch, *_) in launches.values()])
    for name, report in zip(launches, reports, strict=True):
        assert isinstance(report, CompiledReport), name
        assert loads_used_at_once(str(report.artifacts["ttgir"])) == [], name


def test_a_load_that_is_used_at_once_is_found(pool: CompilerPool) -> None:
    (forward, *_) = step_launches(StepProblem(SHAPES[0], torch.bfloat16), find_device(GPUS["sm_90"]))
    not_ahead = {name: False for name in forward.launch.arguments if name.startswith("AHEAD_")}
    late = replace(forward, launch=replace(forward.launch, arguments=forward.launch.arguments | not_ahead))
    (report,) = compile_launches([late], pool)
    assert isinstance(report, CompiledReport)
    assert len(loads_used_at_once(str(report.artifacts["ttgir"]))) == 3
