"""The CPU path below the ops: every order and piece size, strides, dtypes, and a workspace that does not grow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from unittest import mock

import oracle
import pytest
import torch
from oracle import assert_near
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import triton_bilinear as tb
from triton_bilinear import cpu, ops
from triton_bilinear.cpu import budget as cpu_budget
from triton_bilinear.cpu import (
    features_first,
    joint,
    khatri_rao,
    matrix_unit,
    onednn,
    orders,
    pieces,
    project,
    shares,
    weight_grad,
    whole,
    workspace,
)
from triton_bilinear.cpu.costs import Plan, Weight

BATCH, P, Q, R = 7, 3, 4, 5
AXES = tuple(itertools.permutations(range(3)))
PIECES = [(1, 1), (1, 3), (2, 7), (3, 10), (7, 1), (100, 1000)]  # rows, columns

# For each primitive: the axes of its inputs, of its results, and of each result its float64 formula.
PRIMITIVES = {
    "contract": (("bq", "br", "pqr", "p"), ("bp",), ("bq,br,pqr->bp",)),
    "contract_keep": (("bq", "br", "pqr", "p"), ("bp", "bpr"), ("bq,br,pqr->bp", "bq,pqr->bpr")),
    "grad_inputs": (("bp", "bq", "br", "pqr"), ("bq", "br"), ("bp,br,pqr->bq", "bp,bq,pqr->br")),
    "grad_weight": (("bp", "bq", "br"), ("pqr",), ("bp,bq,br->pqr",)),
}
SIZES = {"b": BATCH, "p": P, "q": Q, "r": R}


@pytest.fixture(autouse=True)
def no_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every CPU; test_cpu_matrix_unit.py has the others, `by_onednn` takes them to oneDNN's products."""
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: False)
    monkeypatch.setattr(onednn, "is_there", lambda: False)


def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32 are oneDNN's, however small they are."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch is built without oneDNN")
    monkeypatch.setattr(onednn, "is_there", lambda: True)
    for name in ("LEAST", "LEAST_OF_EACH", "SHORTEST", "FEWEST_ROWS", "FEWEST_COLUMNS"):
        monkeypatch.setattr(onednn, name, 1)


@pytest.fixture(params=[1, 2, 3, "oneDNN"], ids=lambda threads: f"threads{threads}")
def tiny_shares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are dealt to so many threads however few they are; or products are oneDNN's."""
    if request.param == "oneDNN":
        by_onednn(monkeypatch)
        return
    monkeypatch.setattr(shares, "FEWEST", 1)
    monkeypatch.setattr(cpu_budget, "VECTOR", 2)
    for module in (workspace, cpu_budget):
        monkeypatch.setattr(module, "threads_of", lambda device: request.param)


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans as for large problems, of a few elements each."""
    planners = (orders.plan_contract, orders.plan_joint, orders.plan_weight)
    monkeypatch.setattr(whole, "LARGEST", 0)
    monkeypatch.setattr(cpu_budget, "CPU_PIECE", 12)
    monkeypatch.setattr(cpu_budget, "ROWS", (1, 3))
    monkeypatch.setattr(cpu_budget, "MANY_ROWS", 4)
    monkeypatch.setattr(cpu_budget, "VECTOR", 1)
    monkeypatch.setattr(shares, "FEWEST", 1)
    for planner in planners:
        planner.cache_clear()
    yield
    for planner in planners:
        planner.cache_clear()


def dense(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def transposed(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape[::-1], dtype=dtype).permute(*reversed(range(len(shape))))


def rotated(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The first axis innermost: a weight (L, M, N) that is stored (M, N, L)."""
    return torch.randn(*shape[1:], shape[0], dtype=dtype).movedim(-1, 0)


