"""All pairs on the CPU path in bfloat16 where torch has a matrix unit for it, here whether this CPU has one or not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from test_cpu import LAYOUTS, LiveElements, dense, rotated, sliced, transposed
from test_cpu_matrix_unit import record, room, skip_if_not_served
from test_cpu_pairwise import PRIMITIVES, SIZES, check
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from triton_bilinear import cpu
from triton_bilinear.cpu import matrix_unit, pair_plans, rounded_pairs, units
from triton_bilinear.cpu.pieces import pair_pieces

# Elements that all buffers may hold, and rows of a piece.
CUTS = {"whole": (2**22, 512), "pieces": (2**15, 5)}


@pytest.fixture(autouse=True, params=[units.AMX, units.AVX512], ids=["AMX", "AVX-512"])
def unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> units.Unit:
    """There is one of each kind, and it always pays."""
    skip_if_not_served(request.param)
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: tensor.dtype == torch.bfloat16)
    monkeypatch.setattr(matrix_unit, "kind", lambda: request.param._replace(speed=1e9, few_rows=0))
    monkeypatch.setattr(pair_plans, "SAVED", 0)
    return request.param


@pytest.fixture(params=CUTS)
def cut(request: pytest.FixtureRequest, unit: units.Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    elements, rows = CUTS[request.param]
    room(monkeypatch, elements)
    monkeypatch.setattr(
        matrix_unit, "kind", lambda: unit._replace(speed=1e9, rows=rows, fewest_rows=1, fewest_columns=1, few_rows=0)
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of `rounded_pairs` that were called."""
    called: list[str] = []
    for name in PRIMITIVES:
        record(monkeypatch, rounded_pairs, name, called)
    return called


