"""Derivatives: first, second, forward mode, through both paths; what is computed, what is kept, how exact it is."""

from __future__ import annotations

from collections import Counter

import oracle
import pytest
import torch
from oracle import assert_near
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import triton_bilinear as tb


def leaf(*shape, device="cpu", dtype=torch.float64):
    return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)


# L = 1 keeps a product for backward (of y, or of x alone), the others do not.
BILINEAR = [((3,), 1, 2, 4), ((3,), 3, 4, 2), ((), 2, 3, 3), ((2, 2), 4, 3, 5)]


def bilinear_leaves(batch, outputs, m, n, device="cpu", feature_dim=-1):
    x, y = (
        torch.randn(*batch, size, device=device, dtype=torch.float64).movedim(-1, feature_dim).requires_grad_()
        for size in (m, n)
    )
    return x, y, leaf(outputs, m, n, device=device), leaf(outputs, device=device)


PAIRWISE = [((2, 3), (4, 2), (2, 3, 2)), ((2, 1, 2), (2, 3, 3), (1, 2, 3)), ((2, 2, 2, 3), (2, 2, 3, 2), (2, 3, 2))]


@pytest.mark.parametrize("sizes", BILINEAR, ids=str)
def test_bilinear_every_mode_on_the_torch_path(sizes):
    leaves = bilinear_leaves(*sizes)
    with tb.use_backend("torch"):
        assert gradcheck(
            tb.bilinear, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
        )
        assert gradgradcheck(
            tb.bilinear, leaves, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
        )


@pytest.mark.parametrize("shapes", PAIRWISE, ids=str)
def test_pairwise_every_mode_on_the_torch_path(shapes):
    leaves = [leaf(*shape) for shape in (*shapes, shapes[2][:1])]
    with tb.use_backend("torch"):
        assert gradcheck(
            tb.pairwise_bilinear,
            leaves,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )
        assert gradgradcheck(
            tb.pairwise_bilinear, leaves, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
        )


def twice(function, leaves, backend):
    """First and second derivatives; through the interpreter a random projection of them, which is as sharp."""
    fast = backend == "triton"
    assert gradcheck(function, leaves, fast_mode=fast)
    assert gradgradcheck(function, leaves, fast_mode=fast)


@pytest.mark.parametrize("sizes", BILINEAR[:3], ids=str)
def test_bilinear_twice(backend, device, sizes):
    twice(tb.bilinear, bilinear_leaves(*sizes, device=device), backend)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("feature_dim", [0, 1])
def test_feature_dim_twice(backend, device, feature_dim, outputs):
    leaves = bilinear_leaves((2, 2), outputs, 3, 4, device, feature_dim)
    twice(lambda *tensors: tb.bilinear(*tensors, feature_dim=feature_dim), leaves, backend)


def test_bilinear_form_twice(backend, device):
    x, y, weight, _ = bilinear_leaves((3,), 1, 2, 4, device)
    twice(tb.bilinear_form, (x, y, weight.detach()[0].clone().requires_grad_()), backend)


@pytest.mark.parametrize("shapes", PAIRWISE[:2], ids=str)
def test_pairwise_twice(backend, device, shapes):
    twice(tb.pairwise_bilinear, [leaf(*shape, device=device) for shape in (*shapes, shapes[2][:1])], backend)


def test_third_derivative():
    """T is linear in each tensor: a third derivative over x, y and the weight is the product of the directions."""
    x, y, weight, _ = bilinear_leaves((2,), 2, 3, 4)
    result = tb.bilinear(x, y, weight).sum()
    for wrt in (x, y):
        result = torch.autograd.grad(result, wrt, torch.ones_like(result), create_graph=True)[0].sum()
    (third,) = torch.autograd.grad(result, weight)
    assert_near(third, torch.full_like(third, 2.0))


def test_same_tensor_twice():
    """x is y: both gradients land in one place."""
    x, weight = leaf(3, 4), leaf(2, 4, 4)
    assert gradcheck(lambda a, w: tb.bilinear(a, a, w), (x, weight))
    assert gradgradcheck(lambda a, w: tb.bilinear(a, a, w), (x, weight))


