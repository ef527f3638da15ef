"""The primitives through Triton's kernels, against einsum in float64: sizes, strides, plans, offsets, bits.

Without a GPU the kernels run in Triton's interpreter, which computes bfloat16 wrongly: that dtype needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from conftest import INTERPRETED

from triton_bilinear import gpu
from triton_bilinear.gpu.chain import chain_launches
from triton_bilinear.gpu.contract import contract_launches
from triton_bilinear.gpu.device import device_of
from triton_bilinear.gpu.grad_inputs import grad_inputs_launches
from triton_bilinear.gpu.grad_weight import grad_weight_launches
from triton_bilinear.gpu.launch import Launch, run
from triton_bilinear.gpu.pairwise import pairwise_grad_weight_operands, pairwise_grad_x_operands, pairwise_operands
from triton_bilinear.gpu.rows import batch_rows, walkable
from triton_bilinear.planning import Plan
from triton_bilinear.planning.config import config
from triton_bilinear.tuning.devices import find_device

H100 = find_device("NVIDIA H100 80GB HBM3")
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPES = [torch.float64, torch.float32, torch.float16] + [torch.bfloat16] * GPU

pytestmark = pytest.mark.skipif(not GPU and not INTERPRETED, reason="no GPU, and TRITON_INTERPRET is not 1")


@dataclass(frozen=True)
class Primitive:
    """A primitive as einsum writes it.

    operands: the axes of each input. results: the axes of each output, and the inputs that it is the product of.
    """

    call: Callable[..., None]
    launches: Callable[..., list[Launch]]
    operands: tuple[str, ...]
    results: tuple[tuple[str, tuple[int, ...]], ...]
    has_bias: bool = False


def of_pairs(operands: Callable[..., tuple]) -> Callable[..., list[Launch]]:
    def launches(*arguments: object) -> list[Launch]:
        *tensors, device, plan = arguments
        return chain_launches(*operands(*tensors), device, plan)

    return launches


PRIMITIVES = {
    "contract": Primitive(gpu.contract, contract_launches, ("bq", "br", "pqr"), (("bp", (0, 1, 2)),), True),
    "contract_keep": Primitive(
        gpu.contract_keep, contract_launches, ("bq", "br", "pqr"), (("bp", (0, 1, 2)), ("bpr", (0, 2))), True
    ),
    "grad_inputs": Primitive(
        gpu.grad_inputs, grad_inputs_launches, ("bl", "bm", "bn", "lmn"), (("bm", (0, 2, 3)), ("bn", (0, 1, 3)))
    ),
    "grad_weight": Primitive(gpu.grad_weight, grad_weight_launches, ("bl", "bm", "bn"), (("lmn", (0, 1, 2)),)),
    "pairwise": Primitive(
        gpu.pairwise, of_pairs(pairwise_operands), ("bsm", "btn", "lmn"), (("blst", (0, 1, 2)),), True
    ),
    "pairwise_grad_x": Primitive(
        gpu.pairwise_grad_x, of_pairs(pairwise_grad_x_operands), ("blst", "btn", "lmn"), (("bsm", (0, 1, 2)),)
    ),
    "pairwise_grad_weight": Primitive(
        gpu.pairwise_grad_weight, of_pairs(pairwise_grad_weight_operands), ("blst", "bsm", "btn"), (("lmn", (0, 1, 2)),)
    ),
}
PAIRS = ("pairwise", "pairwise_grad_x", "pairwise_grad_weight")
# The batch, then the axes of the weight; of pairs the rows of x and y last.
AXES = {"contract": "bpqr", "contract_keep": "bpqr", "grad_inputs": "blmn", "grad_weight": "blmn"}
AXES |= dict.fromkeys(PAIRS, "blmnst")


@dataclass
class Problem:
    """Operands, a bias where the primitive has one, and outputs that hold NaN."""

    primitive: Primitive
    operands: list[Tensor]
    bias: Tensor | None
    outputs: list[Tensor]

    def run(self) -> None:
        """By the planner's plan."""
        self.primitive.call(*self._inputs(), *self.outputs)

    def run_plan(self, plan: Plan) -> list[Launch]:
        """By this plan."""
        outputs = self.outputs
        if self.primitive.launches is contract_launches:
            outputs = [outputs[0], outputs[1] if len(outputs) == 2 else None]
        launches = self.primitive.launches(*self._inputs(), *outputs, device_of(self.operands[0]), plan)
        run(launches, self.operands[0])
        return launches

    def check(self) -> None:
        for output, (axes, factors) in zip(self.outputs, self.primitive.results, strict=True):
            equation = ",".join(self.primitive.operands[factor] for factor in factors) + "->" + axes
            bias = self.bias if output is self.outputs[0] else None
            assert_as_good_as_einsum(output, equation, [self.operands[factor] for factor in factors], bias)

    def _inputs(self) -> list[Tensor | None]:
        return [*self.operands, self.bias] if self.primitive.has_bias else list(self.operands)


