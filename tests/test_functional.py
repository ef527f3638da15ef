"""The public functions: numbers against float64, shapes, strides, errors, autocast."""

from __future__ import annotations

import subprocess
import sys

import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_near

import triton_bilinear as tb

SIZES = [  # batch, L, M, N
    ((5,), 3, 4, 6),
    ((2, 3), 4, 7, 5),
    ((), 3, 4, 5),
    ((1,), 1, 1, 1),
    ((7,), 1, 9, 8),
    ((9,), 17, 5, 3),
]
EMPTY = [
    ((0,), 3, 4, 5),
    ((2, 0), 3, 4, 5),
    ((4,), 0, 4, 5),
    ((4,), 3, 0, 5),
    ((4,), 3, 4, 0),
    ((0,), 0, 0, 0),
]


def arguments(batch, outputs, m, n, *, device="cpu", dtype=torch.float64, feature_dim=-1):
    def samples(features):
        return torch.randn(*batch, features, device=device, dtype=dtype).movedim(-1, feature_dim).contiguous()

    weight = torch.randn(outputs, m, n, device=device, dtype=dtype)
    return samples(m), samples(n), weight, torch.randn(outputs, device=device, dtype=dtype)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bilinear_equals_einsum(backend, device, sizes, dtype):
    if reason := oracle.skip_reason(dtype, backend, device):
        pytest.skip(reason)
    x, y, weight, bias = arguments(*sizes, device=device, dtype=dtype)
    result = tb.bilinear(x, y, weight, bias)
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert_near(result, oracle.bilinear(x, y, weight, bias))
    assert_near(tb.bilinear(x, y, weight), oracle.bilinear(x, y, weight))


@pytest.mark.parametrize("sizes", EMPTY, ids=str)
def test_empty_sizes(backend, device, sizes):
    x, y, weight, bias = arguments(*sizes, device=device)
    assert_near(tb.bilinear(x, y, weight, bias), oracle.bilinear(x, y, weight, bias))
    for tensor in (x, y, weight, bias):
        tensor.requires_grad_()
    result = tb.bilinear(x, y, weight, bias)
    grads = torch.autograd.grad(result, (x, y, weight, bias), torch.ones_like(result))
    expected = oracle.gradients(oracle.bilinear, (x, y, weight, bias), torch.ones_like(result))
    for grad, exact in zip(grads, expected, strict=True):
        assert_near(grad, exact)


@pytest.mark.parametrize("feature_dim", [-3, -2, -1, 0, 1, 2])
def test_feature_dim(backend, device, feature_dim):
    x, y, weight, bias = arguments((2, 3), 4, 5, 6, device=device, feature_dim=feature_dim)
    result = tb.bilinear(x, y, weight, bias, feature_dim=feature_dim)
    assert result.is_contiguous()
    assert_near(result, oracle.bilinear(x, y, weight, bias, feature_dim))


def test_samples_as_columns(backend, device):
    """Item 11: X (M, B), Y (N, B) give Z (L, B)."""
    x, y, weight, _ = arguments((5,), 3, 4, 6, device=device, feature_dim=0)
    assert x.shape == (4, 5)
    assert_near(tb.bilinear(x, y, weight, feature_dim=0), torch.einsum("mb,lmn,nb->lb", x, weight, y))


def strided(x, y, weight):
    """The same numbers behind other strides."""
    yield "transposed inputs", x.T.contiguous().T, y.T.contiguous().T, weight
    yield "sliced inputs", torch.cat([x, x], 1)[:, : x.shape[1]], torch.stack([y, y], 2)[..., 0], weight
    yield "expanded batch", x[:1].expand_as(x), y[:1].expand_as(y), weight
    yield "expanded features", x[:, :1].expand_as(x), y[:, :1].expand_as(y), weight
    yield "weight stored (M, N, L)", x, y, weight.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    yield "weight transposed", x, y, weight.mT.contiguous().mT
    yield "weight expanded", x, y, weight[:1].expand_as(weight)
    yield "weight sliced", x, y, torch.cat([weight, weight], 2)[..., : weight.shape[2]]