class Calls(TorchDispatchMode):
    """Counts the calls of our ops by name, in backward too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, name = func._schema.name.split("::")
        if namespace == "triton_bilinear":
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


# What a backward pass runs for the gradients of x, y, the weight and the bias that are wanted.
WANTED = pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("x", {"contract": 1}),
        ("y", {"contract": 1}),
        ("w", {"grad_weight": 1}),
        ("b", {}),
        ("xy", {"grad_inputs": 1}),
        ("xw", {"contract": 1, "grad_weight": 1}),
        ("xywb", {"grad_inputs": 1, "grad_weight": 1}),
    ],
)


@WANTED
def test_only_what_is_asked_for_is_computed(wanted, expected):
    tensors = [t.detach() for t in bilinear_leaves((3,), 20, 4, 5)]
    leaves = [t.requires_grad_() for name, t in zip("xywb", tensors, strict=True) if name in wanted]
    with Calls() as forward:
        result = tb.bilinear(*tensors)
    assert forward.names == {"contract": 1}
    with Calls() as calls:
        torch.autograd.grad(result, leaves, torch.ones_like(result))
    assert calls.names == expected


@pytest.mark.parametrize("asked", ["leaves", "results"])
@WANTED
def test_of_what_requires_grad_only_what_is_asked_for_is_computed(wanted, expected, asked):
    """As for a force, which is no gradient of the weights: they require grad, and are not asked for."""
    tensors = [leaf(*shape) for shape in ((3, 4), (3, 5), (20, 4, 5), (20,))]
    if asked == "results":
        tensors = [2 * tensor for tensor in tensors]
    with Calls():  # a tiny layer is made of our ops where somebody looks
        result = tb.bilinear(*tensors)
    chosen = [tensor for name, tensor in zip("xywb", tensors, strict=True) if name in wanted]
    with Calls() as calls:
        grads = torch.autograd.grad(result, chosen, torch.ones_like(result), retain_graph=True)
    assert calls.names == expected
    exact = oracle.gradients(oracle.bilinear, [t.detach() for t in tensors], torch.ones_like(result))
    for got, name in zip(grads, wanted, strict=True):
        assert_near(got, exact["xywb".index(name)])
    with Calls() as calls:
        result.sum().backward()
    assert calls.names == {"grad_inputs": 1, "grad_weight": 1}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("x", {}), ("y", {}), ("xy", {"contract": 1}), ("xyw", {"contract": 1, "grad_weight": 1})],
)
@pytest.mark.parametrize("feature_dim", [-1, 0])
def test_a_small_product_is_kept(wanted, expected, feature_dim):
    """One output: forward keeps x A (or, where only x is to be trained, A y), which is the gradient but for g."""
    tensors = [t.detach() for t in bilinear_leaves((6,), 1, 4, 5, feature_dim=feature_dim)]
    leaves = [t.requires_grad_() for name, t in zip("xyw", tensors[:3], strict=True) if name in wanted]
    with Calls() as forward:
        result = tb.bilinear(*tensors, feature_dim=feature_dim)
    assert forward.names == {"contract_keep": 1}
    cotangent = torch.randn_like(result)
    with Calls() as calls:
        grads = torch.autograd.grad(result, leaves, cotangent)
    assert calls.names == expected
    exact = oracle.gradients(lambda *t: oracle.bilinear(*t, feature_dim=feature_dim), tensors, cotangent)
    for grad, name in zip(grads, wanted, strict=True):
        assert_near(grad, exact["xyw".index(name)])


def test_nothing_is_kept_without_gradients():
    tensors = [t.detach() for t in bilinear_leaves((3,), 1, 4, 5)]
    with Calls() as calls:
        tb.bilinear(*tensors)
        with torch.no_grad():
            tb.bilinear(*(t.requires_grad_() for t in tensors))
    assert calls.names == {"contract": 2}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("x", {"pairwise_grad_x": 1}), ("y", {"pairwise_grad_x": 1}), ("w", {"pairwise_grad_weight": 1}), ("b", {})],
)
def test_pairwise_only_what_is_asked_for_is_computed(wanted, expected):
    tensors = [leaf(*shape).detach() for shape in ((2, 3, 4), (2, 5, 6), (3, 4, 6), (3,))]
    tensors["xywb".index(wanted)].requires_grad_()
    result = tb.pairwise_bilinear(*tensors)
    with Calls() as calls:
        result.backward(torch.ones_like(result))
    assert calls.names == expected


def saved_tensors(function):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        function()
    return saved


def test_a_factor_is_saved_only_for_the_others_sake():
    x, y, weight, _ = (t.detach() for t in bilinear_leaves((3,), 20, 4, 5))
    x.requires_grad_()
    assert {t.data_ptr() for t in saved_tensors(lambda: tb.bilinear(x, y, weight))} == {y.data_ptr(), weight.data_ptr()}


def test_tangents_without_requires_grad(backend, device):
    x, y, weight, bias = (t.detach() for t in bilinear_leaves((2,), 2, 3, 4, device))
    tx, tb_ = torch.randn_like(x), torch.randn_like(bias)
    with forward_ad.dual_level():
        dual = tb.bilinear(forward_ad.make_dual(x, tx), y, weight, forward_ad.make_dual(bias, tb_))
        tangent = forward_ad.unpack_dual(dual).tangent
    assert_near(tangent, oracle.bilinear(tx, y, weight, tb_))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 64, 1024])
def test_error_does_not_grow_with_the_outputs(dtype, outputs):
    """Each gradient is rounded once, or twice where a product is rounded first, whatever L is."""
    tensors = [t.detach().to(dtype) for t in bilinear_leaves((32,), outputs, 24, 16)]
    leaves = [t.requires_grad_() for t in tensors]
    with tb.use_backend("torch"):
        result = tb.bilinear(*leaves)
        cotangent = torch.randn_like(result)
        grads = torch.autograd.grad(result, leaves, cotangent)
    assert_near(result, oracle.bilinear(*leaves), 2)
    for grad, exact in zip(grads, oracle.gradients(oracle.bilinear, leaves, cotangent), strict=True):
        assert_near(grad, exact, 2)


def test_backward_is_the_same_every_time(backend, device):
    leaves = bilinear_leaves((5,), 3, 4, 6, device)

    def grads():
        result = tb.bilinear(*leaves)
        return torch.autograd.grad(result, leaves, torch.ones_like(result))

    assert all(torch.equal(first, second) for first, second in zip(grads(), grads(), strict=True))


@pytest.mark.parametrize("outputs", [1, 2, 4])
@pytest.mark.parametrize("along", ["x", "y", "weight", "bias"])
def test_a_tangent_of_one_tensor_alone(along, outputs):
    """Forward mode over what requires grad, and over its gradients, all of which need a tangent, be it zero."""
    names = ("x", "y", "weight", "bias")
    leaves = dict(zip(names, bilinear_leaves((3,), outputs, 4, 5), strict=True))
    direction = torch.randn_like(leaves[along])

    def gradients(*tensors):
        return torch.func.grad(lambda *t: tb.bilinear(*t).square().sum(), (0, 1, 2))(*tensors)

    with forward_ad.dual_level():
        duals = leaves | {along: forward_ad.make_dual(leaves[along], direction)}
        result = tb.bilinear(*duals.values())
        tangents = [
            forward_ad.unpack_dual(t).tangent
            for t in (result, *torch.autograd.grad(result.square().sum(), [leaves[name] for name in names[:3]]))
        ]
    index = names.index(along)
    plain = [leaf.detach() for leaf in leaves.values()]
    step = [direction if i == index else torch.zeros_like(t) for i, t in enumerate(plain)]
    expected = torch.func.jvp(lambda *t: (oracle.bilinear(*t), *gradients(*t)), tuple(plain), tuple(step))[1]
    for got, want in zip(tangents, expected, strict=True):
        assert_near(torch.zeros_like(want) if got is None else got, want, factor=32)  # neither is exact


@pytest.mark.parametrize("outputs", [1, 4])
def test_vectorised_forward_mode(outputs):
    x, y, weight, bias = (leaf.detach() for leaf in bilinear_leaves((3,), outputs, 4, 5))
    function = torch.autograd.functional.jacobian
    options = {"strategy": "forward-mode", "vectorize": True}
    for of, point in ((lambda x: tb.bilinear(x, y, weight, bias), x), (lambda w: tb.bilinear(x, y, w, bias), weight)):
        assert_near(function(of, point, **options), function(of, point))