def make(name: str, sizes: dict[str, int], dtype: torch.dtype = torch.float32, bias: bool = True) -> Problem:
    """Random operands, contiguous."""
    primitive = PRIMITIVES[name]
    operands = [torch.randn([sizes[axis] for axis in axes], device=DEVICE).to(dtype) for axes in primitive.operands]
    first = primitive.results[0][0]
    vector = torch.randn(sizes[first[1]], device=DEVICE).to(dtype) if primitive.has_bias and bias else None
    outputs = [nan(*(sizes[axis] for axis in axes), dtype=dtype) for axes, _ in primitive.results]
    return Problem(primitive, operands, vector, outputs)


def nan(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def with_bias(result: Tensor, bias: Tensor | None) -> Tensor:
    """The bias belongs to a result's second axis, which is the features' or, of pairs, the outputs'."""
    return result if bias is None else result + bias.reshape(-1, *(1,) * (result.dim() - 2)).to(result)


def assert_as_good_as_einsum(actual: Tensor, equation: str, operands: list[Tensor], bias: Tensor | None = None) -> None:
    """The error against float64 is at most twice that of einsum in the same dtype, and one rounding.

    A rounding is of the largest element, or of the size that a sum of its terms has without cancellation.
    """
    assert not actual.isnan().any(), "an element was not written"
    if not actual.numel():
        return
    wide = [operand.double() for operand in operands]
    exact = with_bias(torch.einsum(equation, *wide), bias)
    same = with_bias(torch.einsum(equation, *operands), bias).double()
    squares = torch.einsum(equation, *(operand.square() for operand in wide))
    size = max(exact.abs().max().item(), squares.max().sqrt().item())
    # float64 is compared with itself: einsum's own error is not seen, and stands in no bound.
    roundings = 16 if actual.dtype == torch.float64 else 1
    bound = 2 * (same - exact).abs().max().item() + roundings * torch.finfo(actual.dtype).eps * size
    error = (actual.double() - exact).abs().max().item()
    assert error <= bound, f"error {error:.2e} beyond {bound:.2e} in {actual.dtype}"


# Sizes ----------------------------------------------------------------------------------------------------------------

# (batch, then the weight's axes): primes, 1, small M, padding in every axis.
SIZES = [(37, 19, 23, 29), (1, 33, 17, 40), (13, 1, 70, 31), (29, 40, 8, 67), (3, 2, 1, 5), (130, 16, 32, 16)]
PAIR_SIZES = [(2, 3, 29, 19, 37, 23), (5, 2, 8, 33, 17, 1), (1, 3, 66, 7, 1, 13), (3, 1, 1, 20, 18, 40)]


def sizes_of(name: str, sizes: tuple[int, ...]) -> dict[str, int]:
    """The projection is kept for one or two outputs only."""
    named = dict(zip(AXES[name], sizes, strict=True))
    return named | {"p": min(named["p"], 2)} if name == "contract_keep" else named


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", [name for name in PRIMITIVES if name not in PAIRS])
def test_sizes(name, sizes, dtype):
    problem = make(name, sizes_of(name, sizes), dtype)
    problem.run()
    problem.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", PAIR_SIZES, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_sizes_of_pairs(name, sizes, dtype):
    problem = make(name, sizes_of(name, sizes), dtype)
    problem.run()
    problem.check()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("name", "axis"), [(name, axis) for name, axes in AXES.items() for axis in axes])
def test_size_zero(name, axis, bias):
    """Results over an empty axis are zeros, or the bias; results with an empty axis are empty."""
    problem = make(name, dict.fromkeys(AXES[name], 3) | {axis: 0}, bias=bias)
    problem.run()
    problem.check()


def test_without_a_bias():
    layer, pairs = (21, 5, 6, 7), (2, 3, 6, 7, 8, 9)
    for name, sizes in (("contract", layer), ("contract_keep", layer), ("pairwise", pairs)):
        problem = make(name, sizes_of(name, sizes), bias=False)
        problem.run()
        problem.check()


# Strides --------------------------------------------------------------------------------------------------------------

SMALL = (21, 5, 6, 20)
PAIRS_SMALL = (2, 2, 19, 20, 17, 21)