@pytest.mark.parametrize("case", range(8))
def test_strides(backend, device, case):
    x, y, weight, bias = arguments((6,), 3, 5, 4, device=device)
    name, x, y, weight = list(strided(x, y, weight))[case]
    leaves = [tensor.detach().requires_grad_() for tensor in (x, y, weight, bias)]
    assert leaves[0].stride() == x.stride(), name
    result = tb.bilinear(*leaves)
    assert_near(result, oracle.bilinear(x, y, weight, bias))
    for cotangent in (torch.randn_like(result), torch.ones((), device=device, dtype=x.dtype).expand_as(result)):
        grads = torch.autograd.grad(result, leaves, cotangent, retain_graph=True)
        expected = oracle.gradients(oracle.bilinear, leaves, cotangent)
        for grad, exact in zip(grads, expected, strict=True):
            assert_near(grad, exact, 8)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
def test_bilinear_form(backend, device, batch):
    """Items 5 and 8: one form; the result has the batch shape."""
    x, y, weight, _ = arguments(batch, 1, 5, 3, device=device)
    result = tb.bilinear_form(x, y, weight[0])
    assert result.shape == batch
    assert_near(result, torch.einsum("...m,mn,...n->...", x, weight[0], y))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3)], ids=str)
def test_pairwise_equals_einsum(backend, device, batch, dtype):
    if reason := oracle.skip_reason(dtype, backend, device):
        pytest.skip(reason)
    x = torch.randn(*batch, 3, 4, device=device, dtype=dtype)
    y = torch.randn(*batch, 5, 6, device=device, dtype=dtype)
    weight, bias = torch.randn(2, 4, 6, device=device, dtype=dtype), torch.randn(2, device=device, dtype=dtype)
    result = tb.pairwise_bilinear(x, y, weight, bias)
    assert result.is_contiguous()
    assert_near(result, oracle.pairwise(x, y, weight, bias))
    for one in (bias[0], bias[:1]):
        single = tb.pairwise_bilinear(x, y, weight[0], one)
        assert_near(single, oracle.pairwise(x, y, weight[:1], bias[:1]).squeeze(-3))


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "weight_shape"),
    [
        ((0, 3, 4), (0, 5, 6), (2, 4, 6)),
        ((2, 0, 4), (2, 5, 6), (2, 4, 6)),
        ((2, 3, 4), (2, 0, 6), (2, 4, 6)),
        ((2, 3, 0), (2, 5, 6), (2, 0, 6)),
        ((2, 3, 4), (2, 5, 0), (2, 4, 0)),
        ((2, 3, 4), (2, 5, 6), (0, 4, 6)),
    ],
    ids=str,
)
def test_pairwise_empty_sizes(backend, device, x_shape, y_shape, weight_shape):
    shapes = (x_shape, y_shape, weight_shape, weight_shape[:1])
    leaves = [torch.randn(shape, device=device, dtype=torch.float64, requires_grad=True) for shape in shapes]
    result = tb.pairwise_bilinear(*leaves)
    assert_near(result, oracle.pairwise(*leaves))
    grads = torch.autograd.grad(result, leaves, torch.ones_like(result))
    expected = oracle.gradients(oracle.pairwise, leaves, torch.ones_like(result))
    for grad, exact in zip(grads, expected, strict=True):
        assert_near(grad, exact)


def test_linear_is_the_derivations():
    """Item 3, samples as rows and as columns: forward and the closed-form gradients."""
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4), (3, 4), (3,)))
    g = torch.randn(5, 3, dtype=torch.float64)
    rows = tb.linear(x, weight, bias)
    assert_near(rows, x @ weight.T + bias)
    grads = torch.autograd.grad(rows, (x, weight, bias), g)
    for grad, exact in zip(grads, (g @ weight, g.T @ x, g.sum(0)), strict=True):
        assert_near(grad, exact)


