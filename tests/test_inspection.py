"""A step as data: what it lists is what a real step launches, and its counts are what an interpreted launch does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
from conftest import INTERPRETED
from instrument import counted
from standin import TensorArgument, run_standin

from triton_bilinear.gpu.chain import chain_launches
from triton_bilinear.gpu.contract import contract_launches
from triton_bilinear.gpu.grad_inputs import grad_inputs_launches
from triton_bilinear.gpu.grad_weight import grad_weight_launches
from triton_bilinear.gpu.launch import Launch, run
from triton_bilinear.inspection.compiled import compile_launches, compile_request, parameters, step_launches
from triton_bilinear.inspection.issue import issue_ratio, issued, loop_trips
from triton_bilinear.inspection.problem import GRADIENTS, PairwiseProblem, StepProblem, parse_dtype, parse_shape
from triton_bilinear.inspection.step import step_ops
from triton_bilinear.inspection.work import LaunchWork, launch_work
from triton_bilinear.planning import Plan
from triton_bilinear.planning.config import config
from triton_bilinear.tuning.compiler import CompiledReport
from triton_bilinear.tuning.devices import find_device
from triton_bilinear.tuning.listing import Instruction, find_loops
from triton_bilinear.tuning.pool import CompilerPool

A100 = find_device("NVIDIA A100-SXM4-80GB")
H100 = find_device("NVIDIA H100 80GB HBM3")

interpreted = pytest.mark.skipif(not INTERPRETED, reason="counts what Triton's interpreter runs")


# Work -----------------------------------------------------------------------------------------------------------------


def launches_by_plan(op: str, sizes: tuple[int, int, int, int], plan: Plan) -> list[Launch]:
    """One op's launches over zeros on the CPU, by this plan. sizes: B, L, M, N."""
    B, L, M, N = sizes
    g, x, y, weight = torch.zeros(B, L), torch.zeros(B, M), torch.zeros(B, N), torch.zeros(L, M, N)
    if op == "forward":
        return contract_launches(x, y, weight, torch.zeros(L), torch.empty(B, L), None, A100, plan)
    if op == "keep":
        return contract_launches(x, y, weight, None, torch.empty(B, L), torch.empty(B, L, N), A100, plan)
    if op == "grad_inputs":
        return grad_inputs_launches(g, x, y, weight, torch.empty(B, M), torch.empty(B, N), A100, plan)
    return grad_weight_launches(g, x, y, torch.empty(L, M, N), A100, plan)


KHATRI_RAO = config("khatri_rao", 4, 2, B=16, P=16, Q=2, R=16)
KHATRI_RAO_HELD = config("khatri_rao", 4, 2, B=16, P=16, Q=32, R=2)
PROJECT = config("project", 4, 2, B=16, P=2, Q=16, R=16)
HELD = config("grad_inputs", 4, 2, B=16, L=32, M=2, N=16)
WALKED = config("grad_inputs", 4, 2, B=16, L=16, M=2, N=16)
GRAD_WEIGHT = config("grad_weight", 4, 2, B=16, P=2, Q=16, R=16)

PLANS = [
    ("forward", KHATRI_RAO, "pqr", 1, 1),
    ("forward", KHATRI_RAO, "prq", 3, 1),
    ("forward", KHATRI_RAO_HELD, "pqr", 2, 1),
    ("forward", PROJECT, "pqr", 2, 1),
    ("keep", PROJECT, "pqr", 1, 1),
    ("grad_inputs", HELD, "lmn", 1, 1),
    ("grad_inputs", HELD, "lnm", 2, 2),
    ("grad_inputs", WALKED, "lmn", 2, 1),
    ("grad_weight", GRAD_WEIGHT, "pqr", 1, 1),
    ("grad_weight", GRAD_WEIGHT, "rqp", 2, 1),
]


def run_counted(
    op: str, tile: object, order: str, splits: int, groups: int, sizes: tuple[int, int, int, int]
) -> list[tuple[LaunchWork, object]]:
    """The work of each launch as it is told, and as it was counted."""
    estimate = step_ops(StepProblem((64, 32, 32, 32), torch.float32), A100)[0].plan.estimate
    launches = launches_by_plan(op, sizes, Plan(tile, tuple(order), splits, estimate, groups))  # type: ignore[arg-type]
    with counted() as counts:
        run(launches, torch.empty(0))
    assert len(launches) == len(counts.launches)
    return [(launch_work(launch), count) for launch, count in zip(launches, counts.launches, strict=True)]