def sliced(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn([2 * size + 1 for size in shape], dtype=dtype)[tuple(slice(1, None, 2) for _ in shape)]


def expanded(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(1, *shape[1:], dtype=dtype).expand(shape)


LAYOUTS = (dense, transposed, rotated, sliced, expanded)


def make(name: str, dtype: torch.dtype, layout: Callable = dense, **sizes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of a primitive, and results to be written, which are dense."""
    sizes = SIZES | sizes
    given, made, _ = PRIMITIVES[name]
    inputs = [layout(tuple(sizes[axis] for axis in axes), dtype) for axes in given]
    return inputs, [torch.empty([sizes[axis] for axis in axes], dtype=dtype) for axes in made]


def check(name: str, inputs: list[Tensor], results: list[Tensor]) -> None:
    *factors, bias = [t.double() for t in inputs] if "p" in PRIMITIVES[name][0] else [*inputs, None]
    named = dict(zip(PRIMITIVES[name][0], (t.double() for t in factors), strict=False))
    for i, (result, formula) in enumerate(zip(results, PRIMITIVES[name][2], strict=True)):
        exact = torch.einsum(formula, *(named[axes] for axes in formula.split("->")[0].split(",")))
        assert_near(result, exact + bias if bias is not None and i == 0 else exact)


# For each order its module, and what its plans say beside sizes.
CONTRACT_ORDERS = {
    "khatri_rao": (khatri_rao, {}),
    "khatri_rao of a copy": (khatri_rao, {"copies": True}),
    "features_first": (features_first, {}),
    "project": (project, {}),
}
WEIGHT_ORDERS = {
    "together": (weight_grad, {}),
    "apart": (weight_grad, {"apart": True}),
    "features_first": (features_first, {}),
}


@pytest.mark.parametrize("piece", PIECES, ids=str)
@pytest.mark.parametrize("order", CONTRACT_ORDERS)
@pytest.mark.parametrize("swap", [False, True])
def test_contract_in_any_piece(order, swap, piece, tiny_shares):
    module, how = CONTRACT_ORDERS[order]
    (u, v, weight, bias), results = make("contract", torch.float64)
    plan = Plan(order, (0, 2, 1) if swap else (0, 1, 2), *piece, cost=0, **how)
    factors = (v, u, weight.mT) if swap else (u, v, weight)
    module.contract(*factors, bias, *results, plan)
    check("contract", [u, v, weight, bias], results)
    module.contract(*factors, None, *results, plan)
    check("contract", [u, v, weight, torch.zeros(P)], results)


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_contract_keep_in_any_piece(piece, tiny_shares):
    (u, v, weight, bias), (out, kept) = make("contract_keep", torch.float64)
    project.contract_keep(u, v, weight, bias, out, kept.flatten(-2), *piece)
    check("contract_keep", [u, v, weight, bias], [out, kept])


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_grad_inputs_in_any_piece(piece, tiny_shares):
    inputs, results = make("grad_inputs", torch.float64)
    joint.grad_inputs(*inputs, *results, Plan("joint", (0, 1, 2), *piece, cost=0))
    check("grad_inputs", inputs, results)


@pytest.mark.parametrize("piece", PIECES, ids=str)
@pytest.mark.parametrize("order", WEIGHT_ORDERS)
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_grad_weight_in_any_piece(axes, order, piece, tiny_shares):
    module, how = WEIGHT_ORDERS[order]
    inputs, results = make("grad_weight", torch.float64)
    factors = [inputs[axis] for axis in axes]
    module.grad_weight(*factors, results[0].permute(axes), Plan(order, axes, *piece, cost=0, **how))
    check("grad_weight", inputs, results)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("order", CONTRACT_ORDERS)
def test_contract_orders_with_strides_and_dtypes(order, dtype, layout, tiny_shares):
    module, how = CONTRACT_ORDERS[order]
    inputs, results = make("contract", dtype, layout)
    module.contract(*inputs, *results, Plan(order, (0, 1, 2), 4, 6, cost=0, **how))
    check("contract", inputs, results)


@pytest.mark.parametrize("layout", LAYOUTS[:-1], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("order", WEIGHT_ORDERS)
def test_weight_orders_with_strides_and_dtypes(order, dtype, layout, tiny_shares):
    """Of inputs and of the result, whichever of its axes is the dense one."""
    module, how = WEIGHT_ORDERS[order]
    inputs, (out,) = make("grad_weight", dtype, layout)
    out = layout(tuple(out.shape), dtype)
    for axes in AXES:
        module.grad_weight(*(inputs[axis] for axis in axes), out.permute(axes), Plan(order, axes, 4, 6, cost=0, **how))
        check("grad_weight", inputs, [out])


@pytest.mark.parametrize("rows", [1, 5, 127, 128, 129, 300])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_dealt_rows_are_all_multiplied(rows, threads):
    """Those beyond a whole number for each thread too, and with a right operand in any order. Integers, so: exactly."""
    left, right, start = (torch.randint(-9, 10, shape).double() for shape in ((rows, 7), (7, 9), (rows, 9)))
    for matrix in (right, right.t().contiguous().t()):
        target = start.clone()
        shares.multiply(left, matrix, target, threads)
        assert torch.equal(target, left @ right)
        shares.multiply(left, matrix, target, threads, add=True)
        assert torch.equal(target, 2 * left @ right)
    sums = torch.zeros(threads, 7, 9, dtype=torch.float64)
    shares.add_products_of_rows(left, start, sums)
    assert torch.equal(sums.sum(0), left.t() @ start)


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (2, 3, 5), (1, 6, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_transposed(shape, dtype):
    matrices = torch.randn(shape, dtype=dtype)
    for given in (matrices, matrices.mT.contiguous().mT):
        result = features_first.transposed(given)
        assert result.is_contiguous()
        assert torch.equal(result, matrices.mT)
        assert result.data_ptr() != given.data_ptr()


@pytest.mark.parametrize("batch", [(6,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_batch_axes_that_merge_are_a_small_problem_too(name, batch, monkeypatch):
    ran: list[str] = []
    run = whole.run
    monkeypatch.setattr(whole, "run", lambda *args: (ran.append(name), run(*args))[1])
    inputs, results = make(name, torch.float64, b=6)
    viewed = [
        [t.unflatten(0, batch) if axes.startswith("b") else t for t, axes in zip(tensors, given, strict=True)]
        for tensors, given in zip((inputs, results), PRIMITIVES[name], strict=False)
    ]
    getattr(cpu, name)(*viewed[0], *viewed[1])
    check(name, inputs, results)
    assert ran == [name]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("large", [False, True], ids=["whole", "pieces"])
def test_strides_and_dtypes(name, dtype, layout, large, request):
    """Right, the same bits again, and nothing written but the results."""
    if large:
        request.getfixturevalue("tiny_pieces")
    inputs, results = make(name, dtype, layout)
    before = [t.clone() for t in inputs]
    getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
    assert all(torch.equal(t, copy) for t, copy in zip(inputs, before, strict=True))
    again = [torch.empty_like(t) for t in results]
    getattr(cpu, name)(*inputs, *again)
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
@pytest.mark.parametrize("layout", [transposed, rotated, sliced], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("large", [False, True], ids=["whole", "pieces"])
def test_strided_results(name, layout, large, request):
    if large:
        request.getfixturevalue("tiny_pieces")
    inputs, results = make(name, torch.float64)
    results = [layout(tuple(t.shape), t.dtype) for t in results]
    getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("axes", ["b", "p", "q", "r", "pq", "qr", "pr", "bpqr"])
@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("large", [False, True], ids=["whole", "pieces"])
def test_sizes_0_and_1(name, axes, size, large, request):
    if large:
        request.getfixturevalue("tiny_pieces")
    inputs, results = make(name, torch.float64, **dict.fromkeys(axes, size))
    getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)


@pytest.mark.parametrize("feature_dim", [0, 1, 2, 3])
def test_batch_axes_that_are_not_one(feature_dim, tiny_pieces):
    """Features on an inner axis: a piece of the batch is not a matrix as it lies."""
    x, y = (torch.randn(2, 3, 4, 5).movedim(-1, feature_dim).contiguous() for _ in range(2))
    weight, bias = torch.randn(3, 5, 5), torch.randn(3)
    with tb.use_backend("torch"):
        result = tb.bilinear(x, y, weight, bias, feature_dim=feature_dim)
    assert_near(result, oracle.bilinear(x, y, weight, bias, feature_dim))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_does_not_lose_with_the_sum(dtype):
    """Summed over 1024 outputs in float32 and rounded once: a unit in the last place of the largest element at most."""
    inputs, results = make("grad_inputs", dtype, b=200, p=1024, q=8, r=64)
    cpu.grad_inputs(*inputs, *results)
    for result, formula in zip(results, PRIMITIVES["grad_inputs"][2], strict=True):
        named = dict(zip(PRIMITIVES["grad_inputs"][0], (t.double() for t in inputs), strict=True))
        exact = torch.einsum(formula, *(named[axes] for axes in formula.split("->")[0].split(",")))
        assert_near(result, exact, factor=0.5)


class LiveElements(TorchDispatchMode):
    """The most elements that were alive at once, of tensors made while this mode was on, and of the largest of them."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in known:
                size = storage.nbytes() // tensor.element_size()
                self._live[storage._cdata] = (StorageWeakRef(storage), size)
                self.largest = max(self.largest, size)
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def peak_of(name: str, batch: int, dtype: torch.dtype, **sizes: int) -> int:
    inputs, results = make(name, dtype, b=batch, **sizes)
    with LiveElements() as live:
        getattr(cpu, name)(*inputs, *results)
    return live.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_workspace_does_not_grow_with_the_batch(name, dtype):
    """It stays within a few pieces, and far below the (B, P, R) and (B, Q, R) of a product that is materialised."""
    sizes = {"p": 2 if name == "contract_keep" else 24, "q": 20, "r": 28}
    with mock.patch.object(cpu_budget, "CPU_PIECE", 2**13), mock.patch.object(whole, "LARGEST", 0):
        peaks = [peak_of(name, batch, dtype, **sizes) for batch in (16384, 32768)]
    assert peaks[1] <= 1.1 * peaks[0]
    # A piece, the rows that go with it, and the weight, each in float32 where they are not so already.
    assert peaks[1] <= 2**13 + 512 * 2 * sum(sizes.values()) + 2 * sizes["p"] * sizes["q"] * sizes["r"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [dense, transposed, rotated])
@pytest.mark.parametrize("sizes", [(24, 20, 28), (3000, 4, 5), (4, 3000, 3), (4, 3, 3000)], ids=str)
@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
@pytest.mark.parametrize("product", ["MKL", "oneDNN"])
def test_no_buffer_is_larger_than_its_budget(product, name, sizes, layout, dtype, monkeypatch):
    """Whatever is made, copied or converted. A single row is the least that a buffer holds."""
    if product == "oneDNN":
        by_onednn(monkeypatch)
    inputs, results = make(name, dtype, layout, b=600, **dict(zip("pqr", sizes, strict=True)))
    results = [layout(tuple(result.shape), dtype) for result in results]
    with mock.patch.object(cpu_budget, "CPU_PIECE", 2**13), mock.patch.object(whole, "suits", return_value=False):
        budget = cpu_budget.budget_of(inputs[0].device, dtype, 600, sizes)
        with LiveElements() as live:
            getattr(cpu, name)(*inputs, *results)
    assert live.largest <= budget.product
    assert live.peak <= budget.product + 3 * budget.buffer


@pytest.mark.parametrize("threads", [1, 3, 6, 7, 64])
def test_padded_rows_keep_to_the_budget(threads):
    """Whole vectors for each thread are more rows than asked for, and still no more than a buffer holds."""
    budget = cpu_budget.Budget(cpu_budget.CPU_PIECE, cpu_budget.CPU_PIECE, threads)
    planned = 0
    for batch, p, q, r in [(19896, 2048, 64, 64), (78916, 1000, 32, 64), (1000, 512, 300, 256), (4096, 256, 39, 39)]:
        weight = Weight((p, q, r), (q * r, r, 1))
        for plan in orders._features_first(batch, weight, (0, 1, 2), budget):
            count, share = cpu_budget.padded_share(plan.rows, threads)
            assert count * share * max(p, q, r, plan.columns) <= budget.buffer
            planned += 1
    assert planned


def test_larger_products_are_of_float32_and_for_large_weights_and_batches():
    def product(rows, *sizes, dtype=torch.float32):
        budget = cpu_budget.budget_of(torch.device("cpu"), dtype, rows, sizes)
        assert budget.buffer == cpu_budget.CPU_PIECE
        return budget.product

    assert product(10**6, 64, 32, 32) == cpu_budget.CPU_PIECE
    assert product(10**6, 128, 128, 89) == 128 * 128 * 89
    assert product(256, 160, 160, 160) == 256 * 160 * 160 // 10
    assert product(10**6, 512, 512, 512) == 4 * cpu_budget.CPU_PIECE
    assert product(10**6, 512, 512, 512, dtype=torch.float16) == cpu_budget.CPU_PIECE
    assert product(10**6, 512, 512, 512, dtype=torch.float64) == cpu_budget.CPU_PIECE


def test_larger_products_of_onednn_are_of_many_rows_and_a_part_of_what_einsum_holds(monkeypatch):
    by_onednn(monkeypatch)

    def product(rows, *sizes, dtype=torch.float32):
        budget = cpu_budget.budget_of(torch.device("cpu"), dtype, rows, sizes)
        assert budget.onednn == (dtype != torch.float64)
        return budget.product

    assert product(10**6, 64, 32, 32) == 2 * cpu_budget.CPU_PIECE
    assert product(3072, 64, 32, 32) == 3 * 3072 * 32 * 32 // 12
    assert product(1000, 64, 32, 32) == 1000 * 32 * 32
    assert product(2048, 64, 32, 32) == cpu_budget.CPU_PIECE
    assert product(500, 512, 512, 512) == cpu_budget.CPU_PIECE
    assert product(10**6, 64, 32, 32, dtype=torch.float64) == cpu_budget.CPU_PIECE
    assert product(10**6, 512, 512, 512, dtype=torch.float16) == cpu_budget.CPU_PIECE


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_few_columns_are_made_of_more_rows_unless_these_are_converted(threads):
    """And each thread gets whole vectors of them."""
    budget = cpu_budget.Budget(cpu_budget.CPU_PIECE, cpu_budget.CPU_PIECE, threads)

    def rows(columns, converted=0, batch=5000):
        pieces = list(cpu_budget.shapes(batch, columns // 10, 10, budget, converted=converted))
        assert all(rows % (threads * cpu_budget.VECTOR) == 0 for rows, *_ in pieces if rows < batch)
        return max(rows for rows, *_ in pieces)

    assert 1000 <= rows(510) <= 1024
    assert 500 <= rows(510, converted=100) <= 512
    assert 500 <= rows(1020) <= 512
    assert rows(510, batch=1001) == 1001


def test_a_larger_product_of_onednn_has_whole_columns_if_it_can():
    """Rows of a piece are then as many as fit, up to where more do no better."""

    def pieces(product: int, onednn: bool = True) -> list[tuple[int, int]]:
        budget = cpu_budget.Budget(cpu_budget.CPU_PIECE, product, onednn=onednn)
        return [shape[:2] for shape in cpu_budget.shapes(8192, 32, 32, budget)]

    assert (912, 1024) in pieces(1000 * 1024 + 512)
    assert {rows for rows, _ in pieces(1000 * 1024 + 512, onednn=False)} == {128, 256, 512}
    assert {rows for rows, _ in pieces(cpu_budget.CPU_PIECE)} == {128, 256, 512}
    assert {rows for rows, _ in pieces(2000 * 1024)} == {128, 256, 512, 1024}


@pytest.mark.parametrize(
    "sizes",
    [(30, 2, 9, 11), (30, 11, 2, 9), (30, 9, 11, 2), (30, 1, 9, 9), (1, 14, 9, 9), (4, 12, 8, 8), (1, 3, 20, 20)],
    ids=str,
)
@pytest.mark.parametrize("name", ["contract", "grad_inputs", "grad_weight"])
def test_a_small_problem_takes_the_smallest_intermediate(name, sizes, monkeypatch):
    """Whichever two axes it has, and beside a weight that is too large to be copied."""
    monkeypatch.setattr(whole, "LARGEST", 600)
    inputs, results = make(name, torch.float64, **dict(zip("bpqr", sizes, strict=True)))
    weight, rows = (results[0] if name == "grad_weight" else inputs[2 if name == "contract" else 3]), inputs[0]
    assert whole.suits(rows, weight)
    with LiveElements() as live:
        getattr(cpu, name)(*inputs, *results)
    check(name, inputs, results)
    assert live.largest <= 600


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_workspace_of_pairwise_forms(dtype):
    """Forward and backward: within a few pieces and results, far below the (B, L, S, N) of a first product of all."""
    batch, outputs, s, t, m, n = 8, 24, 20, 18, 16, 22
    x, y, weight = (torch.randn(shape, dtype=dtype) for shape in ((batch, s, m), (batch, t, n), (outputs, m, n)))
    g = torch.randn(batch, outputs, s, t, dtype=dtype)
    with mock.patch.object(cpu_budget, "CPU_PIECE", 2**10), tb.use_backend("torch"):
        for call, size in (
            (lambda: ops.library.KERNELS[ops.pairwise](x, y, weight, None), g.numel()),
            (lambda: ops.library.KERNELS[ops.pairwise_grad_x](g, y, weight), x.numel()),
            (lambda: ops.library.KERNELS[ops.pairwise_grad_weight](g, x, y), weight.numel()),
        ):
            with LiveElements() as live:
                call()
            assert live.peak <= size + 8 * 2**10 < size + batch * outputs * s * n


@pytest.mark.parametrize("sizes", [(7, 3, 4, 5), (3000, 3, 20, 20), (6, 1, 4, 5)], ids=str)
def test_results_alias_nothing(sizes):
    batch, outputs, m, n = sizes
    x, y, weight, bias, g = (
        torch.randn(shape) for shape in ((batch, m), (batch, n), (outputs, m, n), (outputs,), (batch, outputs))
    )
    inputs = (x, y, weight, bias, g)
    with tb.use_backend("torch"):
        made = (
            *ops.contract_keep(x, y, weight, bias, -1),
            ops.contract(x, y, weight, bias, -1),
            *ops.grad_inputs(g, x, y, weight, -1),
            ops.grad_weight(g, x, y, -1),
        )
    storages = [t.untyped_storage().data_ptr() for t in (*inputs, *made)]
    assert len(set(storages)) == len(storages)


def test_orders_fit_the_sizes():
    """One form is projected; many outputs meet Khatri-Rao products; few outputs are not worth a joint tile."""
    budget = cpu_budget.Budget(cpu_budget.CPU_PIECE, cpu_budget.CPU_PIECE)
    assert orders.plan_contract((2048,), Weight((1, 512, 512), (512 * 512, 512, 1)), budget).order == "project"
    many, apart = Weight((256, 39, 39), (39 * 39, 39, 1)), Weight((39, 256, 39), (39, 39 * 39, 1))
    assert orders.plan_contract((4096,), many, budget).order == "features_first"
    outputs_inside = Weight((256, 39, 39), (1, 39 * 256, 256))
    assert orders.plan_contract((4096,), outputs_inside, budget).order == "khatri_rao"
    assert orders.plan_joint(4096, many, budget).cost < 2 * orders.plan_contract((4096,), apart, budget).cost
    few, apart = Weight((4, 100, 100), (10000, 100, 1)), Weight((100, 4, 100), (100, 10000, 1))
    assert orders.plan_joint(512, few, budget).cost > 2 * orders.plan_contract((512,), apart, budget).cost


@pytest.mark.parametrize(("size", "step"), [(7, 3), (7, 7), (7, 100), (1, 1), (0, 3)])
def test_spans_cover(size, step):
    spans = list(pieces.spans(size, step))
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(size))
    lengths = [span.stop - span.start for span in spans]
    assert all(length <= step for length in lengths)
    assert lengths == sorted(lengths, reverse=True)


def test_plain_calls_go_past_the_dispatcher_and_others_do_not():
    """A direct call gives what the op gives, with a derivative; a mode, a subclass or autocast still sees the op."""
    x, y, weight = (torch.randn(shape, requires_grad=True) for shape in ((3, 4), (3, 5), (2, 4, 5)))
    arguments = (x, y, weight, None, -1)
    with mock.patch.dict(ops.direct.DIRECT, {ops.contract: lambda *args: "direct"}):
        assert ops.call(ops.contract, *arguments) == "direct"
        with torch.inference_mode():
            assert ops.call(ops.contract, *arguments) == "direct"
        with LiveElements():
            assert isinstance(ops.call(ops.contract, *arguments), Tensor)
        with torch.autocast("cpu"):
            assert isinstance(ops.call(ops.contract, *arguments), Tensor)
        assert ops.call(ops.contract, *(t.to("meta") for t in arguments[:3]), None, -1).is_meta
        torch.func.vmap(lambda u: ops.call(ops.contract, u, y, weight, None, -1))(torch.randn(2, 3, 4))
    direct, dispatched = ops.call(ops.contract, *arguments), ops.contract(*arguments)
    assert torch.equal(direct, dispatched)
    for grads in zip(*(torch.autograd.grad(z.sum(), (x, y, weight)) for z in (direct, dispatched)), strict=True):
        assert torch.equal(*grads)