def last_first(tensor: Tensor) -> Tensor:
    """The same values, stored with the last axis outermost: features moved, or a weight stored with N first."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


def first_last(tensor: Tensor) -> Tensor:
    """The same values, stored with the first axis innermost: a weight stored (M, N, L)."""
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0)


def sliced(tensor: Tensor) -> Tensor:
    """Every second element of a larger tensor along each axis, from an odd offset."""
    larger = torch.full([2 * size + 3 for size in tensor.shape], torch.nan, dtype=tensor.dtype, device=tensor.device)
    view = larger[tuple(slice(1, 2 * size + 1, 2) for size in tensor.shape)]
    view.copy_(tensor)
    return view


def expanded(tensor: Tensor) -> Tensor:
    """Stride 0 along every axis."""
    return tensor.flatten()[:1].expand(tensor.numel()).as_strided(tensor.shape, (0,) * tensor.dim())


def expanded_rows(tensor: Tensor) -> Tensor:
    return tensor[:1].expand(tensor.shape)


LAYOUTS = {layout.__name__: layout for layout in (last_first, first_last, sliced, expanded, expanded_rows)}
OPERANDS = [(name, index) for name, primitive in PRIMITIVES.items() for index in range(len(primitive.operands))]


def small(name: str, dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = SMALL) -> Problem:
    return make(name, sizes_of(name, PAIRS_SMALL if name in PAIRS else sizes), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("name", "index"), OPERANDS)
def test_layout_of_an_operand(name, index, layout):
    problem = small(name)
    problem.operands[index] = layout(problem.operands[index])
    problem.run()
    problem.check()


@pytest.mark.parametrize("layout", [last_first, first_last, sliced])
@pytest.mark.parametrize("name", [name for name in PRIMITIVES if name != "contract_keep"])
def test_layout_of_results(name, layout):
    problem = small(name, torch.float16)
    problem.outputs = [layout(output) for output in problem.outputs]
    problem.run()
    problem.check()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_tensor_in_the_same_layout(name, layout):
    problem = small(name, torch.float16)
    problem.operands = [layout(operand) for operand in problem.operands]
    problem.run()
    problem.check()


@pytest.mark.parametrize("layout", [sliced, expanded])
@pytest.mark.parametrize("name", ["contract", "contract_keep", "pairwise"])
def test_layout_of_the_bias(name, layout):
    problem = small(name)
    problem.bias = layout(problem.bias)
    problem.run()
    problem.check()


# Batches of several axes, as views (*batch, features) of storage in the order given.
BATCHES = {
    "rows in order": ((3, 7), (0, 1, 2)),
    "rows transposed": ((3, 7), (1, 0, 2)),
    "features between": ((3, 7), (0, 2, 1)),
    "features first": ((3, 7), (2, 0, 1)),
    "three axes that merge": ((2, 3, 4), (0, 1, 2, 3)),
    "three axes that do not": ((2, 3, 4), (2, 1, 3, 0)),
    "four axes, features inside": ((2, 3, 2, 2), (0, 1, 4, 3, 2)),
    "axes of 1": ((1, 3, 1, 4), (0, 1, 2, 3, 4)),
    "no axis": ((), (0,)),
}


def stored(batch: tuple[int, ...], features: int, order: tuple[int, ...]) -> Tensor:
    shape = (*batch, features)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.randn([shape[axis] for axis in order], device=DEVICE).permute(inverse)


def flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def check_step(x: Tensor, y: Tensor, g: Tensor, weight: Tensor, z: Tensor, dx: Tensor, dy: Tensor) -> None:
    """All primitives, with results z, dx and dy of the caller's making."""
    dweight = nan(*weight.shape, dtype=x.dtype)
    gpu.contract(x, y, weight, None, z)
    assert_as_good_as_einsum(flat(z), "bm,bn,lmn->bl", [flat(x), flat(y), weight])
    gpu.grad_inputs(g, x, y, weight, dx, dy)
    assert_as_good_as_einsum(flat(dx), "bl,bn,lmn->bm", [flat(g), flat(y), weight])
    assert_as_good_as_einsum(flat(dy), "bl,bm,lmn->bn", [flat(g), flat(x), weight])
    gpu.grad_weight(g, x, y, dweight)
    assert_as_good_as_einsum(dweight, "bl,bm,bn->lmn", [flat(g), flat(x), flat(y)])


@pytest.mark.parametrize(("batch", "order"), BATCHES.values(), ids=BATCHES)
def test_batches(batch, order):
    """x lies in the batch's order, y in row-major order, results as the public functions allocate them."""
    L, M, N = 5, 6, 7
    x, y, g = stored(batch, M, order), torch.randn(*batch, N, device=DEVICE), stored(batch, L, order)
    weight = torch.randn(L, M, N, device=DEVICE)
    feature_dim = order.index(len(batch)) - len(order)
    z, dx, dy = (allocated(batch, features, feature_dim) for features in (L, M, N))
    check_step(x, y, g, weight, z, dx, dy)


