"""The CPU path in bfloat16 where torch has a matrix unit for it, here whether this CPU has one or not."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations, product
from math import prod
from types import ModuleType

import oracle
import pytest
import torch
from oracle import assert_near
from test_cpu import LAYOUTS, check, dense, expanded, make, peak_of, rotated, sliced
from test_precision import by_einsum, errors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import triton_bilinear as tb
from triton_bilinear import cpu
from triton_bilinear.benchmark.memory import extra_bytes
from triton_bilinear.benchmark.rivals import Step
from triton_bilinear.cpu import budget as cpu_budget
from triton_bilinear.cpu import (
    matrix_unit,
    onednn,
    orders,
    rounded,
    rounded_features_first,
    rounded_joint,
    rounded_joint_tiles,
    rounded_project,
    unit_plans,
    units,
    whole,
)
from triton_bilinear.cpu.costs import Plan, Weight
from triton_bilinear.cpu.pieces import row_pieces
from triton_bilinear.cpu.workspace import Workspace

PLANNERS = (orders.plan_contract, orders.plan_joint, orders.plan_weight)
CONTRACT = {"contract_plans": rounded, "project_plans": rounded_project}
JOINT = {"joint_plans": rounded_joint, "joint_tile_plans": rounded_joint_tiles}
WEIGHT = {"weight_plans": rounded, "features_first_weight_plans": rounded_features_first}
CONTRACT_ORDERS = {"rounded": rounded, "rounded_project": rounded_project}
WEIGHT_ORDERS = {"rounded": rounded, "rounded_features_first": rounded_features_first}
WIDE = ((0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0))


def room(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """So many elements are all that the buffers of a call may hold."""
    monkeypatch.setattr(matrix_unit, "room", lambda held, longest_sum, transposed=False: elements)


def skip_if_not_served(kind: units.Unit) -> None:
    """Skips sums of any length where the CPU's unit does not take them."""
    if kind.sum_multiple < matrix_unit.kind().sum_multiple and matrix_unit.serves(torch.empty(0).bfloat16()):
        pytest.skip("the unit of this CPU does not take sums of any length")


@pytest.fixture(autouse=True, params=[units.AMX, units.AVX512], ids=["AMX", "AVX-512"])
def unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[units.Unit]:
    """There is one of each kind, all else is too dear, no problem is small, and pieces are."""
    skip_if_not_served(request.param)
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: tensor.dtype == torch.bfloat16)
    monkeypatch.setattr(matrix_unit, "kind", lambda: request.param._replace(piece=2**17, rows=64, dot_of_copy=20.0))
    monkeypatch.setattr(onednn, "is_there", lambda: False)
    for rate in ("rate", "rate_of_all", "rate_of_shares", "rate_by_transpose"):
        monkeypatch.setattr(orders, rate, lambda *sizes: 1e-9)
    room(monkeypatch, 2**18)
    monkeypatch.setattr(whole, "LARGEST", 0)
    for planner in PLANNERS:
        planner.cache_clear()
    yield request.param
    for planner in PLANNERS:
        planner.cache_clear()


def record(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, called: list[str]) -> None:
    """Has each call of the module's function add its name to `called`."""
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: (called.append(name), function(*args))[1])


