"""All pairs on the CPU path below the ops: both sides first, both layouts, every cut into pieces, strides, dtypes."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import oracle
import pytest
import torch
from oracle import assert_near
from test_cpu import LAYOUTS, by_onednn, dense, rotated, sliced, transposed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from triton_bilinear import cpu
from triton_bilinear.cpu import budget as cpu_budget
from triton_bilinear.cpu import columns, onednn, pairs
from triton_bilinear.cpu.workspace import Workspace

# Axes of the inputs and of the result, and the float64 formula.
PRIMITIVES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "pairwise": (("bsm", "btn", "lmn", "l"), "blst", "bsm,btn,lmn->blst"),
    "pairwise_grad_x": (("blst", "btn", "lmn"), "bsm", "blst,btn,lmn->bsm"),
    "pairwise_grad_weight": (("blst", "bsm", "btn"), "lmn", "blst,bsm,btn->lmn"),
}

# b, s, t, l, m, n: few rows on either side, few features on either side, one of everything.
SIZES = [(2, 3, 4, 5, 6, 7), (3, 9, 2, 4, 5, 6), (3, 2, 9, 4, 6, 5), (5, 1, 7, 2, 3, 9), (2, 7, 1, 3, 9, 2), (1,) * 6]

# Elements of a buffer, rows of a piece, multiply-adds of a call, elements of a large matrix.
CUTS = {"whole": (2**19, 512, 2**19, 2**16), "rows": (2**10, 3, 2**19, 2**16), "slabs": (60, 4, 0, 0)}


@pytest.fixture(autouse=True)
def no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every CPU."""
    monkeypatch.setattr(onednn, "is_there", lambda: False)


@pytest.fixture(params=CUTS)
def cut(request, monkeypatch):
    budget, rows, call, large = CUTS[request.param]
    monkeypatch.setattr(cpu_budget, "CPU_PIECE", budget)
    monkeypatch.setattr(pairs, "ROWS", (rows,))
    monkeypatch.setattr(columns, "CALL", call)
    monkeypatch.setattr(columns, "LARGE", large)
    return request.param


def check(name: str, sizes: tuple[int, ...], dtype: torch.dtype, make: Callable, make_result: Callable) -> None:
    """Right, with a bias and without, every element written, and the inputs left as they were."""
    size = dict(zip("bstlmn", sizes, strict=True))
    given, made, formula = PRIMITIVES[name]
    inputs = [make(tuple(size[axis] for axis in axes), dtype) for axes in given]
    before = [t.clone() for t in inputs]
    out = make_result(tuple(size[axis] for axis in made), dtype).fill_(torch.nan)
    factors, bias = (inputs[:3], inputs[3:])
    exact = torch.einsum(formula, *(t.double() for t in factors))
    getattr(cpu, name)(*inputs, out)
    assert_near(out, exact + bias[0].double()[:, None, None] if bias else exact)
    if bias:
        cpu.pairwise(*factors, None, out)
        assert_near(out, exact)
    assert all(torch.equal(t, copy) for t, copy in zip(inputs, before, strict=True))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_sizes_strides_and_dtypes(name, layout, dtype, cut):
    for sizes in SIZES:
        check(name, sizes, dtype, layout, dense)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_products_of_onednn(name, layout, cut, monkeypatch):
    by_onednn(monkeypatch)
    for sizes in SIZES:
        check(name, sizes, torch.float32, layout, dense)
        check(name, sizes, torch.float32, dense, layout if layout is not LAYOUTS[-1] else sliced)


@pytest.mark.parametrize("result", [transposed, rotated, sliced], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_strided_results(name, result, cut):
    for sizes in SIZES:
        check(name, sizes, torch.float64, dense, result)


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("name", PRIMITIVES)
def test_size_0(name, axis):
    sizes = [2, 3, 4, 5, 6, 7]
    sizes[axis] = 0
    check(name, tuple(sizes), torch.float64, dense, dense)


@pytest.mark.parametrize(("stored", "layout"), [("lmn", columns.OutputsOuter), ("mnl", columns.FeaturesOuter)])
def test_a_weight_is_served_as_it_lies(stored, layout):
    """Of both ways to store one, no part of a large weight is copied."""
    x, y = torch.randn(2, 40, 257), torch.randn(2, 50, 300)
    weight = torch.randn([{"l": 16, "m": 257, "n": 300}[axis] for axis in stored])
    weight = weight.permute([stored.index(axis) for axis in "lmn"])
    out = torch.empty(2, 16, 40, 50)
    assert pairs.Pieces(x.shape[:2], y, weight).layout is layout
    with mock.patch.object(Workspace, "copy", side_effect=AssertionError):
        cpu.pairwise(x, y, weight, None, out)
    assert_near(out, torch.einsum("bsm,btn,lmn->blst", x.double(), y.double(), weight.double()), factor=16)


class MultiplyAdds(TorchDispatchMode):
    """Those of torch's matrix products (torch's own counter passes those in place by)."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "bmm", "addmm_", "baddbmm_"):
            left, right = [arg for arg in args if isinstance(arg, Tensor)][-2:]
            self.count += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sizes", [(2, 64, 1, 8, 16, 16), (2, 1, 64, 8, 16, 16), *SIZES], ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_cheaper_order_and_no_more(name, sizes):
    """The multiply-adds of the products that are called are those that the counter of torch's users is told."""
    b, s, t, l, m, n = sizes  # noqa: E741
    size = dict(zip("bstlmn", sizes, strict=True))
    given, made, _ = PRIMITIVES[name]
    inputs = [torch.randn([size[axis] for axis in axes]) for axes in given]
    with MultiplyAdds() as done:
        getattr(cpu, name)(*inputs, torch.empty([size[axis] for axis in made]))
    assert done.count == b * l * min(s * n * (m + t), t * m * (n + s))
    with FlopCounterMode(display=False) as counter:
        getattr(torch.ops.triton_bilinear, name)(*inputs)
    assert counter.get_total_flops() == 2 * done.count