def check_expanded(shape_x: tuple[int, ...], shape_y: tuple[int, ...], copied: bool) -> str:
    """x and y of these batch shapes, each expanded along the other's axes of 1. Returns how tiles of 16 rows lie."""
    L, M, N = 5, 6, 7
    batch = torch.broadcast_shapes(shape_x, shape_y)
    x = torch.randn(*shape_x, M, device=DEVICE).expand(*batch, M)
    y = torch.randn(*shape_y, N, device=DEVICE).expand(*batch, N)
    g, weight = torch.randn(*batch, L, device=DEVICE), torch.randn(L, M, N, device=DEVICE)
    z, dx, dy = (nan(*batch, features, dtype=x.dtype) for features in (L, M, N))
    check_step(x, y, g, weight, z, dx, dy)
    for inputs, outputs in (([x, y], [z]), ([g, x, y], [dx, dy]), ([g, x, y], [])):
        served = walkable(inputs, outputs)
        rows = batch_rows([*served, *outputs])
        assert rows.count == batch.numel()
        assert any(tensor is not given for tensor, given in zip(served, inputs, strict=True)) == copied
    return rows.kind(16)


def test_pairs_by_expansion():
    """Three strides walk them; nothing is copied."""
    assert check_expanded((2, 3, 1), (2, 1, 4), copied=False) == "nested"
    assert check_expanded((2, 2, 1), (2, 1, 32), copied=False) == "straight"
    assert check_expanded((3, 1), (1, 7), copied=False) == "crossing"


@pytest.mark.parametrize("name", ["contract", "grad_inputs"])
def test_split_results_whose_rows_take_three_strides(name):
    """The second pass writes where they lie."""
    problem = small(name, sizes=(24, 17, 18, 20))
    plan = {"contract": Plan(_PROJECT, tuple("pqr"), 2, None), "grad_inputs": Plan(_JOINT, tuple("lmn"), 2, None, 2)}
    inputs = [operand.view(2, 3, 4, -1) for operand in problem.operands[:-1]]
    outputs = [nan(4, 3, 2, output.shape[-1], dtype=output.dtype).permute(2, 1, 0, 3) for output in problem.outputs]
    if name == "contract":
        arguments = (*inputs, problem.operands[-1], problem.bias, *outputs, None)
    else:
        arguments = (*inputs, problem.operands[-1], *outputs)
    run(problem.primitive.launches(*arguments, device_of(inputs[0]), plan[name]), inputs[0])
    problem.outputs = [flat(output) for output in outputs]
    problem.check()


def test_batches_that_take_four_strides():
    """One of the inputs is copied."""
    check_expanded((2, 1, 3, 1), (1, 2, 1, 4), copied=True)


def check_pairs(x: Tensor, y: Tensor, g: Tensor, weight: Tensor) -> None:
    """All primitives of pairs, with results as the public functions allocate them."""
    out, dx, dweight = (nan(*like.shape, dtype=like.dtype) for like in (g, x, weight))
    one = [t.reshape(-1, *t.shape[t.dim() - axes :]) for t, axes in ((x, 2), (y, 2), (g, 3), (out, 3), (dx, 2))]
    gpu.pairwise(x, y, weight, None, out)
    assert_as_good_as_einsum(one[3], "bsm,btn,lmn->blst", [one[0], one[1], weight])
    gpu.pairwise_grad_x(g, y, weight, dx)
    assert_as_good_as_einsum(one[4], "blst,btn,lmn->bsm", [one[2], one[1], weight])
    gpu.pairwise_grad_weight(g, x, y, dweight)
    assert_as_good_as_einsum(dweight, "blst,bsm,btn->lmn", [one[2], one[0], one[1]])


def operands_of_pairs(x: Tensor, y: Tensor, g: Tensor, weight: Tensor) -> list[tuple[Tensor, ...]]:
    """What the kernel is given of these in each primitive: (served, given) tensors of samples."""
    forward = pairwise_operands(x, y, weight, None, torch.empty_like(g, memory_format=torch.contiguous_format))
    grad_x = pairwise_grad_x_operands(g, y, weight, torch.empty(x.shape, device=DEVICE))
    grad_weight = pairwise_grad_weight_operands(g, x, y, torch.empty_like(weight))
    return [
        *((forward[0], x), (forward[2], y), (grad_x[0], g), (grad_x[1], y)),
        *((grad_weight[0], x), (grad_weight[1], g), (grad_weight[2], y)),
    ]


@pytest.mark.parametrize(("batch", "order"), BATCHES.values(), ids=BATCHES)
def test_batches_of_pairs(batch, order):
    """x and g lie in the batch's order, y in row-major order; no matrix is copied."""
    L, M, N, S, T = 2, 7, 4, 5, 6
    x, g = (stored(batch, prod(sizes), order).unflatten(-1, sizes) for sizes in ((S, M), (L, S, T)))
    y, weight = torch.randn(*batch, T, N, device=DEVICE), torch.randn(L, M, N, device=DEVICE)
    check_pairs(x, y, g, weight)
    assert all(served.data_ptr() == given.data_ptr() for served, given in operands_of_pairs(x, y, g, weight))