@pytest.fixture(
    params=[("contract_plans", "weight_plans"), ("project_plans", "features_first_weight_plans")], ids="-".join
)
def calls(request: pytest.FixtureRequest, unit: units.Unit, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of the unit that were called; plans of one order alone are made, for the weight of one it has."""
    called: list[str] = []
    contract, weight = request.param
    if unit.sum_multiple > 1:
        weight = "weight_plans"
    for other in {*CONTRACT, *JOINT, *WEIGHT} - {contract, weight}:
        monkeypatch.setattr(unit_plans, other, lambda *args: [])
    monkeypatch.setattr(unit_plans, "FEWEST_OUTPUTS", 1)
    record(monkeypatch, CONTRACT[contract], "contract", called)
    record(monkeypatch, WEIGHT[weight], "grad_weight", called)
    return called


@pytest.fixture(params=JOINT)
def joint_calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A "grad_inputs" for each call of one joint order; there are plans of no other."""
    called: list[str] = []
    for other in {*CONTRACT, *JOINT} - {request.param}:
        monkeypatch.setattr(unit_plans, other, lambda *args: [])
    record(monkeypatch, JOINT[request.param], "grad_inputs", called)
    return called


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize(
    "sizes", [(150, 40, 9, 11), (200, 35, 32, 3), (65, 33, 16, 64), (1, 64, 5, 7), (300, 48, 1, 33)], ids=str
)
@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
def test_numbers(name: str, sizes: tuple[int, ...], layout: Callable, calls: list[str]) -> None:
    """Sums of any length, batches of any size, any strides; and the same bits again."""
    inputs, results = make(name, torch.bfloat16, layout, **dict(zip("bpqr", sizes, strict=True)))
    getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
    assert ("grad_weight" if name == "grad_weight" else "contract") in calls
    again = [torch.empty_like(t) for t in results]
    getattr(cpu, name)(*inputs, *again)
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS[1:4], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
def test_strided_results(name: str, layout: Callable, calls: list[str]) -> None:
    inputs, results = make(name, torch.bfloat16, b=150, p=40, q=9, r=11)
    results = [layout(tuple(t.shape), t.dtype) for t in results]
    getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
    assert calls


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("elements", [2**18, 2**14], ids=["whole", "pieces"])
@pytest.mark.parametrize(
    "sizes", [(150, 40, 9, 11), (200, 35, 32, 3), (65, 32, 16, 64), (1, 64, 5, 7), (300, 1, 33, 1)], ids=str
)
def test_the_joint_order(sizes: tuple[int, ...], elements: int, layout: Callable, joint_calls, monkeypatch) -> None:
    """Both gradients; weights as they lie and copied in parts; and the same bits again, in results of any strides."""
    room(monkeypatch, elements)
    inputs, results = make("grad_inputs", torch.bfloat16, layout, **dict(zip("bpqr", sizes, strict=True)))
    cpu.grad_inputs(*inputs, *results)
    check("grad_inputs", inputs, results)
    again = [(dense if layout is expanded else layout)(tuple(t.shape), t.dtype) for t in results]
    cpu.grad_inputs(*inputs, *again)
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
    assert joint_calls == ["grad_inputs"] * 2


def test_the_joint_order_keeps_what_is_not_a_number_in_its_row(joint_calls: list[str]) -> None:
    g, x, y = (torch.randn(70, n).bfloat16() for n in (40, 20, 31))
    weight = torch.randn(40, 20, 31).bfloat16()
    g[3, -1], x[5, -1], y[7, 0] = torch.nan, torch.inf, torch.nan
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    cpu.grad_inputs(g, x, y, weight, dx, dy)
    for found, reached in ((dx, (3, 7)), (dy, (3, 5))):
        finite = [row for row in range(70) if row not in reached]
        assert found[finite].isfinite().all()
        assert not found[list(reached)].isfinite().any()
    assert joint_calls == ["grad_inputs"]


@pytest.mark.parametrize("L", [16, 1024])
def test_the_joint_order_is_as_exact_as_einsum(L: int, joint_calls: list[str]) -> None:
    tensors = leaves(L)
    with tb.use_backend("torch"):
        ours = errors(tb.bilinear, tensors)
    theirs = errors(by_einsum, tensors)
    assert joint_calls == ["grad_inputs"]
    for name in ("grad x", "grad y"):
        assert ours[name] <= 1.05 * theirs[name]


@pytest.mark.parametrize("axes", WIDE, ids=str)
def test_pieces_of_products(axes) -> None:
    inputs, (out,) = make("grad_weight", torch.bfloat16, b=70, p=6, q=9, r=10)
    plan = Plan("rounded", axes, matrix_unit.padded(1, 70), 20, cost=0)
    rounded.grad_weight(*(inputs[axis] for axis in axes), out.permute(axes), plan)
    check("grad_weight", inputs, [out])
    (u, v, weight, bias), (out,) = make("contract", torch.bfloat16, b=70, p=6, q=9, r=10)
    rounded.contract(u, v, weight, bias, out, Plan("rounded", (0, 1, 2), 33, 9 * matrix_unit.padded(9, 10), cost=0))
    check("contract", [u, v, weight, bias], [out])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
def test_pieces_of_a_gradient_with_rows_innermost(axes: tuple[int, ...], in_place: bool, monkeypatch) -> None:
    """In a result that lies as the products return it they are made there, else in a buffer."""
    inputs, (out,) = make("grad_weight", torch.bfloat16, b=70, p=6, q=9, r=10)
    if in_place:
        stored = (*axes[1:], axes[0])
        out = torch.empty([out.shape[axis] for axis in stored]).bfloat16().permute([stored.index(i) for i in range(3)])
    taken: list[str] = []
    take = Workspace.take
    monkeypatch.setattr(Workspace, "take", lambda work, name, *shape: (taken.append(name), take(work, name, *shape))[1])
    plan = Plan("rounded_features_first", axes, 70, 2 * out.shape[axes[2]], cost=0)
    rounded_features_first.grad_weight(*(inputs[axis] for axis in axes), out.permute(axes), plan)
    check("grad_weight", inputs, [out])
    assert taken.count("product") > 2
    assert ("out" in taken) != (in_place or axes == (2, 0, 1))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("sizes", [(150, 40, 9, 11), (97, 7, 32, 3), (70, 33, 16, 32)], ids=str)
@pytest.mark.parametrize("name", ["contract", "grad_inputs"])
def test_weights_copied_in_parts(name: str, sizes, layout: Callable, calls: list[str], monkeypatch) -> None:
    room(monkeypatch, 2**13)
    inputs, results = make(name, torch.bfloat16, layout, **dict(zip("bpqr", sizes, strict=True)))
    getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
    assert set(calls) == {"contract"}


@pytest.mark.parametrize("feature_dim", [0, 1, 2])
def test_batch_axes_that_are_not_one(feature_dim: int, calls: list[str]) -> None:
    x, y, g = (torch.randn(12, 13, n).bfloat16().movedim(-1, feature_dim).contiguous() for n in (6, 7, 40))
    weight, bias = torch.randn(40, 6, 7).bfloat16().requires_grad_(), torch.randn(40).bfloat16()
    leaves = [x.requires_grad_(), y.requires_grad_(), weight]
    with tb.use_backend("torch"):
        result = tb.bilinear(x, y, weight, bias, feature_dim=feature_dim)
        found = torch.autograd.grad(result, leaves, g)
    function = lambda x, y, weight: oracle.bilinear(x, y, weight, bias, feature_dim)  # noqa: E731
    assert_near(result, function(*leaves))
    for actual, exact in zip(found, oracle.gradients(function, leaves, g), strict=True):
        assert_near(actual, exact)
    assert set(calls) == {"contract", "grad_weight"}


def leaves(L: int) -> list[Tensor]:
    shapes = ((96, 24), (96, 48), (L, 24, 48), (L,))
    return [torch.randn(shape, dtype=torch.float64).bfloat16().requires_grad_() for shape in shapes]


@pytest.mark.parametrize("L", [1, 2, 3, 16, 40, 256, 1024])
def test_as_exact_as_einsum(L: int) -> None:
    """One rounding of the products and one at the store, however long the sums are."""
    tensors = leaves(L)
    with tb.use_backend("torch"):
        ours = errors(tb.bilinear, tensors)
    theirs = errors(by_einsum, tensors)
    assert {name: error for name, error in ours.items() if error > 1.05 * theirs[name]} == {}
    assert max(ours.values()) < torch.finfo(torch.bfloat16).eps / 2


def test_the_error_does_not_grow_with_the_outputs(calls: list[str]) -> None:
    found = {}
    for L in (16, 1024):
        calls.clear()
        with tb.use_backend("torch"):
            found[L] = errors(tb.bilinear, leaves(L))
        assert set(calls) == {"contract", "grad_weight"}
    del found[16]["grad bias"]  # sixteen elements, one rounding of each: chance
    assert {name: found[1024][name] for name, error in found[16].items() if found[1024][name] > 1.1 * error} == {}


@pytest.mark.parametrize("sizes", [(64, 40, 10, 10), (100, 64, 16, 50), (70, 33, 5, 9)], ids=str)
def test_what_is_not_a_number_stays_in_its_row(sizes: tuple[int, ...], calls: list[str]) -> None:
    B, L, M, N = sizes
    x, y, g = (torch.randn(B, n).bfloat16() for n in (M, N, L))
    weight = torch.randn(L, M, N).bfloat16()
    x[3, M // 2], y[5, 0], x[7, -1], g[9, 1] = torch.nan, torch.inf, -torch.inf, torch.nan
    finite = [row for row in range(B) if row not in (3, 5, 7, 9)]
    results = [torch.empty_like(t) for t in (g, x, y)]
    cpu.contract(x, y, weight, None, results[0])
    cpu.contract(g, y, weight.transpose(0, 1), None, results[1])
    cpu.contract(g, x, weight.permute(2, 0, 1), None, results[2])
    assert calls == ["contract"] * 3
    assert all(t[finite].isfinite().all() for t in results)
    assert results[0][3].isnan().all()
    assert not results[0][[5, 7]].isfinite().any()
    assert results[0][9].isfinite().all()


def test_a_feature_that_is_not_a_number_stays_one_in_the_gradient_of_the_weight(calls: list[str]) -> None:
    g, x, y = (torch.randn(70, n).bfloat16() for n in (40, 20, 30))
    x[3, 6] = torch.nan
    out = torch.empty(40, 20, 30).bfloat16()
    cpu.grad_weight(g, x, y, out)
    assert calls == ["grad_weight"]
    assert out[:, 6].isnan().all()
    assert out[:, [m for m in range(20) if m != 6]].isfinite().all()


def test_no_piece_ends_the_process(unit: units.Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is too large, nor large with few rows; every sum has a length that the unit takes."""
    monkeypatch.undo()
    monkeypatch.setattr(matrix_unit, "kind", lambda: unit._replace(dot_of_copy=20.0))
    whole, largest = unit.sum_multiple, min(unit.piece, 2**22)
    seen = Counter()
    few, many = (0, 2**22), (2**27, 3 * 2**21)  # what einsum holds, and the most that all buffers may
    for axes in ((1,), (24,), (31,), (32,), (65,), (100,), (1000,), (5000,), (6401,), (2**17,), (5, 16), (7, 33, 9)):
        batch = prod(axes)
        sizes = ((256, 256), (192, 256), (512, 512), (39, 39), (1, 512), (8, 128), (300, 170), (3, 5))
        for (q, r), (held, most) in product(sizes, (few, many)):
            weight = Weight((48, q, r), (q * r, r, 1), False, True)
            for plan in unit_plans.contract_plans(axes, weight, (0, 1, 2), held):
                seen["contract"] += 1
                pieces = row_pieces(torch.empty(1).expand(*axes, 1), plan.rows)
                assert plan.columns % whole == 0
                assert plan.columns >= q * r
                assert plan.rows % 2 == plan.outputs % 2 == 0
                assert plan.rows * plan.columns <= most
                for rows in {piece.numel() for piece in pieces}:
                    assert rows * plan.columns <= 2**20 or (rows > unit.few_rows and rows * plan.columns <= 2**22)
            for plan in unit_plans.project_plans(batch, weight, (0, 1, 2), held):
                seen["project"] += 1
                length, width = (-(-size // whole) * whole for size in (q, r))
                assert max(length, width) <= 2**15 or not unit.few_rows
                assert plan.columns % width == 0
                assert plan.rows * plan.columns <= largest
                assert plan.rows * plan.columns + plan.outputs * length * width <= most
            for plan in unit_plans.joint_plans(batch, weight, held):
                seen["joint"] += 1
                assert plan.columns % whole**2 == 0
                assert plan.columns >= q * r
                assert plan.rows * plan.columns <= most
            for plan in unit_plans.joint_tile_plans(batch, weight, held):
                seen["joint by tiles"] += 1
                assert plan.columns % (plan.outputs * whole) == 0
                assert plan.outputs <= q
                assert plan.rows * plan.columns <= 2**22
                assert plan.rows * plan.columns * 3 <= most
            for plan in unit_plans.weight_plans(batch, weight, (0, 1, 2), held, False):
                seen["weight"] += 1
                assert plan.rows % whole == 0
                assert batch <= plan.rows < batch + whole
                assert plan.rows * plan.columns <= largest
                assert plan.rows * (plan.columns + 48) <= most
            dense = weight._replace(strides=(1, r * 48, 48))
            for out, made in ((weight, 48), (dense, 0)):
                for plan in unit_plans.features_first_weight_plans(batch, out, (0, 1, 2), held, not made):
                    seen["weight, rows innermost"] += 1
                    assert plan.rows == batch
                    assert plan.rows * plan.columns <= largest
                    assert plan.rows * (plan.columns + made + q + r) + plan.columns * made <= most
    assert min(seen.values()) > 30
    assert len(seen) == (6 if whole == 1 else 5)


class Products(TorchDispatchMode):
    """The dtypes of all matrix products while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm):
            self.dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("sizes", [(30, 2, 9, 11), (30, 9, 11, 2), (33, 1, 9, 9), (1, 14, 9, 9), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
def test_a_small_problem(name: str, sizes: tuple[int, ...], layout: Callable, unit: units.Unit, monkeypatch):
    """By the unit if it takes any sum, else in float32, as all that is padded would take longer."""
    monkeypatch.setattr(whole, "LARGEST", 2**18)
    monkeypatch.setattr(whole, "LEAST_BY_UNIT", 2)
    inputs, results = make(name, torch.bfloat16, layout, **dict(zip("bpqr", sizes, strict=True)))
    with Products() as products:
        getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
    by_unit = unit.sum_multiple == 1 and prod(sizes) > 1
    assert products.dtypes == {torch.bfloat16 if by_unit else torch.float32}


def test_what_is_not_a_number_stays_in_its_row_of_a_small_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "LARGEST", 2**18)
    monkeypatch.setattr(whole, "LEAST_BY_UNIT", 2)
    g, x, y = (torch.randn(11, n).bfloat16() for n in (3, 7, 5))
    weight = torch.randn(3, 7, 5).bfloat16()
    g[3, -1], x[5, -1], y[7, 0] = torch.nan, torch.inf, torch.nan
    results = [torch.empty_like(t) for t in (x, y, g)]
    cpu.grad_inputs(g, x, y, weight, *results[:2])
    cpu.contract(x, y, weight, None, results[2])
    for found, reached in zip(results, ((3, 7), (3, 5), (5, 7)), strict=True):
        assert found[[row for row in range(11) if row not in reached]].isfinite().all()
        assert not found[list(reached)].isfinite().any()


# Each ended the process with a division by zero once: a product of 32 rows of 49152, as torch sees it.
DIVISIONS = {
    "results whose features lie first": """
x, y, weight = (torch.randn(size).bfloat16() for size in ((192, 64), (256, 64), (32, 192, 256)))
triton_bilinear.bilinear(x, y, weight, feature_dim=0)
""",
    "two batch axes": """
x, y, weight = (torch.randn(size).bfloat16() for size in ((5, 192, 16), (5, 256, 16), (48, 192, 256)))
triton_bilinear.bilinear(x, y, weight, feature_dim=1)
""",
    "pieces of one and two samples": """
x, y, weight = (torch.randn(size).bfloat16() for size in ((3, 16, 64), (3, 256, 4096), (12, 64, 4096)))
triton_bilinear.pairwise_bilinear(x.requires_grad_(), y, weight).sum().backward()
""",
}


@pytest.mark.parametrize("code", DIVISIONS.values(), ids=DIVISIONS)
def test_no_call_ends_the_process(code: str) -> None:
    """On a CPU that has the unit; here in another process."""
    subprocess.run([sys.executable, "-c", "import torch, triton_bilinear\n" + code], check=True)


def test_a_weight_too_large_for_a_piece_has_no_plan() -> None:
    sizes, strides = (2, 2050, 2049), (2, 4, 2050 * 2049 * 4)
    weight = Weight(sizes, strides, False, True)
    assert not list(unit_plans.contract_plans((100,), weight, (0, 1, 2), held=2**30))
    budget = cpu_budget.Budget(2**19, 2**19, held=2**30)
    assert orders.plan_contract((100,), weight, budget).order != "rounded"


def test_what_is_infinite_stays_so(calls: list[str]) -> None:
    """Padding takes no part: infinity times its 0 is no number."""
    (x, y, weight, _), (out,) = make("contract", torch.bfloat16, b=70, p=40, q=9, r=11)
    for tensor in (x, y, weight):
        tensor.abs_().add_(0.1)
    x[3, 5] = torch.inf
    cpu.contract(x, y, weight, None, out)
    assert calls == ["contract"]
    assert (out[3] == torch.inf).all()


@pytest.mark.parametrize(("elements", "batches"), [(2**18, (512, 1024, 1536)), (2**19, (1024, 2048, 4096))], ids=str)
def test_what_it_holds(elements: int, batches: tuple[int, ...], calls: list[str], monkeypatch) -> None:
    """Beside results no more than there is room for, oneDNN's own buffers left aside."""
    room(monkeypatch, elements)
    for name in ("contract", "grad_inputs", "grad_weight"):
        for batch in batches:
            sizes = {"b": batch, "p": 48, "q": 32, "r": 28}
            results = sum(t.numel() for t in make(name, torch.bfloat16, **sizes)[1])
            assert peak_of(name, batch, torch.bfloat16, p=48, q=32, r=28) - results <= elements, (name, batch)
    assert set(calls) == {"contract", "grad_weight"}


def test_what_the_joint_order_holds(joint_calls: list[str]) -> None:
    results = 1024 * (32 + 28)
    assert peak_of("grad_inputs", 1024, torch.bfloat16, p=48, q=32, r=28) - results <= 2**18
    assert joint_calls == ["grad_inputs"]


@pytest.mark.parametrize("weight", [torch.randn(3, 4, 5), torch.randn(3, 4, 5).half()], ids=["float32", "float16"])
def test_other_dtypes_have_none(weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(matrix_unit, "_unit", lambda: units.AMX)
    assert not matrix_unit.serves(weight)
    assert matrix_unit.serves(weight.bfloat16()) == torch.backends.mkldnn.is_available()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not matrix_unit.serves(weight.bfloat16())


def bytes_held(name: str, plan: Plan, inputs: list[Tensor], out: Tensor) -> int:
    """What a call by this plan takes beside its results, oneDNN's own buffers with it."""

    def run() -> Tensor:
        if name == "grad_weight":
            WEIGHT_ORDERS[plan.order].grad_weight(*(inputs[axis] for axis in plan.axes), out.permute(plan.axes), plan)
        else:
            u, v, weight, bias = inputs
            turned = (v, u, weight.mT) if plan.axes == (0, 2, 1) else (u, v, weight)
            CONTRACT_ORDERS[plan.order].contract(*turned, bias, out, plan)
        return torch.empty(0)

    return extra_bytes(Step(run, (), torch.empty(0), ()), torch.device("cpu"))["forward"]


@pytest.mark.parametrize("layout", [dense, rotated, sliced], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("name", ["contract", "grad_weight"])
def test_no_plan_holds_more_than_there_is_room_for(name: str, axes, layout: Callable, unit, monkeypatch) -> None:
    """Even where what is fixed for each weighted row is most of it. Counted in bytes, by torch's profiler."""
    monkeypatch.undo()
    monkeypatch.setattr(matrix_unit, "kind", lambda: unit)
    monkeypatch.setattr(matrix_unit, "FEW", 2**20)
    inputs, (out,) = make(name, torch.bfloat16, layout, b=3000, p=48, q=64, r=8)
    weight = out if name == "grad_weight" else inputs[2]
    seen = Weight(tuple(weight.shape), weight.stride(), False, True)
    if name == "contract":
        plans = [*unit_plans.contract_plans((3000,), seen, axes, 0), *unit_plans.project_plans(3000, seen, axes, 0)]
    else:
        lies = all(map(rounded.lies_right, inputs))
        plans = [*unit_plans.weight_plans(3000, seen, axes, 0, lies)]
        plans += unit_plans.features_first_weight_plans(3000, seen, axes, 0, lies)
    assert plans
    for plan in plans:
        assert bytes_held(name, plan, inputs, out) <= 1.02 * 2 * 2**20, plan