@interpreted
@pytest.mark.parametrize(("op", "tile", "order", "splits", "groups"), PLANS)
def test_work_is_what_an_interpreted_launch_does(op, tile, order, splits, groups):
    for work, count in run_counted(op, tile, order, splits, groups, (32, 32, 32, 32)):
        assert work.programs == count.grid[0] * count.grid[1]
        assert work.products == count.dots
        assert work.mma_flops == count.dot_flops
        traffic = (count.loaded_bytes, count.stored_bytes)
        if work.products:
            assert (work.loaded_bytes, work.stored_bytes) == traffic
        else:  # a second pass, whose tile of 64 columns is half empty here
            assert (work.loaded_bytes, work.stored_bytes) == (2 * traffic[0], 2 * traffic[1])
        assert work.mma_flops <= work.programs * work.mma_flops_per_program


@interpreted
@pytest.mark.parametrize(("op", "tile", "order", "splits", "groups"), PLANS)
def test_padding_is_work(op, tile, order, splits, groups):
    for work, count in run_counted(op, tile, order, splits, groups, (17, 20, 5, 33)):
        assert (work.products, work.mma_flops) == (count.dots, count.dot_flops)
        assert work.loaded_bytes + work.stored_bytes >= count.loaded_bytes + count.stored_bytes


@interpreted
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("summed", ["", "b", "l"])
@pytest.mark.parametrize("sizes", [(2, 3, 32, 32, 16, 32), (3, 2, 17, 20, 5, 33)])
def test_work_of_a_chain_is_what_an_interpreted_launch_does(splits, summed, sizes):
    batch, outputs, A, E, C, D = sizes
    p, q, r = (torch.zeros(batch, outputs, *matrix) for matrix in ((A, E), (E, C), (C, D)))
    estimate = step_ops(StepProblem((64, 32, 32, 32), torch.float32), A100)[0].plan.estimate
    plan = Plan(config("chain", 4, 2, A=16, C=16, D=16, E=16), tuple("acde"), splits, estimate)
    out = torch.empty(1 if summed == "b" else batch, 1 if summed == "l" else outputs, A, D)
    launches = chain_launches(p, q, r, None if summed else torch.zeros(outputs), out, A100, plan)
    with counted() as counts:
        run(launches, out)
    work, count = launch_work(launches[0]), counts.launches[0]
    assert work.programs == count.grid[0] * count.grid[1]
    assert work.mma_flops == count.dot_flops
    if A % 16 == 0:
        assert (work.loaded_bytes, work.stored_bytes) == (count.loaded_bytes, count.stored_bytes)


# The step -------------------------------------------------------------------------------------------------------------

STEPS = [
    ((64, 32, 16, 48), True, GRADIENTS),
    ((64, 32, 16, 48), False, ("y", "weight")),
    ((64, 1, 64, 40), True, GRADIENTS),
    ((64, 2, 8, 8), True, ("x",)),
    ((64, 32, 16, 48), True, ()),
]


@pytest.mark.parametrize(
    "gpu", ["NVIDIA H100 80GB HBM3", pytest.param("NVIDIA A100-SXM4-80GB", marks=pytest.mark.slow)]
)
def test_a_step_lists_what_a_real_step_launches(gpu):
    device = find_device(gpu)
    seen = iter(run_standin("standin_calls:training_steps", gpu, STEPS).launches)
    for shape, bias, gradients in STEPS:
        for each in step_launches(StepProblem(shape, torch.float16, bias, gradients), device):
            launch, real = each.launch, next(seen)
            assert (real.kernel, real.grid[:2]) == (launch.kernel.__name__, launch.grid)
            assert (real.num_warps, real.num_stages) == (launch.num_warps, launch.num_stages)
            for name, value in real.arguments.items():
                told = launch.arguments[name]
                if isinstance(value, TensorArgument):
                    # Of one that is a view with other axes first, a later launch passes what it is a view of.
                    assert value.dtype == str(told.dtype).removeprefix("torch."), name
                    axes = sorted(zip(told.shape, told.stride(), strict=True))
                    assert sorted(zip(value.shape, value.stride, strict=True)) == axes, name
                else:
                    assert value == told, name
            types = parameters(launch, compile_request(launch, device))
            assert {name: kind.removesuffix(":16") for name, kind in types.items()} == {
                name: kind for name, kind in real.signature.items() if kind != "constexpr"
            }
            assert {name for name, kind in types.items() if kind.endswith(":16")} == real.divisible
    assert next(seen, None) is None