def test_linear_of_columns():
    """Item 3 and item 4, samples as columns: Y = A X + b 1^T."""
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 5), (3, 4), (3,)))
    g = torch.randn(3, 5, dtype=torch.float64)
    columns = tb.linear(x.T, weight, bias).T
    assert_near(columns, weight @ x + bias[:, None])
    grads = torch.autograd.grad(columns, (x, weight, bias), g)
    for grad, exact in zip(grads, (weight.T @ g, g @ x.T, g.sum(1)), strict=True):
        assert_near(grad, exact)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, device="meta", dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((meta(3, 4), meta(3, 5), meta(6, 4)), RuntimeError, "weight must have 3 axes"),
        ((meta(3, 4), meta(3, 5), meta(6, 4, 5), meta(6, 1)), RuntimeError, "bias must have 1 axis"),
        ((meta(), meta(), meta(6, 4, 5)), RuntimeError, "at least 1 axis"),
        ((meta(3, 4), meta(3, 5, dtype=torch.float64), meta(6, 4, 5)), RuntimeError, "same dtype"),
        ((meta(3, 4), meta(3, 5), meta(6, 4, 5), meta(6, dtype=torch.half)), RuntimeError, "same dtype.*bias"),
        (tuple(meta(*s, dtype=torch.int64) for s in ((3, 4), (3, 5), (6, 4, 5))), RuntimeError, "expected float16"),
        (tuple(meta(*s, dtype=torch.cfloat) for s in ((3, 4), (3, 5), (6, 4, 5))), RuntimeError, "expected float16"),
        ((torch.ones(3, 4), meta(3, 5), meta(6, 4, 5)), RuntimeError, "same device, got x: cpu, y: meta"),
    ],
)
def test_bilinear_errors(arguments, error, message):
    with pytest.raises(error, match=rf"bilinear\(\): .*{message}"):
        tb.bilinear(*arguments)


@pytest.mark.parametrize("feature_dim", [-3, 2])
def test_feature_dim_out_of_range(feature_dim):
    with pytest.raises(IndexError, match=r"feature_dim out of range \(expected to be in range of \[-2, 1\]"):
        tb.bilinear(meta(3, 4), meta(3, 5), meta(6, 4, 5), feature_dim=feature_dim)


def test_batch_mismatch_names_the_axis():
    with pytest.raises(RuntimeError, match="do not match at dim 2: got 3 and 7"):
        tb.bilinear(meta(2, 4, 3), meta(2, 5, 7), meta(6, 4, 5), feature_dim=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((meta(3), meta(5, 4), meta(3, 4)), "2 or more"),
        ((meta(2, 5, 3), meta(5, 4), meta(3, 4)), "same number of axes"),
        ((meta(2, 5, 3), meta(3, 5, 4), meta(3, 4)), "batch axes do not match"),
        ((meta(5, 3), meta(5, 4), meta(3)), "weight must be"),
        ((meta(5, 3), meta(5, 4), meta(2, 7, 4)), "x size does not match weight size: got 3 but expected 7"),
        ((meta(5, 3), meta(5, 4), meta(2, 3, 7)), "y size does not match weight size: got 4 but expected 7"),
        ((meta(5, 3), meta(5, 4), meta(2, 3, 4), meta(3)), "bias size does not match"),
        ((meta(5, 3), meta(5, 4), meta(3, 4), meta(2)), "bias of a single form"),
    ],
)
def test_pairwise_errors(arguments, message):
    with pytest.raises(RuntimeError, match=rf"pairwise_bilinear\(\): .*{message}"):
        tb.pairwise_bilinear(*arguments)


def test_form_needs_a_matrix():
    with pytest.raises(RuntimeError, match="weight must have 2 axes"):
        tb.bilinear_form(meta(3), meta(4), meta(2, 3, 4))


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_as_linear_does(given, cast):
    """Whatever the mix, products are computed in the autocast dtype."""
    x, y, weight, bias = arguments((3,), 4, 5, 6, dtype=torch.float32)
    with torch.autocast("cpu", dtype=cast):
        result = tb.bilinear(x.to(given), y, weight, bias)
        paired = tb.pairwise_bilinear(x.to(given), y, weight, bias)
        assert F.linear(x.to(given), weight[..., 0]).dtype == cast
    assert result.dtype == paired.dtype == cast
    rounded = [tensor.to(cast) for tensor in (x.to(given), y, weight, bias)]
    assert_near(result, oracle.bilinear(*rounded))
    assert_near(paired, oracle.pairwise(*rounded))


