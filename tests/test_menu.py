"""Every kernel with every tile that a plan can have compiles for every architecture, and needs no more than there is.

By default the plan that the planner chooses for a few problems; `pytest -m slow` compiles every candidate of every
problem of the grid.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from unittest import mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from triton_bilinear.gpu import launch as gpu_launch
from triton_bilinear.gpu.chain import chain_launches
from triton_bilinear.gpu.contract import contract_launches
from triton_bilinear.gpu.grad_inputs import grad_inputs_launches
from triton_bilinear.gpu.grad_weight import grad_weight_launches
from triton_bilinear.inspection.compiled import compile_request
from triton_bilinear.planning import (
    SEPARATE,
    ChainProblem,
    ContractProblem,
    GradInputsProblem,
    GradWeightProblem,
    Plan,
    Problem,
    plan_chain,
    plan_contract,
    plan_grad_inputs,
    plan_grad_weight,
)
from triton_bilinear.planning.dispatch import MODULES, plans_of
from triton_bilinear.planning.limits import accumulators, legal, shared_bytes
from triton_bilinear.planning.menu import MENU, choices
from triton_bilinear.planning.problem import itemsize
from triton_bilinear.tuning.compiler import CompiledReport
from triton_bilinear.tuning.devices import DeviceSpec, device_names, find_device
from triton_bilinear.tuning.pool import CompilerPool
from triton_bilinear.tuning.sweep import sound
from triton_bilinear.tuning.targets import gpu_target, product_precisions

GPUS = {
    "sm_80": "NVIDIA A100-SXM4-80GB",
    "sm_89": "NVIDIA GeForce RTX 4090",
    "sm_90": "NVIDIA H100 80GB HBM3",
    "sm_100": "NVIDIA B200",
    "sm_120": "NVIDIA GeForce RTX 5090",
    "gfx942": "AMD Instinct MI300X",
    "gfx950": "AMD Instinct MI355X",
    "gfx1100": "AMD Radeon RX 7900 XTX",
}
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp64": torch.float64,
}
BEYOND_32_BITS = 2**31 + 2**12


@dataclass(frozen=True)
class Layout:
    """How a problem's tensors lie in memory.

    size: of every axis but the batch. levels: of the batch, whose rows cross outer steps where there are two or three.
    features_first: rows are contiguous, features far apart. weight: the weight's axes as they are stored, the last with
    stride 1. spread: the weight's first stored axis reaches beyond 2**31 elements.
    """

    size: int = 200
    levels: int = 1
    features_first: bool = False
    weight: str = "lmn"
    spread: bool = False

    def rows(self, features: int, dtype: torch.dtype) -> Tensor:
        if self.features_first:
            return empty((features, 1000), dtype).T
        match self.levels:
            case 1:
                return empty((1000, features), dtype)
            case 2:
                return empty((125, 12, features), dtype)[:, :8]
            case _:
                return empty((25, 6, 12, features), dtype)[:, :5, :8]

    def cube(self, sizes: dict[str, int], dtype: torch.dtype) -> Tensor:
        stored = empty([sizes[axis] for axis in self.weight], dtype)
        if self.spread:
            strides = (BEYOND_32_BITS // (stored.shape[0] - 1) // 16 * 16, *stored.stride()[1:])
            stored = torch.empty_strided(stored.shape, strides, dtype=dtype, device="meta")
        return stored.permute([self.weight.index(axis) for axis in "lmn"])

    def matrices(self, dtype: torch.dtype) -> Tensor:
        """Square ones of three outputs, of batches like those of `rows`."""
        each = (3, self.size, self.size)
        match self.levels:
            case _ if self.spread:
                strides = (0, 0, BEYOND_32_BITS // (self.size - 1) // 16 * 16, 1)
                stored = torch.empty_strided((2, *each), strides, dtype=dtype, device="meta")
            case 1:
                stored = empty((2, *each), dtype)
            case 2:
                stored = empty((2, 4, *each), dtype)[:, :2]
            case _:
                stored = empty((2, 4, 4, *each), dtype)[:, :3, :2]
        return stored if self.weight == "lmn" else stored.mT


def empty(shape: tuple[int, ...] | list[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


LAYOUTS = {
    "aligned": Layout(),
    "half vectors": Layout(size=204, levels=2),
    "quarter vectors": Layout(size=202),
    "odd": Layout(size=201, levels=2),
    "(M, N, L)": Layout(weight="mnl", levels=2),
    "three levels": Layout(levels=3),
    "odd, three levels": Layout(size=201, levels=3),
    "features first": Layout(features_first=True),
    "small": Layout(size=24),
    "wide": Layout(spread=True),
    "wide and odd": Layout(size=201, spread=True),
}


def forward(layout: Layout, dtype: torch.dtype, device: DeviceSpec, plan: Plan | None) -> list[gpu_launch.Launch]:
    n = layout.size
    x, weight = layout.rows(n, dtype), layout.cube({"l": n, "m": n, "n": n}, dtype)
    return contract_launches(x, layout.rows(n, dtype), weight, empty((n,), dtype), x, None, device, plan)


def keep(layout: Layout, dtype: torch.dtype, device: DeviceSpec, plan: Plan | None) -> list[gpu_launch.Launch]:
    n = layout.size
    x, weight, out = layout.rows(n, dtype), layout.cube({"l": 2, "m": n, "n": n}, dtype), layout.rows(2, dtype)
    kept = empty((*out.shape[:-1], 2, n), dtype)
    return contract_launches(x, layout.rows(n, dtype), weight, None, out, kept, device, plan)


def joint(layout: Layout, dtype: torch.dtype, device: DeviceSpec, plan: Plan | None) -> list[gpu_launch.Launch]:
    n = layout.size
    x, weight = layout.rows(n, dtype), layout.cube({"l": n, "m": n, "n": n}, dtype)
    return grad_inputs_launches(x, x, x, weight, x, x, device, plan)


def weight_gradient(
    layout: Layout, dtype: torch.dtype, device: DeviceSpec, plan: Plan | None
) -> list[gpu_launch.Launch]:
    n = layout.size
    x = layout.rows(n, dtype)
    return grad_weight_launches(x, x, x, layout.cube({"l": n, "m": n, "n": n}, dtype), device, plan)


def pairs(summed: str) -> Build:
    """All pairs: the form, and its gradients, which are summed over the outputs ("l") or the batch ("b")."""

    def build(layout: Layout, dtype: torch.dtype, device: DeviceSpec, plan: Plan | None) -> list[gpu_launch.Launch]:
        matrices = layout.matrices(dtype)
        *batch, outputs, rows, columns = matrices.shape
        lead = [1] * len(batch) if summed == "b" else batch
        out = empty((*lead, 1 if summed == "l" else outputs, rows, columns), dtype)
        out = out if layout.weight == "lmn" else out.mT  # as where a plan turns all matrices
        return chain_launches(matrices, matrices, matrices, None, out, device, plan)

    return build


Build = Callable[[Layout, torch.dtype, DeviceSpec, Plan | None], list[gpu_launch.Launch]]
# Each op: how it is launched, and its planner as the launching module calls it.
OPS: dict[str, tuple[Build, str]] = {
    "forward": (forward, "contract.plan_contract"),
    "keep": (keep, "contract.plan_contract"),
    "grad_inputs": (joint, "grad_inputs.plan_grad_inputs"),
    "grad_weight": (weight_gradient, "grad_weight.plan_grad_weight"),
    "pairwise": (pairs(""), "chain.plan_chain"),
    "pairs_grad_x": (pairs("l"), "chain.plan_chain"),
    "pairs_grad_weight": (pairs("b"), "chain.plan_chain"),
}


@contextmanager
def allowing_tf32(dtype: str) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def candidates(op: str, layout: Layout, dtype: torch.dtype, device: DeviceSpec) -> list[Plan]:
    """The plans of a problem that compile to different kernels."""
    build, planner = OPS[op]
    found: dict[tuple[object, ...], Plan] = {}

    def collect(problem: Problem, device: DeviceSpec) -> Plan | None:
        for plan in plans_of(problem, device):
            if plan.config != SEPARATE:
                found.setdefault((plan.config, plan.splits > 1), plan)
        return next(iter(found.values()), None)

    module, name = planner.split(".")
    with mock.patch.dict(vars(__import__(f"triton_bilinear.gpu.{module}", fromlist=[name])), {name: collect}):
        build(layout, dtype, device, None)
    return list(found.values())


def faults(launches: list[gpu_launch.Launch], device: DeviceSpec, dtype: torch.dtype, pool: CompilerPool) -> list[str]:
    """What is wrong with each launch's compiled kernel."""
    results = pool.compile_many([compile_request(launch, device) for launch in launches])
    found = []
    for launch, result in zip(launches, results, strict=True):
        assert launch.plan is not None
        name = f"{launch.plan.config} {''.join(launch.plan.order)} splits {launch.plan.splits}"
        these = sound.faults(launch, result, device, str(dtype).removeprefix("torch."))
        found += [f"{name}: {fault}" for fault in these]
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[CompilerPool]:
    with CompilerPool() as pool:
        yield pool


