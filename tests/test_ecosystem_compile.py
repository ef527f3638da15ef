"""Compiled and captured: torch.compile, export, AOTInductor, unbacked sizes, CUDA graphs."""

from __future__ import annotations

import subprocess
import sys

import capture_calls
import oracle
import pytest
import torch
from oracle import assert_near
from standin import run_standin
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, hessian, jvp, vmap

import triton_bilinear as tb


def leaves_of(outputs, device="cpu", batch=6):
    return tuple(
        torch.randn(shape, device=device, dtype=torch.float64, requires_grad=True)
        for shape in ((batch, 4), (batch, 5), (outputs, 4, 5), (outputs,))
    )


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("outputs", [1, 6])
def test_compile_without_graph_breaks(backend, device, outputs, compiler):
    leaves = leaves_of(outputs, device)
    compiled = torch.compile(tb.bilinear, fullgraph=True, backend=compiler)
    result = compiled(*leaves)
    assert_near(result, oracle.bilinear(*leaves))
    grads = torch.autograd.grad(result, leaves, torch.ones_like(result))
    expected = oracle.gradients(oracle.bilinear, leaves, torch.ones_like(result))
    for got, want in zip(grads, expected, strict=True):
        assert_near(got, want)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("outputs", [1, 6])
def test_one_dynamic_graph_serves_every_batch(backend, device, outputs):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *t: tb.bilinear(*t).relu(), fullgraph=True, dynamic=True, backend=counter)
    for batch in (7, 3, 11, 64):
        leaves = leaves_of(outputs, device, batch)
        result = compiled(*leaves)
        assert_near(result, oracle.bilinear(*leaves).relu())
        result.sum().backward()
    assert counter.frame_count == 1


@pytest.mark.usefixtures("_fresh_compiler")
def test_compile_the_other_functions(backend, device):
    shapes = (2, 3, 4), (2, 6, 5), (2, 4, 5)
    x, y, weight = (torch.randn(shape, dtype=torch.float64, device=device) for shape in shapes)
    x.requires_grad_()
    compiled = torch.compile(tb.pairwise_bilinear, fullgraph=True, backend="aot_eager")
    result = compiled(x, y, weight)
    assert_near(result, oracle.pairwise(x, y, weight))
    result.sum().backward()
    (want,) = torch.autograd.grad(oracle.pairwise(x, y, weight).sum(), x)
    assert_near(x.grad, want)
    form = torch.compile(tb.bilinear_form, fullgraph=True, backend="aot_eager")
    assert_near(form(x[0], y[0, :3], weight[0]), tb.bilinear_form(x[0], y[0, :3], weight[0]))