def test_batches_of_pairs_that_take_four_strides():
    """Those of y, which is copied, once for all outputs; of x three do."""
    batch = (2, 2, 3, 2)
    x, y = torch.randn(2, 1, 3, 2, 5, 7, device=DEVICE), torch.randn(1, 2, 1, 2, 6, 4, device=DEVICE)
    x, y = x.expand(*batch, 5, 7), y.expand(*batch, 6, 4)
    g, weight = torch.randn(*batch, 3, 5, 6, device=DEVICE), torch.randn(3, 7, 4, device=DEVICE)
    check_pairs(x, y, g, weight)
    served = pairwise_operands(x, y, weight, None, g)
    assert served[0].data_ptr() == x.data_ptr()
    assert served[2].untyped_storage().nbytes() == 4 * y.numel()


@pytest.mark.parametrize(("order", "splits"), [("acde", 1), ("acde", 3), ("deac", 3)])
@pytest.mark.parametrize("name", PAIRS)
def test_split_pairs_of_three_strides(name, order, splits):
    """Partial sums lie densely, whatever the operands' strides."""
    problem = make(name, sizes_of(name, (12, 2, 34, 35, 9, 7)))
    primitive, out = problem.primitive, problem.outputs[0]
    inputs = [
        three_strides(operand) if axes[0] == "b" else operand
        for operand, axes in zip(problem.operands, primitive.operands, strict=True)
    ]
    bias = [problem.bias] if primitive.has_bias else []
    result = out.unflatten(0, (2, 3, 2)) if primitive.results[0][0][0] == "b" else out
    plan = Plan(_CHAIN, tuple(order), splits, None)
    run(primitive.launches(*inputs, *bias, result, device_of(out), plan), out)
    problem.check()


def three_strides(tensor: Tensor) -> Tensor:
    """(12, ...) as (2, 3, 2, ...), with these axes stored in reverse."""
    return tensor.unflatten(0, (2, 3, 2)).transpose(0, 2).contiguous().transpose(0, 2)


@pytest.mark.parametrize(("batch", "order"), BATCHES.values(), ids=BATCHES)
def test_kept_projection_of_batches(batch, order):
    x, y = stored(batch, 6, order), torch.randn(*batch, 7, device=DEVICE)
    weight = torch.randn(2, 6, 7, device=DEVICE)
    z = allocated(batch, 2, order.index(len(batch)) - len(order))
    kept = nan(*batch, 2, 7, dtype=x.dtype)
    gpu.contract_keep(x, y, weight, None, z, kept)
    assert_as_good_as_einsum(flat(z), "bm,bn,lmn->bl", [flat(x), flat(y), weight])
    assert_as_good_as_einsum(kept.reshape(-1, 2, 7), "bm,lmn->bln", [flat(x), weight])


def allocated(batch: tuple[int, ...], features: int, feature_dim: int) -> Tensor:
    """Contiguous with its features at feature_dim, which counts from the end; a view with the features last."""
    shape = list(batch)
    shape.insert(len(batch) + 1 + feature_dim, features)
    return nan(*shape, dtype=torch.float32).movedim(feature_dim, -1)


# Plans ----------------------------------------------------------------------------------------------------------------

_KHATRI_RAO = config("khatri_rao", 4, 2, B=16, P=16, Q=2, R=16)
_KHATRI_RAO_DEEP = config("khatri_rao", 4, 2, B=32, P=32, Q=1, R=32)
_KHATRI_RAO_HELD = config("khatri_rao", 4, 2, B=16, P=16, Q=32, R=2)
_PROJECT = config("project", 4, 2, B=16, P=4, Q=16, R=16)
_PROJECT_SINGLE = config("project", 4, 2, B=16, P=1, Q=16, R=32)
_JOINT_HELD = config("grad_inputs", 4, 2, B=16, L=32, M=2, N=16)
_JOINT = config("grad_inputs", 4, 2, B=16, L=16, M=4, N=8)
_WEIGHT = config("grad_weight", 4, 2, B=16, P=1, Q=32, R=16)
_WEIGHT_PRODUCT = config("grad_weight", 4, 2, B=16, P=4, Q=8, R=16)
_CHAIN = config("chain", 4, 2, A=16, C=16, D=16, E=16)


# Two tiles or more along every axis.
TWO_TILES = (21, 17, 18, 20)


def plans(name: str, configs: list, orders: list[str], splits: tuple[int, ...], groups: tuple[int, ...] = (1,)) -> list:
    return [
        pytest.param(
            name,
            Plan(tile, tuple(order), split, None, group),
            id=f"{name}-{tile.kernel}{[size for _, size in tile.blocks]}-{order}-splits{split}-groups{group}",
        )
        for tile in configs
        for order in orders
        for split in splits
        for group in groups
    ]