def names(shape: tuple[int, int, int, int], gradients: tuple[str, ...] = GRADIENTS) -> list[tuple[str, bool]]:
    """The ops of a step, and whether kernels of ours compute them."""
    problem = StepProblem(shape, torch.bfloat16, gradients=gradients)
    return [(op.name, bool(op.launches)) for op in step_ops(problem, H100)]


def test_ops_of_a_step():
    both = [("forward", True), ("grad_inputs", True), ("grad_weight", True), ("grad_bias", False)]
    assert names((4096, 256, 256, 256)) == both
    assert names((4096, 256, 256, 256), ("x",)) == [("forward", True), ("grad_x", True)]
    assert names((4096, 256, 256, 256), ("y", "bias")) == [("forward", True), ("grad_y", True), ("grad_bias", False)]
    assert names((4096, 256, 256, 256), ()) == [("forward", True)]


def test_a_gradient_from_what_the_forward_pass_kept_is_torchs():
    kept = names((4096, 1, 1024, 1024))
    assert ("grad_x", True) in kept
    assert ("grad_y", False) in kept
    assert names((4096, 1, 1024, 1024), ("x",)) == [("forward", True), ("grad_x", False)]


def test_two_contractions_are_two_ops(monkeypatch):
    monkeypatch.setitem(grad_inputs_launches.__globals__, "plan_grad_inputs", lambda problem, device: None)
    ops = {op.name: op for op in step_ops(StepProblem((512, 64, 32, 48), torch.bfloat16), H100)}
    assert list(ops) == ["forward", "grad_x", "grad_y", "grad_weight", "grad_bias"]
    for name, features in (("grad_x", 32), ("grad_y", 48)):
        launches = ops[name].launches
        assert launches[0].plan is not None
        assert all(launch.plan is None for launch in launches[1:])
        assert launches[-1].arguments["out_ptr"].shape[-1] == features


def test_minimum_bytes_are_those_of_the_tensors():
    problem = StepProblem((10, 2, 3, 5), torch.float64)
    g, x, y, weight, bias = 20, 30, 50, 30, 2
    expected = {
        "forward": x + y + weight + bias + g,
        "grad_inputs": g + x + y + weight + x + y,
        "grad_x": g + y + weight + x,
        "grad_y": g + x + weight + y,
        "grad_weight": g + x + y + weight,
        "grad_bias": g + bias,
    }
    for name, elements in expected.items():
        assert problem.minimum_bytes(name) == 8 * elements
    assert problem.minimum_bytes("forward", keeps=True) == 8 * (expected["forward"] + 10 * 2 * 5)
    assert problem.minimum_bytes("grad_y", keeps=True) == 8 * (g + 10 * 2 * 5 + y)


def test_a_pairwise_step():
    B, S, T, L, M, N = shape = (2, 16, 24, 3, 40, 32)
    problem = PairwiseProblem(shape, torch.float16)
    ops = step_ops(problem, A100)
    assert [op.name for op in ops] == ["forward", "grad_x", "grad_y", "grad_weight", "grad_bias"]
    assert all(op.plan.config.kernel == "chain" for op in ops[:4])
    x, y, weight, out = B * S * M, B * T * N, L * M * N, B * L * S * T
    assert problem.minimum_bytes("forward") == 2 * (x + y + weight + L + out)
    assert problem.minimum_bytes("grad_y") == 2 * (x + y + weight + out)
    # (x A) y^T; in each gradient but that of y the product with g first, there x A.
    assert problem.useful_flops("forward") == 2 * B * L * (S * M * N + S * N * T)
    assert problem.useful_flops("grad_x") == 2 * B * L * (S * T * N + S * N * M)
    assert problem.useful_flops("grad_y") == 2 * B * L * (S * M * N + S * N * T)
    assert problem.useful_flops("grad_weight") == 2 * B * L * (S * T * N + M * S * N)
    assert problem.least_flops() == sum(problem.useful_flops(op.name) for op in ops)
    for op in ops[:4]:
        assert launch_work(op.launches[0]).mma_flops >= problem.useful_flops(op.name)