@pytest.mark.usefixtures("_fresh_compiler")
def test_export_save_load_run(backend, tmp_path):
    """An exported layer with a batch size left open runs in a new process that imports the package."""
    layer = tb.Bilinear(4, 5, 6)
    x, y = torch.randn(3, 4), torch.randn(3, 5)
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (x, y), dynamic_shapes=({0: batch}, {0: batch}))
    assert any("triton_bilinear" in str(node.target) for node in program.graph.nodes)
    more = torch.randn(7, 4), torch.randn(7, 5)
    assert torch.equal(program.module()(*more), layer(*more))
    torch.export.save(program, tmp_path / "layer.pt2")
    torch.save((*more, layer(*more).detach()), tmp_path / "data.pt")
    code = f"""
import torch, triton_bilinear
x, y, expected = torch.load({str(tmp_path / "data.pt")!r})
with triton_bilinear.use_backend({backend!r}):
    print(torch.allclose(torch.export.load({str(tmp_path / "layer.pt2")!r}).module()(x, y), expected))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"


@pytest.mark.usefixtures("_fresh_compiler", "either_path")
@pytest.mark.parametrize("outputs", [1, 6])
def test_no_more_graphs_than_linear(outputs):
    """Batch after batch without a word on what is dynamic: recompiled when torch's own layer is, and no more."""
    counts = []
    for layer, features in ((tb.Bilinear(4, 5, outputs), (4, 5)), (torch.nn.Linear(4, outputs), (4,))):
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for batch in (7, 3, 11, 64, 2, 1, 0):
            compiled(*(torch.randn(batch, size) for size in features)).sum().backward()
        counts.append(counter.frame_count)
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("outputs", [1, 6])
def test_sizes_that_depend_on_values(backend, outputs):
    """An unbacked batch size, forward and backward, and exported."""

    class Chosen(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = tb.Bilinear(4, 5, outputs, dtype=torch.float64)

        def forward(self, x, y, mask):
            rows = mask.nonzero().squeeze(1)
            return self.layer(x[rows], y[rows])

    module, (x, y, *_) = Chosen(), leaves_of(outputs)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for mask in ([1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]):
            rows = torch.tensor(mask)
            exact, result = module(x, y, rows), compiled(x, y, rows)
            assert_near(result, exact)
            for got, want in zip(*(torch.autograd.grad(r.sum(), (x, y)) for r in (result, exact)), strict=True):
                assert_near(got, want)
    with torch.no_grad():
        program = torch.export.export(module, (x, y, torch.tensor([1, 0, 1, 1, 0, 0]))).module()
        assert program(x, y, torch.tensor([0, 0, 0, 0, 1, 0])).shape == (1, outputs)


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_number_of_outputs_that_depends_on_values(backend, device):
    """With gradients, where an eager layer of few outputs would keep a product for backward."""

    def chosen(x, y, weight, mask):
        return tb.bilinear(x, y, weight[mask.nonzero().squeeze(1)])

    x, y, weight, _ = leaves_of(3, device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(chosen, fullgraph=True, backend="aot_eager")
        for mask in ([1, 0, 1], [0, 0, 0], [0, 1, 0]):
            rows = torch.tensor(mask, device=device)
            exact, result = oracle.bilinear(x, y, weight[rows.nonzero().squeeze(1)]), compiled(x, y, weight, rows)
            assert_near(result, exact)
            leaves = (x, y, weight)
            for got, want in zip(*(torch.autograd.grad(r.sum(), leaves) for r in (result, exact)), strict=True):
                assert_near(got, want)


@pytest.mark.usefixtures("_fresh_compiler", "either_path")
def test_two_unbacked_batches_need_to_be_told_equal():
    """As with any op of torch that does not broadcast; torch._check tells."""
    weight = torch.randn(6, 4, 5)

    def told(x, y):
        torch._check(x.shape[0] == y.shape[0])
        return tb.bilinear(x, y, weight)

    def inputs(batch):
        return torch.randn(batch, 4), torch.randn(batch, 5)

    def compiled(function):
        marked = inputs(6)
        for tensor in marked:
            torch._dynamo.decorators.mark_unbacked(tensor, 0)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        compiled(*marked)
        return compiled

    more = inputs(9)
    assert torch.equal(compiled(told)(*more), tb.bilinear(*more, weight))
    with pytest.raises(Exception, match="Could not guard on data-dependent expression"):
        compiled(lambda x, y: tb.bilinear(x, y, weight))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("outputs", [1, 6])
class TestDerivativesUnderCompile:
    @pytest.mark.usefixtures("either_path")
    def test_double_backward_of_a_compiled_function_is_refused(self, outputs):
        leaves = leaves_of(outputs)
        result = torch.compile(tb.bilinear, fullgraph=True, backend="aot_eager")(*leaves)
        (first,) = torch.autograd.grad(result.square().sum(), leaves[:1], create_graph=True)
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            torch.autograd.grad(first.sum(), leaves)

    @pytest.mark.usefixtures("either_path")
    def test_double_backward_inside_works(self, outputs):
        """A gradient penalty: the first backward in the graph, the second that of the graph."""

        def penalty(*leaves):
            grads = torch.autograd.grad(tb.bilinear(*leaves).square().sum(), leaves, create_graph=True)
            return sum(each.square().sum() for each in grads)

        leaves = leaves_of(outputs)
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")(*leaves)
        expected = torch.autograd.grad(penalty(*leaves), leaves)
        for got, want in zip(torch.autograd.grad(compiled, leaves), expected, strict=True):
            assert_near(got, want)

    @pytest.mark.usefixtures("either_path")
    def test_compiled_autograd(self, outputs):
        leaves = leaves_of(outputs)
        expected = torch.autograd.grad(tb.bilinear(*leaves).square().sum(), leaves)
        result = tb.bilinear(*leaves).square().sum()
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            result.backward()
        for leaf, want in zip(leaves, expected, strict=True):
            assert_near(leaf.grad, want)

    @pytest.mark.usefixtures("either_path")
    def test_transforms_of_torch_func(self, outputs):
        x, y, weight, _ = (leaf.detach() for leaf in leaves_of(outputs))

        def loss(weight, x, y):
            return tb.bilinear(x, y, weight).square().sum()

        for function in (
            vmap(grad(loss), (None, 0, 0)),
            hessian(loss),
            lambda weight, x, y: jvp(lambda w: tb.bilinear(x, y, w), (weight,), (weight,))[1],
        ):
            compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
            assert_near(compiled(weight, x, y), function(weight, x, y))

    def test_autocast(self, outputs):
        leaves = [leaf.detach().float().requires_grad_() for leaf in leaves_of(outputs)]
        compiled = torch.compile(tb.bilinear, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result, expected = compiled(*leaves), tb.bilinear(*leaves)
        assert result.dtype == torch.bfloat16
        assert torch.equal(result, expected)
        assert {each.dtype for each in torch.autograd.grad(result.sum(), leaves)} == {torch.float32}


# CUDA graphs. A capture allows launches and allocations from torch's pool: no value may be looked at, nothing may come
# from the host.


def test_the_triton_path_is_views_allocations_and_launches():
    run = run_standin("capture_calls:triton_path", "NVIDIA H100 80GB HBM3")
    assert run.value == {name: [] for name in capture_calls.CALLS}
    assert len(run.launches) >= 2 * len(capture_calls.CALLS)


@pytest.mark.parametrize("name", capture_calls.CALLS)
def test_the_path_of_torch_ops_looks_at_no_value(name):
    """The same ops whatever the values, none of which answers to the host or has a size that depends on values."""
    ones, nans = (capture_calls.ops_beneath(name, "torch", value) for value in (1.0, float("nan")))
    assert ones == nans
    tags = {tag for op in ones for tag in op.tags}
    assert not tags & {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


@pytest.mark.parametrize("name", capture_calls.CALLS)
def test_no_op_keeps_inductor_from_cuda_graphs(name):
    assert torch.Tag.cudagraph_unsafe not in getattr(torch.ops.triton_bilinear, name).default.tags


@pytest.mark.usefixtures("_fresh_compiler", "either_path")
def test_aotinductor_package(tmp_path):
    """A package runs, for any batch, in a process that imported this library, which has the ops; others say so."""
    layer, batch = tb.Bilinear(4, 5, 6), torch.export.Dim("batch")
    program = torch.export.export(
        layer, (torch.randn(3, 4), torch.randn(3, 5)), dynamic_shapes=({0: batch}, {0: batch})
    )
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
    more = torch.randn(9, 4), torch.randn(9, 5)
    torch.save((*more, layer(*more).detach()), tmp_path / "data.pt")
    run = f"""
x, y, expected = torch.load({str(tmp_path / "data.pt")!r})
print(torch.allclose(torch._inductor.aoti_load_package({package!r})(x, y), expected))
"""
    with_ops = subprocess.run(
        [sys.executable, "-c", f"import torch, triton_bilinear{run}"], check=True, capture_output=True, text=True
    )
    assert with_ops.stdout.strip() == "True"
    without = subprocess.run([sys.executable, "-c", f"import torch{run}"], check=False, capture_output=True, text=True)
    assert "triton_bilinear::contract" in without.stderr