PLANS = [
    *plans(
        "contract", [_KHATRI_RAO, _KHATRI_RAO_DEEP, _KHATRI_RAO_HELD, _PROJECT, _PROJECT_SINGLE], ["pqr", "prq"], (1, 2)
    ),
    *plans("contract_keep", [_PROJECT, _PROJECT_SINGLE], ["pqr"], (1, 2)),
    *plans("grad_inputs", [_JOINT_HELD, _JOINT], ["lmn", "lnm"], (1, 3), (1, 2)),
    *plans("grad_weight", [_WEIGHT], ["pqr", "prq", "qpr", "qrp", "rpq", "rqp"], (1, 2)),
    *plans("grad_weight", [_WEIGHT_PRODUCT], ["pqr", "rpq"], (1, 2)),
    *(plan for name in PAIRS for plan in plans(name, [_CHAIN], ["acde", "deac"], (1, 3))),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "plan"), PLANS)
def test_plan(name, plan, dtype):
    """Every kernel, order, split and group gives the right numbers, and the same bits when run again."""
    problem = small(name, dtype, TWO_TILES)
    launches = problem.run_plan(plan)
    assert launches[0].kernel.__name__.startswith(
        {"khatri_rao": "contract_khatri_rao", "project": "contract_project"}.get(plan.config.kernel, plan.config.kernel)
    )
    assert launches[0].grid[1] == plan.splits
    problem.check()
    first = [output.clone() for output in problem.outputs]
    for output in problem.outputs:
        output.fill_(torch.nan)
    problem.run_plan(plan)
    assert all(map(torch.equal, first, problem.outputs))


@pytest.mark.parametrize(("name", "plan"), PLANS)
def test_plan_of_rows_too_narrow_for_asynchronous_copies(name, plan):
    """Rows of an odd number of float16s: all operands of the product are loaded a step ahead."""
    problem = small(name, torch.float16, (21, 17, 19, 23))
    launches = problem.run_plan(plan)
    ahead = {value for argument, value in launches[0].arguments.items() if argument.startswith("AHEAD_")}
    assert ahead == {device_of(problem.operands[0]).vendor == "nvidia"}
    problem.check()


@pytest.mark.parametrize("name", PRIMITIVES)
def test_split_plan_with_strided_results(name):
    """The second pass writes where the strides say, and adds the bias once."""
    tile = {"contract": _KHATRI_RAO, "contract_keep": _PROJECT, "grad_inputs": _JOINT, "grad_weight": _WEIGHT}.get(name)
    order = {"grad_inputs": "lnm", "grad_weight": "qrp", **dict.fromkeys(PAIRS, "acde")}.get(name, "pqr")
    problem = small(name, sizes=TWO_TILES)
    problem.outputs[0] = sliced(problem.outputs[0])
    problem.run_plan(Plan(tile or _CHAIN, tuple(order), 2, None, 2 if name == "grad_inputs" else 1))
    problem.check()


@pytest.mark.parametrize("plan", [plan for name, plan in (case.values for case in PLANS) if name == "grad_inputs"])
def test_joint_plans_in_two_levels_of_rows(plan):
    x, y, g = (stored((3, 7), features, (1, 0, 2)) for features in (18, 20, 17))
    weight = torch.randn(17, 18, 20, device=DEVICE)
    dx, dy = nan(3, 7, 18, dtype=x.dtype), nan(3, 7, 20, dtype=x.dtype)
    run(grad_inputs_launches(g, x, y, weight, dx, dy, device_of(g), plan), g)
    assert_as_good_as_einsum(flat(dx), "bl,bn,lmn->bm", [flat(g), flat(y), weight])
    assert_as_good_as_einsum(flat(dy), "bl,bm,lmn->bn", [flat(g), flat(x), weight])


ORDERS = {"contract": ["pqr", "prq"], "contract_keep": ["pqr"], "grad_inputs": ["lmn", "lnm"]}
ORDERS |= {"grad_weight": ["pqr", "rqp", "qpr"], **{name: ["acde", "deac"] for name in PAIRS}}
TILES = {"contract": _PROJECT, "contract_keep": _PROJECT, "grad_inputs": _JOINT, "grad_weight": _WEIGHT}