@pytest.mark.parametrize("gpu", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "AMD Instinct MI300X"])
def test_no_product_of_a_pairwise_step_is_made_anew_for_two_hundred_rows(gpu):
    """Pairs start where the second product has no more columns than a tile; of a weight's gradient no order does."""
    shape = (12, 256, 256, 10, 512, 512)
    problem = PairwiseProblem(shape, torch.bfloat16)
    extra = {
        op.name: launch_work(op.launches[0]).mma_flops / problem.useful_flops(op.name)
        for op in step_ops(problem, find_device(gpu))
        if op.launches
    }
    assert [extra[name] for name in ("forward", "grad_x", "grad_y")] == [1, 1, 1]
    assert extra["grad_weight"] <= 4 / 3


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,0", "a,b,c,d", "", "1,2,3,4,5"])
def test_a_malformed_shape_is_an_error(text):
    with pytest.raises(ValueError, match="B,L,M,N"):
        parse_shape(text)


def test_dtypes_have_short_and_long_names():
    assert parse_dtype("bf16") is parse_dtype("torch.bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match="int8"):
        parse_dtype("int8")


# Instructions ---------------------------------------------------------------------------------------------------------


def listing_report(opcodes: str) -> CompiledReport:
    """A report of a listing written as words: "mma", "add", ..., and "<2" for a conditional jump to index 2."""
    listing = [
        Instruction("BRA", int(word[1:]))
        if word.startswith("<")
        else Instruction("HMMA.16816" if word == "mma" else word)
        for word in opcodes.split()
    ]
    listing.append(Instruction("EXIT", falls_through=False))
    loops = tuple(find_loops(listing))
    return CompiledReport("k", "sm_80", 4, 2, 0, 0, 32, 0, 0, len(listing), {"HMMA.16816": 1}, loops, {})


def work_of(*trips: int) -> LaunchWork:
    return LaunchWork(1, trips, products=1, product_flops=2**20, loaded_bytes=0, stored_bytes=0)


def test_instructions_of_nested_loops_multiply():
    #                        0   1   2   3   4   5  6   7  8
    report = listing_report("add add add add mma <3 add <2 add")
    assert [loop.depth for loop in report.loops] == [1, 2]
    counts = issued(report, work_of(5, 7))
    assert counts.prologue == 2
    assert counts.loops == (5 * 3, 5 * 7 * 3)
    assert counts.epilogue == 2
    assert counts.total == 2 + 15 + 105 + 2


def test_a_loop_that_waits_runs_once_where_it_stands():
    #                        0   1   2    3  4   5  6
    report = listing_report("add add wait <2 mma <1 add")
    counts = issued(report, work_of(11))
    assert counts.loops == (11 * 3, 11 * 2)
    assert (counts.prologue, counts.epilogue) == (1, 2)


def test_dissolved_loops_keep_their_trips():
    report = listing_report("add mma <1 add")
    assert issued(report, work_of(1, 7)).loops == (7 * 2,)
    assert issued(report, work_of(3, 7)).loops == (21 * 2,)


def test_the_ratio_counts_slots_against_matrix_cycles():
    report = listing_report("add mma <1 add")
    # 4 warps on 4 slots: one cycle for each instruction of a warp. sm_80's unit does 2048 FLOP a cycle.
    cycles = 10 * 2**20 / (A100.matrix_flops["bfloat16"] / A100.sm_count / A100.clock_hz)
    work = work_of(10)
    assert issue_ratio(report, work, A100, "bfloat16") == pytest.approx((1 + 10 * 2 + 2) / cycles)
    assert issue_ratio(replace(report, matrix_instructions={}), work, A100, "bfloat16") is None
    assert issue_ratio(report, work, find_device("MI300X"), "bfloat16") is None


def test_the_loops_of_compiled_kernels_run_as_often_as_counted():
    """On sm_80 one HMMA.16816 of a warp is 4096 FLOP: those of all loops, times trips, make the tile's products."""
    problems = [StepProblem(shape, torch.bfloat16) for shape in ((4096, 256, 256, 256), (2048, 64, 32, 32))]
    launches = [each for problem in problems for each in step_launches(problem, A100) if each.first]
    with CompilerPool() as pool:
        results = compile_launches(launches, pool)
    for each, report in zip(launches, results, strict=True):
        assert isinstance(report, CompiledReport), report
        work = launch_work(each.launch)
        executed = 0
        for loop, times in loop_trips(report, work):
            inner = Counter()
            for other in report.loops:
                if loop.contains(other) and other.depth == loop.depth + 1:
                    inner.update(other.opcodes)
            own = loop.opcodes - inner
            executed += times * sum(count for opcode, count in own.items() if opcode.startswith("HMMA.16816"))
        assert executed * 4096 * report.num_warps == work.mma_flops_per_program, each.op.name
