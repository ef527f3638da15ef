"""At home in torch: opcheck, transforms, autocast, checkpointing, counters, symbolic tracing."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from itertools import product

import oracle
import pytest
import torch
from oracle import assert_near
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

import triton_bilinear as tb

X, Y, G, W = (3, 4), (3, 5), (3, 2), (2, 4, 5)
OPS = {
    "contract": [(X, Y, W, (2,), -1), (X, Y, W, None, -1), ((4, 3), (5, 3), W, (2,), -2)],
    "contract_keep": [(X, Y, W, (2,), -1), ((4, 3), (5, 3), W, None, -2)],
    "grad_inputs": [(G, X, Y, W, -1), ((2, 3), (4, 3), (5, 3), W, -2)],
    "grad_weight": [(G, X, Y, -1), ((2, 3), (4, 3), (5, 3), -2)],
    "pairwise": [((2, 3, 4), (2, 6, 5), W, (2,)), ((3, 4), (6, 5), W, None)],
    "pairwise_grad_x": [((2, 2, 3, 6), (2, 6, 5), W)],
    "pairwise_grad_weight": [((2, 2, 3, 6), (2, 3, 4), (2, 6, 5))],
}
CASES = [(name, case) for name, cases in OPS.items() for case in cases]


@pytest.fixture(autouse=True)
def _no_fallback():
    """A vmap fallback, or any other slow path that torch warns of, is a failure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(performance drop|fallback|batching rule).*")
        yield


def tensor(*shape, device="cpu", requires_grad=False):
    return torch.randn(shape, device=device, dtype=torch.float64, requires_grad=requires_grad)


def op_arguments(shapes, device="cpu", requires_grad=False):
    return tuple(
        tensor(*shape, device=device, requires_grad=requires_grad) if isinstance(shape, tuple) else shape
        for shape in shapes
    )


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("name", "shapes"), CASES, ids=str)
def test_opcheck(backend, device, name, shapes, requires_grad):
    op = getattr(torch.ops.triton_bilinear, name).default
    torch.library.opcheck(op, op_arguments(shapes, device, requires_grad))


@pytest.mark.parametrize("count", [3, 0])
@pytest.mark.parametrize(("name", "shapes"), CASES, ids=str)
@pytest.mark.usefixtures("either_path")
def test_vmap_of_every_op_over_every_combination(name, shapes, count):
    """vmap(op) is a loop over op, whichever of its tensors are mapped, and along whichever axis, be it of size 0."""
    op = getattr(torch.ops.triton_bilinear, name)
    tensors = [index for index, shape in enumerate(shapes) if isinstance(shape, tuple)]
    for mapped in product([False, True], repeat=len(tensors)):
        if not any(mapped):
            continue
        dims, stacked = [None] * len(shapes), list(op_arguments(shapes))
        for index, is_mapped in zip(tensors, mapped, strict=True):
            if is_mapped:
                dims[index] = index % 2 - 1 if index else 0
                stacked[index] = tensor(count, *shapes[index]).movedim(0, dims[index])
        result = vmap(op, in_dims=tuple(dims))(*stacked)
        plain = op(*op_arguments(shapes))
        for got, one in zip(*((r if isinstance(r, tuple) else (r,)) for r in (result, plain)), strict=True):
            assert got.shape == (count, *one.shape)
        for number in range(count):
            slices = [s if d is None else s.select(d, number) for s, d in zip(stacked, dims, strict=True)]
            one = op(*slices)
            if isinstance(one, tuple):
                for got, expected in zip(result, one, strict=True):
                    assert_near(got[number], expected)
            else:
                assert_near(result[number], one)


@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.usefixtures("either_path")
def test_weights_and_samples_that_differ(batch):
    """Small batches go through batched products, large ones one by one: the same numbers and gradients."""
    x, y = tensor(3, batch, 4, requires_grad=True), tensor(3, batch, 5, requires_grad=True)
    weight, bias = tensor(3, 2, 4, 5, requires_grad=True), tensor(3, 2, requires_grad=True)
    result = vmap(tb.bilinear)(x, y, weight, bias)
    exact = torch.einsum("vbm,vlmn,vbn->vbl", x, weight, y) + bias[:, None]
    assert_near(result, exact)
    cotangent = torch.randn_like(result)
    leaves = (x, y, weight, bias)
    expected = torch.autograd.grad(exact, leaves, cotangent)
    for got, want in zip(torch.autograd.grad(result, leaves, cotangent), expected, strict=True):
        assert_near(got, want)