def outputs_dense(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A weight stored (M, N, L); other tensors are dense."""
    if len(shape) != 3:
        return dense(shape, dtype)
    return dense((*shape[1:], shape[0]), dtype).movedim(-1, 0)


# Lengths that must be padded, and those that need not be.
WIDE = [(2, 40, 3, 5, 33, 64), (1, 6, 34, 2, 64, 32), (3, 5, 32, 64, 32, 7)]


@pytest.mark.parametrize("layout", [*LAYOUTS, outputs_dense], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_sizes_and_strides(name: str, layout: Callable, cut: None, calls: list[str]) -> None:
    for sizes in [*SIZES, *WIDE]:
        calls.clear()
        check(name, sizes, torch.bfloat16, layout, dense)
        assert set(calls) == {name}


@pytest.mark.parametrize("result", [transposed, rotated, sliced, outputs_dense], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_strided_results(name: str, result: Callable, cut: None, calls: list[str]) -> None:
    for sizes in [*SIZES, *WIDE]:
        check(name, sizes, torch.bfloat16, dense, result)
    assert calls


def make(name: str, *sizes: int, layout: Callable = dense) -> tuple[list[Tensor], Tensor, Tensor]:
    """Inputs without a bias, the exact result, and one to be written."""
    size = dict(zip("bstlmn", sizes, strict=True))
    given, made, formula = PRIMITIVES[name]
    inputs = [layout(tuple(size[axis] for axis in axes), torch.bfloat16) for axes in given[:3]]
    out = torch.full([size[axis] for axis in made], torch.nan, dtype=torch.bfloat16)
    return inputs, torch.einsum(formula, *(t.double() for t in inputs)), out


def arguments(name: str, inputs: list[Tensor], out: Tensor) -> list[Tensor | None]:
    return [*inputs, None, out] if name == "pairwise" else [*inputs, out]


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("outputs", [1, 16, 512])
@pytest.mark.parametrize("layout", [dense, outputs_dense], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_as_exact_as_two_products(name: str, layout: Callable, outputs: int, calls: list[str]) -> None:
    """One rounding of z and one at the store, however many outputs there are; and the same bits again."""
    inputs, exact, out = make(name, 2, 40, 24, outputs, 33, 48, layout=layout)
    getattr(cpu, name)(*arguments(name, inputs, out))
    assert calls == [name]
    assert error(out, exact) < 1.05 * 2**0.5 * error(exact.bfloat16(), exact)
    again = torch.empty_like(out)
    getattr(cpu, name)(*arguments(name, inputs, again))
    assert torch.equal(out, again)


@pytest.mark.parametrize("layout", [dense, outputs_dense], ids=lambda layout: layout.__name__)
def test_what_is_not_a_number_stays_in_its_row(layout: Callable, calls: list[str]) -> None:
    (x, y, weight), _, out = make("pairwise", 2, 40, 35, 6, 33, 45, layout=layout)
    x[0, 3, 5], y[1, 7, -1] = torch.nan, torch.inf
    cpu.pairwise(x, y, weight, None, out)
    assert out[0, :, 3].isnan().all()
    assert not out[1, :, :, 7].isfinite().any()
    out[0, :, 3], out[1, :, :, 7] = 0, 0
    assert out.isfinite().all()

    (g, y, weight), _, out = make("pairwise_grad_x", 2, 40, 35, 6, 33, 45, layout=layout)
    g[1, 2, 9, -1] = torch.nan
    cpu.pairwise_grad_x(g, y, weight, out)
    assert out[1, 9].isnan().all()
    out[1, 9] = 0
    assert out.isfinite().all()

    (g, x, y), _, out = make("pairwise_grad_weight", 2, 40, 35, 6, 33, 45)
    x[0, -1, 4] = torch.nan
    cpu.pairwise_grad_weight(g, x, y, out)
    assert out[:, 4].isnan().all()
    assert out[:, [m for m in range(33) if m != 4]].isfinite().all()
    assert calls == list(PRIMITIVES)


def sizes_of_plans() -> Iterator[tuple[int, ...]]:
    yield from (
        (8, 40, 40, 50, 101, 101),
        (2, 33, 700, 160, 401, 401),
        (300, 3, 4, 8, 800, 64),
        (3, 16, 256, 12, 64, 4096),
    )
    draw = random.Random(0)
    for _ in range(500):
        few = [draw.choice([1, 2, 9, 16, 33, 200]) for _ in range(2)]
        yield *few, *(draw.choice([1, 7, 32, 65, 256, 512, 2048]) for _ in range(4))


def test_no_piece_ends_the_process(unit: units.Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums have a length that the unit takes, and products of few rows are not large (see `matrix_unit`)."""
    monkeypatch.undo()
    monkeypatch.setattr(matrix_unit, "kind", lambda: unit)
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: True)
    seen, whole = Counter(), unit.sum_multiple
    for b, s, t, outputs, m, n in sizes_of_plans():
        shapes = ((b, s, m), (b, t, n), (outputs, m, n), (b, outputs, s, t))
        x, y, weight, g = (torch.empty(shape, device="meta") for shape in shapes)
        if plan := pair_plans.plan_pairwise(x, y, weight):
            seen["pairwise"] += 1
            assert plan.m % whole == plan.n % whole == 0
            assert max(plan.m, plan.n) <= 2**15 or not unit.few_rows
            assert plan.rows * plan.outputs * max(plan.n, t) <= 2**22
        if plan := pair_plans.plan_grad_x(g, y, weight):
            seen["grad x"] += 1
            length = outputs * plan.n
            assert plan.t % whole == length % whole == 0
            for samples, rows in pair_pieces(b, s, plan.rows, plan.samples):
                count = (samples.stop - samples.start) * (rows.stop - rows.start)
                assert count * length <= (2**22 if count > unit.few_rows else 2**20)
        if plan := pair_plans.plan_grad_weight(g, x, y, weight):
            seen["grad weight"] += 1
            assert plan.t % whole == plan.length % whole == 0
            assert m > unit.few_rows
            assert b * s <= plan.length
            assert plan.outputs * n * (plan.length + m) <= 3 * 2**21
            assert plan.outputs * n * max(plan.length // 2, m) <= 2**22
    assert min(seen.values()) > 50
    assert len(seen) == 3


def test_what_is_infinite_stays_so(calls: list[str]) -> None:
    """Padding takes no part: infinity times its 0 is no number."""
    (x, y, weight), _, out = make("pairwise", 2, 40, 35, 6, 33, 45)
    for tensor in (x, y, weight):
        tensor.abs_().add_(0.1)
    x[0, 3, 5] = torch.inf
    cpu.pairwise(x, y, weight, None, out)
    assert (out[0, :, 3] == torch.inf).all()
    g, out = torch.ones_like(out), torch.empty_like(x)
    g[1, 2, 9, 4] = torch.inf
    cpu.pairwise_grad_x(g, y, weight, out)
    assert (out[1, 9] == torch.inf).all()
    assert calls == ["pairwise", "pairwise_grad_x"]


@pytest.mark.parametrize("layout", [dense, outputs_dense], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_what_it_holds(name: str, layout: Callable, calls: list[str]) -> None:
    """Beside results: pieces, a few of them, and never z of all rows and columns."""
    inputs, _, out = make(name, 8, 200, 32, 100, 64, 128, layout=layout)
    with LiveElements() as live:
        getattr(cpu, name)(*arguments(name, inputs, out))
    assert calls == [name]
    assert live.peak - out.numel() <= 3 * 2**21 < 1600 * 100 * 128


class NothingIsCopied(TorchDispatchMode):
    """Every operand of a batched product lies as oneDNN takes it: it copies what is neither dense nor the transpose."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("bmm", "baddbmm_"):
            for operand in args[-2:]:
                assert operand.is_contiguous() or operand.mT.is_contiguous(), (operand.shape, operand.stride())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [*LAYOUTS, outputs_dense], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_torch_copies_no_operand(name: str, layout: Callable, cut: None, calls: list[str]) -> None:
    for sizes in WIDE:
        inputs, _, out = make(name, *sizes, layout=layout)
        with NothingIsCopied():
            getattr(cpu, name)(*arguments(name, inputs, out))
    assert calls