CHOSEN = [
    *((architecture, "bf16", "aligned") for architecture in GPUS),
    *((architecture, "fp32", "half vectors") for architecture in ("sm_80", "sm_90", "gfx942")),
    ("sm_90", "fp16", "half vectors"),
    ("sm_90", "bf16", "odd"),
    ("sm_120", "fp32", "quarter vectors"),
    ("sm_80", "fp64", "aligned"),
    ("sm_89", "tf32", "(M, N, L)"),
]


@pytest.mark.parametrize(("architecture", "dtype", "layout"), CHOSEN)
def test_chosen_plans_compile(architecture: str, dtype: str, layout: str, pool: CompilerPool) -> None:
    device, kind = find_device(GPUS[architecture]), DTYPES[dtype]
    with allowing_tf32(dtype):
        launches = [
            launch
            for build, _ in OPS.values()
            for launch in build(LAYOUTS[layout], kind, device, None)
            if launch.plan is not None
        ]
    assert faults(launches, device, kind, pool) == []


# Problems whose tiles came to the stack once, or did not compile.
MENDED = [
    ("sm_120", "grad_weight", "fp32", "features first"),
    ("sm_120", "grad_weight", "fp32", "odd, three levels"),
    ("gfx950", "forward", "bf16", "features first"),
    ("gfx950", "forward", "fp64", "(M, N, L)"),
    ("gfx950", "grad_weight", "fp32", "half vectors"),
    ("gfx1100", "forward", "bf16", "half vectors"),
    ("gfx1100", "grad_inputs", "bf16", "small"),
    ("gfx1100", "grad_weight", "fp64", "aligned"),
]
# Pairs of tensors beyond 2**31 elements, whose offsets take twice the registers, spill up to three of a tile.
SPILT = {*product(["gfx1100"], ["pairwise", "pairs_grad_x", "pairs_grad_weight"], ["fp32", "tf32"], ["wide"])}