def test_autocast_leaves_float64_alone():
    x, y, weight, bias = arguments((3,), 4, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tb.bilinear(x, y, weight, bias).dtype == torch.float64
        with pytest.raises(RuntimeError, match="same dtype"):
            tb.bilinear(x, y, weight.float())
        assert tb.bilinear(meta(3, 4), meta(3, 5), meta(6, 4, 5)).dtype == torch.float32


def test_autocast_gradients_have_the_dtype_of_the_arguments(backend, device):
    dtype = torch.float16
    x, y, weight, bias = (t.requires_grad_() for t in arguments((3,), 4, 5, 6, device=device, dtype=torch.float32))
    with torch.autocast(device.type, dtype=dtype):
        result = tb.bilinear(x, y, weight, bias)
    assert result.dtype == dtype
    result.float().sum().backward()
    rounded = [tensor.detach().to(dtype) for tensor in (x, y, weight, bias)]
    expected = oracle.gradients(oracle.bilinear, rounded, torch.ones_like(result))
    for leaf, exact in zip((x, y, weight, bias), expected, strict=True):
        assert leaf.grad.dtype == torch.float32
        assert_near(leaf.grad.to(dtype), exact)


def test_unknown_backend_names_the_choices():
    with pytest.raises(ValueError, match="unknown backend 'cuda', expected one of 'auto', 'triton', 'torch'"):
        tb.use_backend("cuda")


def test_backends_nest():
    from triton_bilinear import backend

    with tb.use_backend("torch") as outer:
        with tb.use_backend("auto"), outer:
            assert backend.primitives(torch.device("cuda")).__name__ == "triton_bilinear.cpu"
        assert not backend.is_automatic()
    assert backend.is_automatic()


@pytest.mark.parametrize(
    ("device", "capability", "hip", "served"),
    [
        ("cuda", (8, 0), None, True),
        ("cuda", (12, 0), None, True),
        ("cuda", (7, 5), None, False),
        ("cuda", (11, 0), "7.0", True),
        ("xpu", (8, 0), None, False),
        ("cpu", (8, 0), None, False),
    ],
)
def test_which_devices_triton_serves(device, capability, hip, served, monkeypatch):
    """Products on others were compiled without matrix instructions, or not at all."""
    from triton_bilinear import backend

    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert backend._is_served.__wrapped__(torch.device(device)) == served


def test_backends_that_are_left_in_another_order_leave_none():
    """As two threads may leave theirs."""
    from triton_bilinear import backend

    first, second = tb.use_backend("torch"), tb.use_backend("auto")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert backend.is_automatic()
    with tb.use_backend("torch"):
        second.__exit__(None, None, None)
        assert backend.primitives(torch.device("cuda")).__name__ == "triton_bilinear.cpu"
        assert not backend.is_automatic()
    assert backend.is_automatic()


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_does_not_import_triton():
    code = "import sys, torch; before = set(sys.modules); import triton_bilinear; print('triton' in sys.modules)"
    assert in_new_process(code).strip() == "False"


@pytest.mark.parametrize("looked_for", [False, True], ids=["imported", "looked for, then imported"])
def test_modules_that_torch_imports_late_know_the_ops(looked_for):
    """Python's own loader stays with them."""
    code = f"""
import importlib.util
import torch, triton_bilinear as tb
if {looked_for}:
    importlib.util.find_spec("torch.utils.flop_counter")
    importlib.util.find_spec("torch.distributed.tensor")
from torch.utils import flop_counter
import torch.distributed.tensor as tensor
with flop_counter.FlopCounterMode(display=False) as counter:
    tb.bilinear(torch.ones(2, 3), torch.ones(2, 4), torch.ones(5, 3, 4))
print(counter.get_total_flops(), len(tb.ops.sharding._DTENSOR), type(flop_counter.__spec__.loader).__name__)
print(type(tensor.__loader__).__name__)
"""
    found = in_new_process(code).split()
    assert found == ["240", "1", "SourceFileLoader", "SourceFileLoader"]


def test_works_where_triton_is_not_installed():
    code = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "triton" else find(name, *rest)
sys.modules["triton"] = None
import torch, triton_bilinear as tb
x = torch.ones(2, 3, requires_grad=True)
tb.bilinear(x, torch.ones(2, 4), torch.ones(5, 3, 4)).sum().backward()
print(x.grad[0, 0].item())
try:
    tb.use_backend("triton")
except ImportError as error:
    print(error)
"""
    gradient, message = in_new_process(code).splitlines()
    assert float(gradient) == 20
    assert "`triton` is not installed" in message