def apart(tensor: Tensor) -> Tensor:
    """(24, ...) as (4, 6, ...), six in eight of whose rows are there."""
    return tensor.new_empty(4, 8, *tensor.shape[1:])[:, :6]


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("rows", ["flat", "two levels"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_compiler_is_told_no_divisor_that_is_none(name, rows, splits):
    """Each stride of an axis of several is a multiple of its operand's VEC_: `aligned` rounds others down.

    So is each size of its own. Strides of 1 are constants. The interpreter would not notice: there VEC_ is 1.
    """
    batch = 24 if rows == "two levels" else 6
    for sizes in product((1, 6, 8), repeat=len(AXES[name]) - 1):
        problem = make(name, sizes_of(name, (batch, *sizes)), torch.float16)
        primitive = problem.primitive
        inputs = list(problem.operands)
        outputs: list[Tensor | None] = list(problem.outputs)
        if rows == "two levels":
            inputs = [apart(t) if axes[0] == "b" else t for t, axes in zip(inputs, primitive.operands, strict=True)]
            outputs = [
                t.unflatten(0, (4, 6)) if axes[0] == "b" else t
                for t, (axes, _) in zip(problem.outputs, primitive.results, strict=True)
            ]
        bias = [problem.bias] if primitive.has_bias else []
        missing = [None] if name == "contract" else []
        for order in ORDERS[name]:
            groups = splits if name == "grad_inputs" else 1
            plan = Plan(TILES.get(name, _CHAIN), tuple(order), splits, None, groups)
            launch, *_ = primitive.launches(*inputs, *bias, *outputs, *missing, H100, plan)
            check_divisors(launch.arguments, splits)


def check_divisors(arguments: dict[str, object], splits: int) -> None:
    divisors = {name.removeprefix("VEC_"): value for name, value in arguments.items() if name.startswith("VEC_")}
    middle, inner = arguments["B_MIDDLE"], arguments["B_INNER"]
    levels = {"b": arguments["B"] // (middle * inner), "j": middle, "i": inner, "s": splits}
    strides = {name: value for name, value in arguments.items() if name.startswith("stride_") and name != "stride_bias"}
    operands = set()
    for name, value in strides.items():
        *letters, axis = name.removeprefix("stride_")
        operand = "OUT" if letters == ["o"] else "".join(letters).upper()
        operands.add(operand)
        several = levels.get(axis) or arguments[axis.upper()]
        if operand in divisors and several > 1 and value != 1:
            assert value % divisors[operand] == 0, (name, value, divisors[operand])
    for size in (divisors.keys() & arguments.keys()) - operands:
        assert arguments[size] % divisors[size] == 0, size


# Offsets --------------------------------------------------------------------------------------------------------------

_BEYOND_32_BITS = 2**31 + 8


@contextmanager
def sparse_elements(count: int, path: Path) -> Iterator[Tensor]:
    """A float16 vector so long that most of it had better never be touched."""
    if GPU:
        yield torch.empty(0, dtype=torch.float16, device=DEVICE).set_(
            torch.UntypedStorage(2 * count, device=DEVICE), 0, (count,), (1,)
        )
        return
    path.touch()
    with path.open("r+b") as file:
        file.truncate(2 * count)
    yield torch.from_file(str(path), shared=True, size=count, dtype=torch.float16)
    path.unlink()


def far_apart(tensor: Tensor, axis: int, storage: Tensor) -> Tensor:
    """The same values in a storage where the axis reaches beyond 2**31 elements."""
    others = [other for other in range(tensor.dim()) if other != axis]
    strides = [0] * tensor.dim()
    step = 1
    for other in reversed(others):
        strides[other] = step
        step *= tensor.shape[other]
    strides[axis] = -(-_BEYOND_32_BITS // (tensor.shape[axis] - 1))
    view = storage.as_strided(tensor.shape, strides)
    view.copy_(tensor)
    return view


FAR = [
    *(("contract", role, axis) for role, axis in [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1), (2, 2), (-1, 0), (-1, 1)]),
    *(("contract_keep", role, axis) for role, axis in [(1, 1), (2, 2), (-2, 0)]),
    *(("grad_inputs", role, axis) for role, axis in [(0, 1), (1, 1), (2, 1), (3, 0), (3, 1), (3, 2), (-1, 1)]),
    *(("grad_weight", role, axis) for role, axis in [(0, 1), (1, 1), (2, 0), (2, 1), (-1, 0), (-1, 1), (-1, 2)]),
    *(("pairwise", role, axis) for role, axis in [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]),
    *(("pairwise", -1, axis) for axis in range(4)),
    *(("pairwise_grad_x", role, axis) for role, axis in [(0, 1), (0, 2), (0, 3), (1, 2), (2, 0), (-1, 0), (-1, 1)]),
    *(
        ("pairwise_grad_weight", role, axis)
        for role, axis in [(0, 0), (0, 1), (0, 3), (1, 0), (2, 2), (-1, 0), (-1, 2)]
    ),
]


@pytest.mark.parametrize(("name", "role", "axis"), FAR)
def test_offsets_beyond_32_bits(name, role, axis, tmp_path):
    """An operand (or, for roles -1 and -2, a result) whose elements lie further apart than 32 bits can say."""
    problem = small(name, torch.float16, (9, *SMALL[1:]))  # rows of one tile
    with sparse_elements(_BEYOND_32_BITS + 2**16, tmp_path / "sparse") as storage:
        tensors = problem.outputs if role < 0 else problem.operands
        index = role if role >= 0 else -1 - role
        tensors[index] = far_apart(tensors[index], axis, storage)
        problem.run()
        problem.check()


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


@pytest.mark.parametrize("name", ["contract", "contract_keep", "pairwise"])
def test_a_bias_beyond_32_bits(name, tmp_path):
    problem = small(name, torch.float16)
    with sparse_elements(_BEYOND_32_BITS + 2**16, tmp_path / "sparse") as storage:
        problem.bias = far_apart(problem.bias, 0, storage)
        problem.run()
        problem.check()


def test_more_rows_than_kernels_count():
    """Refused: numbers of rows and tiles are of 32 bits."""
    x = meta(1, 8).expand(2**30 + 1, 8)
    with pytest.raises(RuntimeError, match=r"at most 2\*\*30 rows, got 1073741825"):
        contract_launches(x, x, meta(1, 8, 8), None, meta(1, 1).expand(2**30 + 1, 1), None, H100)
    p, q = (meta(1, 1, *matrix).expand(2**29, 1, *matrix) for matrix in ((8, 800), (800, 800)))
    with pytest.raises(RuntimeError, match=r"sums of at most 2\*\*30 tiles, got 6979321856"):
        chain_launches(p, q, p.mT, None, meta(1, 1, 8, 8), H100)


@pytest.mark.parametrize(("gpu", "programs"), [("NVIDIA H100 80GB HBM3", 2**31), ("AMD Instinct MI300X", 2**24)])
def test_more_programs_than_a_grid_holds(gpu, programs):
    form = meta(1, 8, 8, 8).expand(programs // 8, 8, 8, 8)
    with pytest.raises(RuntimeError, match=rf"at most \d+ tiles of the result on {gpu}, got {programs}"):
        chain_launches(form, form, form, None, form, find_device(gpu))
    quarter = form[: programs // 32]
    assert chain_launches(quarter, quarter, quarter, None, quarter, find_device(gpu))[0].grid[0] == programs // 4


@pytest.mark.parametrize(("outputs", "wide"), [(2100, False), (2200, True)])
def test_wide_offsets_only_where_a_weight_calls_for_them(outputs, wide):
    rows, M, N = 300, 1000, 1000
    x, y, g, weight = meta(rows, M), meta(rows, N), meta(rows, outputs), meta(outputs, M, N)
    launches = [
        contract_launches(x, y, weight, None, meta(rows, outputs), None, H100)[0],
        grad_inputs_launches(g, x, y, weight, meta(rows, M), meta(rows, N), H100)[0],
        grad_weight_launches(g, x, y, meta(outputs, M, N), H100)[0],
    ]
    assert [launch.arguments["WIDE"] for launch in launches] == [wide] * 3


def test_a_large_batch_needs_no_wide_offsets():
    """Rows are addressed from a 64-bit base, whatever their number."""
    rows, L, M, N = 20_000_000, 128, 128, 8
    (launch, *_) = contract_launches(meta(rows, M), meta(rows, N), meta(L, M, N), None, meta(rows, L), None, H100)
    assert not launch.arguments["WIDE"]


def test_wide_offsets_for_features_far_apart():
    """Features first, the result's features alone reach beyond 2**31 elements."""
    rows, L, M, N = 20_000_000, 128, 8, 8
    x, y, z = (meta(features, rows).T for features in (M, N, L))
    (launch, *_) = contract_launches(x, y, meta(L, M, N), None, z, None, H100)
    assert launch.arguments["WIDE"]


# Properties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_same_bits_on_every_run(name):
    problem = small(name)
    problem.run()
    first = [output.clone() for output in problem.outputs]
    problem.run()
    assert all(map(torch.equal, first, problem.outputs))


def test_the_error_does_not_grow_with_the_number_of_outputs():
    """Grad x and grad y sum over L; in float16 their relative error stays at one rounding."""
    errors = [relative_error_of_grad_inputs(L) for L in (16, 512)]
    assert max(errors) <= torch.finfo(torch.float16).eps
    assert errors[1] <= 1.5 * errors[0]


def relative_error_of_grad_inputs(L: int) -> float:
    problem = make("grad_inputs", sizes_of("grad_inputs", (32, L, 16, 32)), torch.float16)
    problem.run()
    g, x, y, weight = (operand.double() for operand in problem.operands)
    exact = torch.cat([torch.einsum("bl,bn,lmn->bm", g, y, weight), torch.einsum("bl,bm,lmn->bn", g, x, weight)], 1)
    return ((torch.cat(problem.outputs, 1).double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("axis", range(3))
def test_a_narrowed_axis_of_the_weight(axis):
    """An axis of size 1 may have any stride: a view keeps the one that it had."""
    sizes = [17, 18, 20]
    sizes[axis] = 1
    problem = make("contract", sizes_of("contract", (21, *sizes)))
    problem.operands[2] = torch.randn(17, 18, 20, device=DEVICE).narrow(axis, 3, 1)
    problem.run()
    problem.check()