def marks(case: tuple[str, str, str, str]) -> list[pytest.MarkDecorator]:
    slow = [] if case in MENDED else [pytest.mark.slow]
    return [*slow, pytest.mark.xfail(strict=True, raises=AssertionError)] if case in SPILT else slow


GRID = [pytest.param(*case, marks=marks(case)) for case in product(GPUS, OPS, DTYPES, LAYOUTS)]


@pytest.mark.parametrize(("architecture", "op", "dtype", "layout"), GRID)
def test_every_candidate_compiles(architecture: str, op: str, dtype: str, layout: str, pool: CompilerPool) -> None:
    device, kind = find_device(GPUS[architecture]), DTYPES[dtype]
    with allowing_tf32(dtype):
        plans = candidates(op, LAYOUTS[layout], kind, device)
        launches = [OPS[op][0](LAYOUTS[layout], kind, device, plan)[0] for plan in plans]
    assert plans or op == "grad_inputs", "only the joint product may have no tile: two contractions stand in for it"
    assert faults(launches, device, kind, pool) == []


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_the_largest_tiles_of_a_split_compile(architecture: str, pool: CompilerPool) -> None:
    """Partial sums are stored in float32, under a mask where the batch is no multiple of the tile."""
    device = find_device(GPUS[architecture])
    plans = [plan for plan in candidates("forward", LAYOUTS["aligned"], torch.bfloat16, device) if plan.splits > 1]
    size = {plan: accumulators(plan.config, "bfloat16") for plan in plans}
    largest = [plan for plan in plans if size[plan] == max(size.values())]
    launches = [forward(LAYOUTS["aligned"], torch.bfloat16, device, plan)[0] for plan in largest]
    assert faults(launches, device, torch.bfloat16, pool) == []


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_shared_memory_is_what_the_model_says(architecture: str, pool: CompilerPool) -> None:
    """Of the largest and the middling tile of each op: never less than the compiler needs, and not much more."""
    device = find_device(GPUS[architecture])
    for op, (build, _) in OPS.items():
        plans = candidates(op, LAYOUTS["aligned"], torch.bfloat16, device)
        plans.sort(key=lambda plan: shared_bytes(plan.config, device, "bfloat16"))
        for plan in {plans[-1].config: plans[-1], plans[len(plans) // 2].config: plans[len(plans) // 2]}.values():
            (launch, *_) = build(LAYOUTS["aligned"], torch.bfloat16, device, plan)
            (result,) = pool.compile_many([compile_request(launch, device)])
            assert isinstance(result, CompiledReport), result
            held, split = bool(launch.arguments.get("HOLD_G")), plan.splits > 1
            predicted = shared_bytes(plan.config, device, "bfloat16", held, split=split)
            assert result.shared_bytes <= predicted + 300, plan.config
            assert predicted <= 1.55 * result.shared_bytes, plan.config


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_no_tile_needs_more_shared_memory_than_the_model_says(
    architecture: str, op: str, dtype: str, pool: CompilerPool
) -> None:
    device, kind = find_device(GPUS[architecture]), DTYPES[dtype]
    plans = candidates(op, LAYOUTS["aligned"], kind, device)
    launches = [OPS[op][0](LAYOUTS["aligned"], kind, device, plan)[0] for plan in plans]
    for plan, launch, result in zip(
        plans, launches, pool.compile_many([compile_request(launch, device) for launch in launches]), strict=True
    ):
        held, precision = bool(launch.arguments.get("HOLD_G")), launch.arguments["PRECISION"]
        name = str(kind).removeprefix("torch.")
        predicted = shared_bytes(plan.config, device, name, held, precision, plan.splits > 1)
        assert isinstance(result, CompiledReport), result
        assert result.shared_bytes <= predicted + 300, plan.config


# Plans without compiling ----------------------------------------------------------------------------------------------


def random_problems(device: DeviceSpec, count: int) -> Iterator[tuple[Callable[..., Plan | None], object]]:
    """Problems of every kind, sizes from 1 to a million rows, any dtype, unit and vectors."""
    draw = random.Random(0)
    precisions = product_precisions(device.architecture)
    for _ in range(count):
        dtype, precision = draw.choice(
            [("bfloat16", "ieee"), ("float16", "ieee"), ("float64", "ieee")]
            + [("float32", precision) for precision in precisions]
        )
        item = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}[dtype]
        width = lambda item=item: draw.choice([v for v in (2, 4, 8, 16) if v >= item])  # noqa: E731
        size = lambda: draw.choice([1, 2, 7, 16, 39, 64, 180, 256, 800])  # noqa: E731
        rows = draw.choice([1, 3, 16, 100, 5000, 200000, 1000000])
        common = (rows, size(), size(), size(), dtype, precision)
        unit = draw.choice(["", "a", "b", "c"])
        names = {"": ("", ""), "a": ("p", "l"), "b": ("q", "m"), "c": ("r", "n")}[unit]
        vector = width() if unit else item
        yield plan_contract, ContractProblem(*common, names[0], vector, width(), draw.random() < 0.3)
        yield plan_grad_inputs, GradInputsProblem(*common, names[1], vector, width())
        yield plan_grad_weight, GradWeightProblem(*common, (width(), width(), width()))
        yield plan_chain, ChainProblem(size(), size(), size(), size(), size(), size(), dtype, precision, width(), rows)


@pytest.mark.parametrize("name", device_names())
def test_every_problem_has_a_legal_plan(name: str) -> None:
    device = find_device(name)
    for planner, problem in random_problems(device, 40):
        plan = planner(problem, device)
        if plan is None:
            assert isinstance(problem, GradInputsProblem)
            continue
        assert legal(plan.config, device, problem, plan.order), (problem, plan)
        assert plan.estimate.seconds > 0


@pytest.mark.parametrize("kernel", MENU)
@pytest.mark.parametrize(
    ("dtype", "precision"), [("bfloat16", "ieee"), ("float32", "ieee"), ("float32", "tf32"), ("float64", "ieee")]
)
@pytest.mark.parametrize("vector", [8, 16])
def test_no_tile_is_offered_twice(kernel: str, dtype: str, precision: str, vector: int) -> None:
    offered = choices(kernel, dtype, precision, vector)
    assert len(set(offered)) == len(offered) > 0


def test_every_tile_of_the_menu_serves_some_device() -> None:
    served = set()
    for device in map(find_device, GPUS.values()):
        singles = [("float32", precision) for precision in product_precisions(device.architecture)]
        for dtype, precision in [("bfloat16", "ieee"), ("float64", "ieee"), *singles]:
            item = itemsize(dtype)
            for vector, L in product((item, 16), (16, 200)):
                common = (1, L, 200, 200, dtype, precision)
                unit = ("r", "n") if vector > item else ("", "")
                problems = [
                    ContractProblem(*common, unit[0], vector, vector),
                    GradInputsProblem(*common, unit[1], vector, vector),
                    GradWeightProblem(*common, (vector, vector, vector)),
                    ChainProblem(*common[:2], 1, 1, 1, 1, dtype, precision, vector, 1),
                ]
                served |= {
                    tile.config for problem in problems for tile in MODULES[type(problem)].legal_tiles(problem, device)
                }
    unserved = [tile for tables in MENU.values() for table in tables.values() for tile in table if tile not in served]
    assert unserved == []


def test_targets_of_the_grid_are_those_of_the_devices() -> None:
    for architecture, name in GPUS.items():
        assert find_device(name).architecture == architecture
        gpu_target(architecture)
