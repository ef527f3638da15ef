"""A tiny layer on a CPU: torch's own products where nothing looks for the op, and the op where something does."""

from __future__ import annotations

import oracle
import pytest
import torch
import torch.nn.functional as F
from test_cpu import LAYOUTS
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import triton_bilinear as tb
from triton_bilinear.cpu.workspace import ACCUMULATE
from triton_bilinear.ops import tiny


def arguments(b, l, m, n, dtype=torch.float64):  # noqa: E741
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in ((b, m), (b, n), (l, m, n), (l,))]


def ops_of(graph) -> set[str]:
    """Names of the autograd nodes below one."""
    found, todo = set(), [graph]
    while todo:
        node = todo.pop()
        found.add(node.name())
        todo += [below for below, _ in node.next_functions if below is not None]
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", ACCUMULATE, ids=str)
@pytest.mark.parametrize("sizes", [(32, 2, 20, 20), (7, 3, 5, 4), (1, 1, 1, 1), (3, 1, 1, 7), (2, 9, 6, 1)], ids=str)
def test_values_and_gradients(sizes, dtype, layout):
    tensors = [layout(tuple(t.shape), dtype).requires_grad_() for t in arguments(*sizes)]
    assert tiny.suits(*tensors, -1)
    out = tb.bilinear(*tensors)
    g = torch.randn_like(out)
    made = (out, *torch.autograd.grad(out, tensors, g))
    exact, size = (
        (oracle.bilinear(*given), *oracle.gradients(oracle.bilinear, given, cotangent))
        for given, cotangent in ((tensors, g), ([t.abs() for t in tensors], g.abs()))
    )
    for actual, right, terms in zip(made, exact, size, strict=True):
        # Terms may cancel by chance, where all samples or outputs are the same.
        assert ((actual - right).abs() <= 4 * torch.finfo(dtype).eps * terms).all()


@pytest.mark.parametrize("bias", [True, False])
def test_derivatives_of_any_order(bias):
    tensors = arguments(3, 2, 4, 5)[: 4 if bias else 3]
    assert not any("triton_bilinear" in name for name in ops_of(tb.bilinear(*tensors).grad_fn))
    assert gradcheck(tb.bilinear, tensors, check_forward_ad=True)
    assert gradgradcheck(tb.bilinear, tensors)


def test_the_bits_of_a_run_are_those_of_the_next():
    tensors = arguments(32, 2, 20, 20, torch.float32)
    runs = [torch.autograd.grad(tb.bilinear(*tensors).square().sum(), tensors) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        arguments(33, 2, 32, 32),
        arguments(0, 2, 3, 4),
        arguments(3, 0, 3, 4),
        arguments(3, 1400, 3, 4, torch.bfloat16),
        [torch.randn(1, 100), torch.randn(1, 100), torch.randn(20, 100, 100).mT, None],
        [torch.randn(1, 100), torch.randn(1, 100), torch.randn(20, 100, 101)[..., :100], None],
    ],
    ids=["large", "no samples", "no outputs", "large in bfloat16", "large transposed", "large sliced"],
)
def test_whatever_is_not_tiny_takes_the_op(arguments):
    assert not tiny.suits(*arguments, -1)


def test_features_on_another_axis_than_the_last_take_the_op():
    assert not tiny.suits(torch.randn(4, 2, 3), torch.randn(5, 2, 3), torch.randn(2, 4, 5), None, -3)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("batch", [(), (4, 8), (2, 1, 3)], ids=str)
def test_any_batch(batch, layout):
    x, y, weight = (layout(shape, torch.float64).requires_grad_() for shape in ((*batch, 4), (*batch, 5), (3, 4, 5)))
    tensors = x, y, weight, torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert tiny.suits(*tensors, -1)
    out = tb.bilinear(*tensors)
    g = torch.randn_like(out)
    oracle.assert_near(out, oracle.bilinear(*tensors))
    for actual, right in zip(
        torch.autograd.grad(out, tensors, g), oracle.gradients(oracle.bilinear, tensors, g), strict=True
    ):
        oracle.assert_near(actual, right)


def test_who_chooses_an_implementation_gets_it():
    with tb.use_backend("torch"):
        out = tb.bilinear(*arguments(3, 2, 4, 5))
    assert any("triton_bilinear" in name for name in ops_of(out.grad_fn))


def test_the_op_is_seen_by_whatever_looks_for_it():
    tensors = arguments(3, 2, 4, 5)
    with FlopCounterMode(display=False) as counter:
        tb.bilinear(*tensors)
    assert any("triton_bilinear" in str(op) for op in counter.get_flop_counts()["Global"])
    graph = make_fx(lambda *given: tb.bilinear(*given))(*tensors)
    assert any("triton_bilinear" in str(node.target) for node in graph.graph.nodes)


def test_a_profile_shows_what_runs():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tb.bilinear(*arguments(3, 2, 4, 5))
    events = {event.key for event in profile.key_averages()}
    assert "aten::addmm" in events
    assert not any("triton_bilinear" in event for event in events)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tb.bilinear(*arguments(33, 2, 32, 32))
    assert any("triton_bilinear" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [(), (8,), (2, 4)], ids=str)
def test_the_result_is_no_view(batch, bias):
    """As of torch's layer: it can be changed in place after no_grad, and detached in place."""
    tensors = [torch.randn(*batch, 4), torch.randn(*batch, 5), torch.randn(6, 4, 5), torch.randn(6) if bias else None]
    with torch.no_grad():
        out = tb.bilinear(*tensors)
    out += torch.zeros(6, requires_grad=True)
    assert out.requires_grad
    assert tb.bilinear(*(t if t is None else t.requires_grad_() for t in tensors)).detach_().requires_grad is False


def test_a_tiny_layer_trains_as_torchs_does():
    torch.manual_seed(0)
    ours, theirs = tb.Bilinear(6, 5, 3), torch.nn.Bilinear(6, 5, 3)
    theirs.load_state_dict(ours.state_dict())
    x, y, target = torch.randn(16, 6), torch.randn(16, 5), torch.randn(16, 3)
    for layer in (ours, theirs):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            F.mse_loss(layer(x, y), target).backward()
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