def test_vmap_on_either_path(backend, device):
    x, y, weight = tensor(2, 3, 4, device=device), tensor(2, 3, 5, device=device), tensor(2, 2, 4, 5, device=device)
    assert_near(vmap(tb.bilinear, (0, 0, None))(x, y, weight[0]), oracle.bilinear(x, y, weight[0]))
    over_weights = vmap(tb.bilinear, (None, None, 0))(x[0], y[0], weight)
    assert_near(over_weights, torch.stack([oracle.bilinear(x[0], y[0], each) for each in weight]))


@pytest.mark.parametrize("outputs", [1, 6])
@pytest.mark.usefixtures("either_path")
def test_gradients_for_each_sample(outputs):
    layer = tb.Bilinear(4, 5, outputs).double()
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    x, y = tensor(7, 4), tensor(7, 5)

    def loss(parameters, x, y):
        return functional_call(layer, parameters, (x, y)).square().sum()

    grads = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for number in range(len(x)):
        expected = grad(loss)(parameters, x[number], y[number])
        for name, value in expected.items():
            assert_near(grads[name][number], value)


@pytest.mark.parametrize("outputs", [1, 6])
@pytest.mark.usefixtures("either_path")
def test_jacobians_and_hessians(outputs):
    x, y, weight = tensor(4), tensor(5), tensor(outputs, 4, 5)

    def exact(x, y, weight):
        return torch.einsum("m,lmn,n->l", x, weight, y)

    for wrt in range(3):
        want = jacrev(exact, wrt)(x, y, weight)
        assert_near(jacrev(tb.bilinear, wrt)(x, y, weight), want)
        assert_near(jacfwd(tb.bilinear, wrt)(x, y, weight), want)
    ours = hessian(lambda *t: tb.bilinear(*t).square().sum(), (0, 1, 2))(x, y, weight)
    theirs = hessian(lambda *t: exact(*t).square().sum(), (0, 1, 2))(x, y, weight)
    for row, column in product(range(3), repeat=2):
        assert_near(ours[row][column], theirs[row][column])


@pytest.mark.parametrize("outputs", [1, 6])
@pytest.mark.usefixtures("either_path")
def test_jacobians_of_nothing(outputs):
    x, y, weight = tensor(0, 4), tensor(0, 5), tensor(outputs, 4, 5)
    for wrt, argument in enumerate((x, y, weight)):
        assert jacrev(tb.bilinear, wrt)(x, y, weight).shape == (0, outputs, *argument.shape)
    assert jacrev(tb.pairwise_bilinear, 2)(x, y, weight).shape == (outputs, 0, 0, *weight.shape)


@pytest.mark.usefixtures("either_path")
def test_pairwise_jacobians_and_hessians():
    x, y, weight = tensor(2, 3), tensor(3, 2), tensor(2, 3, 2)

    def exact(x, y, weight):
        return torch.einsum("sm,lmn,tn->lst", x, weight, y)

    ours = hessian(lambda *t: tb.pairwise_bilinear(*t).square().sum(), (0, 1, 2))(x, y, weight)
    theirs = hessian(lambda *t: exact(*t).square().sum(), (0, 1, 2))(x, y, weight)
    for row, column in product(range(3), repeat=2):
        assert_near(ours[row][column], theirs[row][column])


@pytest.mark.usefixtures("either_path")
def test_jvp_and_nesting():
    x, y, weight = tensor(3, 4), tensor(3, 5), tensor(6, 4, 5)
    tx, tw = torch.randn_like(x), torch.randn_like(weight)
    primal, tangent = jvp(lambda x, w: tb.bilinear(x, y, w), (x, weight), (tx, tw))
    assert_near(primal, oracle.bilinear(x, y, weight))
    assert_near(tangent, oracle.bilinear(tx, y, weight) + oracle.bilinear(x, y, tw))
    product_rule = grad(lambda y: jvp(lambda w: tb.bilinear(x, y, w).sum(), (weight,), (tw,))[1])(y)
    assert_near(product_rule, torch.einsum("bm,lmn->bn", x, tw))


def leaves_of(outputs, device, batch=6):
    return tuple(
        tensor(*shape, device=device, requires_grad=True)
        for shape in ((batch, 4), (batch, 5), (outputs, 4, 5), (outputs,))
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(backend, device, reentrant):
    leaves = leaves_of(6, device, 3)
    result = checkpoint(tb.bilinear, *leaves, use_reentrant=reentrant)
    result.sum().backward()
    expected = oracle.gradients(oracle.bilinear, leaves, torch.ones_like(result))
    for got, want in zip(leaves, expected, strict=True):
        assert_near(got.grad, want)


def test_flops_are_counted_in_units():
    """Forward, both inputs' gradients together, and the weight's: 2*B*L*M*N each, three a step."""
    from torch.utils.flop_counter import FlopCounterMode

    unit = 2 * 6 * 20 * 4 * 5
    leaves = leaves_of(20, "cpu")
    with FlopCounterMode(display=False) as counter:
        result = tb.bilinear(*leaves)
        assert counter.get_total_flops() == unit
        result.sum().backward()
    assert counter.get_total_flops() == 3 * unit
    with FlopCounterMode(display=False) as counter:
        tb.bilinear(tensor(4, 2, 3), tensor(5, 2, 3), tensor(7, 4, 5), feature_dim=0)
    assert counter.get_total_flops() == 2 * (2 * 3) * 7 * 4 * 5


def test_flops_of_pairwise_are_those_of_two_products():
    from torch.utils.flop_counter import FlopCounterMode

    x, y, weight = tensor(2, 3, 4, requires_grad=True), tensor(2, 6, 5, requires_grad=True), tensor(7, 4, 5)
    per_form = 2 * min(3 * 4 * 5 + 3 * 5 * 6, 4 * 5 * 6 + 3 * 4 * 6)
    with FlopCounterMode(display=False) as counter:
        tb.pairwise_bilinear(x, y, weight)
        assert counter.get_total_flops() == 2 * 7 * per_form


def test_flop_formulas_do_not_depend_on_the_order_of_imports():
    use = """
x = torch.ones(2, 3)
with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
    tb.bilinear(x, x, torch.ones(4, 3, 3))
print(counter.get_total_flops())
"""
    package, counter = "import torch, triton_bilinear as tb", "import torch.utils.flop_counter"
    for first, second in ((package, counter), (counter, package)):
        code = f"{first}\n{second}\n{use}"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == str(2 * 2 * 4 * 3 * 3)


def test_profiler_shows_the_ops_by_name(backend, device):
    leaves = leaves_of(20, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tb.bilinear(*leaves).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"triton_bilinear::contract", "triton_bilinear::grad_inputs", "triton_bilinear::grad_weight"} <= names


def test_gradient_scaling_in_half_precision(backend, device):
    """GradScaler with float16 autocast: the loss goes down, nothing overflows for good."""
    layer = tb.Bilinear(6, 5, 4, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.type)
    x, y, target = (torch.randn(32, features, device=device) for features in (6, 5, 4))
    losses = []
    for _ in range(20):
        with torch.autocast(device.type, dtype=torch.float16):
            loss = (layer(x, y).float() - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert losses[-1] < 0.9 * losses[0]


def test_the_ops_own_arithmetic_is_not_autocast():
    """Backward inside an autocast region keeps the dtype, and the accuracy, of the forward."""
    leaves = leaves_of(6, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = torch.ops.triton_bilinear.contract(*leaves, -1)
        grads = torch.autograd.grad(result, leaves[:3], torch.ones_like(result))
    assert_near(result, oracle.bilinear(*leaves))
    for got, want in zip(grads, oracle.gradients(oracle.bilinear, leaves, torch.ones_like(result)), strict=False):
        assert_near(got, want)
    singles = [leaf.detach().float() for leaf in leaves]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = torch.ops.triton_bilinear.contract(*singles, -1)
    assert_near(result, oracle.bilinear(*singles))


class Scores(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.pairs = tb.Bilinear(4, 5, 6), tb.PairwiseBilinear(4, 5, 6)

    def forward(self, x, y):
        return self.layer(x, y).relu(), self.pairs(x, y)


def test_symbolic_tracing():
    """torch.fx records a call of our functions; the graph module computes the same, also once pickled."""
    model, x, y = Scores(), torch.randn(3, 4), torch.randn(3, 5)
    traced = torch.fx.symbolic_trace(model)
    called = {node.target for node in traced.graph.nodes if node.op == "call_function"}
    assert called == {tb.bilinear, tb.pairwise_bilinear}
    for module in (traced, pickle.loads(pickle.dumps(traced))):
        for got, want in zip(module(x, y), model(x, y), strict=True):
            assert torch.equal(got, want)


def test_forward_mode_over_forward_mode(backend, device):
    """Mixed second derivatives, of which an outer level lost in an inner jvp would leave zero."""
    x, y, weight = tensor(2, 3, device=device), tensor(2, 4, device=device), tensor(3, 3, 4, device=device)
    tx, ty = torch.randn_like(x), torch.randn_like(y)

    def along_y(x):
        return jvp(lambda y: tb.bilinear(x, y, weight), (y,), (ty,))[1]

    assert_near(jvp(along_y, (x,), (tx,))[1], oracle.bilinear(tx, ty, weight))


def test_derivatives_of_one_sample_on_either_path(backend, device):
    """Per-sample gradients, a Jacobian either way and a Hessian, small enough for the interpreter."""
    x, y, weight = tensor(2, 2, device=device), tensor(2, 3, device=device), tensor(2, 2, 3, device=device)

    def exact(x, y, weight):
        return torch.einsum("...m,lmn,...n->...l", x, weight, y)

    def of(function):
        def loss(weight, x, y):
            return function(x, y, weight).square().sum()

        return (
            vmap(grad(loss), (None, 0, 0))(weight, x, y),
            jacrev(function, 2)(x[0], y[0], weight),
            jacfwd(function, 0)(x[0], y[0], weight),
            hessian(loss, 1)(weight, x[0], y[0]),
        )

    for ours, theirs in zip(of(tb.bilinear), of(exact), strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (tb.bilinear, ((2, 3), (2, 4), (5, 3, 4), (5,))),
        (tb.bilinear_form, ((2, 3), (2, 4), (3, 4))),
        (tb.pairwise_bilinear, ((2, 3), (6, 4), (5, 3, 4), (5,))),
    ],
    ids=["bilinear", "bilinear_form", "pairwise_bilinear"],
)
class TestTorchFunction:
    """Whatever overrides torch's functions sees a call of ours as one function, as it does F.bilinear."""

    def test_a_graph_has_one_node(self, function, shapes):
        tensors = [torch.randn(shape) for shape in shapes]
        traced = torch.fx.symbolic_trace(function)
        assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [function]
        assert torch.equal(traced(*tensors), function(*tensors))

    @pytest.mark.parametrize("index", [0, 2])
    def test_a_subclass(self, function, shapes, index):
        seen = []

        class Sub(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                seen.append(func)
                return super().__torch_function__(func, types, args, kwargs or {})

        tensors = [torch.randn(shape) for shape in shapes]
        right = function(*tensors)
        tensors[index] = tensors[index].as_subclass(Sub)
        seen.clear()
        found = function(*tensors)
        assert seen == [function]
        assert type(found) is Sub
        assert torch.equal(found.as_subclass(torch.Tensor), right)

    def test_a_mode(self, function, shapes):
        seen = []

        class Mode(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                seen.append(func)
                return func(*args, **(kwargs or {}))

        tensors = [torch.randn(shape) for shape in shapes]
        with Mode():
            found = function(*tensors)
        assert seen == [function]
        assert torch.equal(found, function(*tensors))
