"""The checks that torch's own test-suite makes of every operator with an OpInfo, made of ours.

The OpInfo of torch.nn.functional.bilinear, with our function in its place, our own samples beside torch's, and none of
its exemptions; and one for pairwise_bilinear. Check functions are torch's where its wheel has them (gradients,
composite compliance, fake tensors, AOTAutograd, make_fx); what lies in its test files alone is written again here.
Classes and tests are named after torch's. The primitives are opaque, so which backend computes them makes no difference
here; values and gradients of all of torch's samples on either backend are test_torch_contract.py's.
"""

# These are unittest's classes, as torch's machinery wants them; its assertEqual compares tensors.
# ruff: noqa: PT009, PT027

from __future__ import annotations

import copy
import itertools
import warnings

import oracle
import pytest
import torch
from torch.func import jvp, vjp, vmap

import triton_bilinear as tb

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("expecttest")
    from torch._subclasses.schema_check_mode import SchemaCheckMode
    from torch.testing._internal import composite_compliance, optests
    from torch.testing._internal.common_device_type import instantiate_device_type_tests, ops
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_utils import TestCase, TestGradients
    from torch.testing._internal.opinfo.core import OpInfo, SampleInput

TORCHS = next(info for info in op_db if info.name == "nn.functional.bilinear")
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64)

# Shapes that torch's samples leave out, as (x, y, weight, options): one output, many, no output, features first.
MORE = (
    ((2, 4), (2, 5), (1, 4, 5), {}),
    ((4,), (5,), (1, 4, 5), {}),
    ((2, 1), (2, 5), (9, 1, 5), {}),
    ((2, 4), (2, 5), (0, 4, 5), {}),
    ((3, 2, 4), (5, 2, 4), (4, 3, 5), {"feature_dim": 0}),
)
PAIRWISE = (
    ((2, 4), (3, 5), (1, 4, 5)),
    ((2, 3, 4), (2, 2, 5), (3, 4, 5)),
    ((0, 3, 4), (0, 2, 5), (3, 4, 5)),
    ((2, 0, 4), (2, 2, 5), (3, 4, 5)),
    ((2, 1, 2, 4), (2, 1, 3, 5), (2, 4, 5)),
)


def made(shape, device, dtype, requires_grad):
    return torch.testing.make_tensor(shape, device=device, dtype=dtype, requires_grad=requires_grad, low=-2, high=2)


def bilinear_samples(info, device, dtype, requires_grad, **kwargs):
    """Torch's samples of 3, 4 and 5 features (those of 8, 8 and 8 differ in nothing else), and ours."""
    for sample in TORCHS.sample_inputs_func(info, device, dtype, requires_grad, **kwargs):
        if sample.input.shape[-1] == 3:
            yield sample
    for *shapes, options in MORE:
        for bias in ([], [shapes[2][:1]]):
            first, *rest = (made(shape, device, dtype, requires_grad) for shape in (*shapes, *bias))
            yield SampleInput(first, args=tuple(rest), kwargs=options)


def pairwise_samples(info, device, dtype, requires_grad, **kwargs):
    for shapes, with_bias in itertools.product(PAIRWISE, (False, True)):
        bias = [shapes[2][:1]] if with_bias else []
        first, *rest = (made(shape, device, dtype, requires_grad) for shape in (*shapes, *bias))
        yield SampleInput(first, args=tuple(rest))


def info_of(name, function, reference, samples) -> OpInfo:
    info = copy.copy(TORCHS)
    info.name, info.op, info.ref, info.sample_inputs_func = name, function, reference, samples
    info.aten_name = name
    info.decorators, info.gradcheck_fast_mode = (), True
    info.check_batched_grad = info.check_batched_gradgrad = info.check_batched_forward_grad = True
    info.supports_cow_input_no_materialize_forward = info.supports_cow_input_no_materialize_backward = True
    return info


OPS = [
    info_of("triton_bilinear.bilinear", tb.bilinear, oracle.bilinear, bilinear_samples),
    info_of("triton_bilinear.pairwise_bilinear", tb.pairwise_bilinear, oracle.pairwise, pairwise_samples),
]
in_double = ops(OPS, allowed_dtypes=(torch.float64,))


@pytest.fixture(autouse=True)
def _no_fallback():
    """Torch warns where vmap has no rule and loops instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(performance drop|fallback|batching rule).*")
        yield


def arguments(sample):
    return (sample.input, *sample.args)


class TestBwdGradients(TestGradients):
    @in_double
    def test_fn_grad(self, device, dtype, op):
        self._grad_test_helper(device, dtype, op, op.get_op())

    @in_double
    def test_fn_gradgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "bwgrad_bwgrad")


class TestFwdGradients(TestGradients):
    @in_double
    def test_forward_mode_AD(self, device, dtype, op):
        self._grad_test_helper(
            device,
            dtype,
            op,
            op.get_op(),
            check_forward_ad=True,
            check_backward_ad=False,
            check_batched_grad=False,
            check_batched_forward_grad=True,
        )

    @in_double
    def test_fn_fwgrad_bwgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "fwgrad_bwgrad")


class TestCompositeCompliance(TestCase):
    """With tensor subclasses in any of the places, no op looks behind their back."""

    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_operator(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            composite_compliance.check_with_mode(op, arguments(sample), sample.kwargs, self.assertEqual)
            composite_compliance.check_all_permutations(op, arguments(sample), sample.kwargs, self.assertEqual)

    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_backward(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            composite_compliance.check_backward_formula(
                op.get_op(), arguments(sample), sample.kwargs, assert_equal_fn=self.assertEqual
            )

    def check_forward_ad(self, op, samples):
        for sample in samples:
            composite_compliance.check_forward_ad_formula(
                op.get_op(), arguments(sample), sample.kwargs, assert_equal_fn=self.assertEqual
            )

    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_forward_ad(self, device, dtype, op):
        """Subclasses in any of the places, tangents' too: 2^8 calls for each sample."""
        self.check_forward_ad(op, list(op.sample_inputs(device, dtype, requires_grad=True))[-1:])

    @pytest.mark.slow
    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_forward_ad_every_sample(self, device, dtype, op):
        self.check_forward_ad(op, op.sample_inputs(device, dtype, requires_grad=True))

    @in_double
    def test_cow_input(self, device, dtype, op):
        """A lazy clone stays lazy: forward and backward read their inputs and do nothing else to them."""
        for sample in op.sample_inputs(device, dtype):
            lazy = [tensor._lazy_clone().requires_grad_() for tensor in arguments(sample)]
            result = op(*lazy, **sample.kwargs)
            cotangent = torch.randn_like(result)._lazy_clone()
            torch.autograd.grad(result, lazy, cotangent)
            self.assertTrue(all(torch._C._is_cow_tensor(tensor) for tensor in (*lazy, cotangent)))


class TestFakeTensor(TestCase):
    """Fake tensors have the shapes, strides, dtypes, devices and aliasing of real ones, op for op."""

    def crossref(self, device, dtype, op, context):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            with torch._subclasses.CrossRefFakeMode(), context():
                result = op(*arguments(sample), **sample.kwargs)
                torch.autograd.grad(result.sum(), arguments(sample))

    @in_double
    def test_fake_crossref_backward_no_amp(self, device, dtype, op):
        self.crossref(device, dtype, op, warnings.catch_warnings)

    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_fake_crossref_backward_amp(self, device, dtype, op):
        kind = torch.device(device).type
        self.crossref(device, dtype, op, lambda: torch.autocast(kind, dtype=torch.bfloat16))

    @in_double
    def test_fake(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            real = op(*arguments(sample), **sample.kwargs)
            with torch._subclasses.FakeTensorMode() as mode:
                fake = op(*(mode.from_tensor(tensor) for tensor in arguments(sample)), **sample.kwargs)
            self.assertEqual(
                (fake.shape, fake.stride(), fake.dtype, fake.device),
                (real.shape, real.stride(), real.dtype, real.device),
            )


class TestCommon(TestCase):
    @ops(OPS, allowed_dtypes=(*FLOATS, *HALVES))
    def test_compare_reference(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            expected = op.ref(*arguments(sample), **sample.kwargs)
            self.assertEqual(op(*arguments(sample), **sample.kwargs), expected.to(dtype))

    @ops(OPS, allowed_dtypes=FLOATS)
    def test_noncontiguous_samples(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            spread = sample.noncontiguous()
            results = [op(*arguments(each), **each.kwargs) for each in (sample, spread)]
            self.assertEqual(*results)
            cotangent = torch.randn_like(results[0])
            gradients = [
                torch.autograd.grad(result, arguments(each), cotangent)
                for result, each in zip(results, (sample, spread), strict=True)
            ]
            self.assertEqual(*gradients)

    @ops(OPS, dtypes=[torch.int64, torch.bool, torch.complex64])
    def test_dtypes(self, device, dtype, op):
        """Half, single and double are what is supported; the rest is refused."""
        for sample in itertools.islice(op.sample_inputs(device, torch.float32), 1):
            with self.assertRaisesRegex(RuntimeError, "expected float16, bfloat16, float32 or float64"):
                op(*(tensor.to(dtype) for tensor in arguments(sample)), **sample.kwargs)

    @in_double
    def test_variant_consistency_eager(self, device, dtype, op):
        """The same values whether or not a graph is recorded, and arguments as they were."""
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            before = [tensor.clone() for tensor in arguments(sample)]
            recorded = op(*arguments(sample), **sample.kwargs)
            with torch.no_grad():
                self.assertEqual(op(*arguments(sample), **sample.kwargs), recorded)
            recorded.sum().backward()
            self.assertEqual(list(arguments(sample)), before)


class TestSchemaCheckModeOpInfo(TestCase):
    """What the schemas say of mutation and aliasing, checked while the ops run, forward and backward."""

    @ops(OPS, allowed_dtypes=(torch.float64, torch.float32))
    def test_schema_correctness(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            with SchemaCheckMode():
                result = op(*arguments(sample), **sample.kwargs)
                torch.autograd.grad(result.sum(), arguments(sample))


class TestMeta(TestCase):
    """On meta tensors: the shape, strides and dtype of the real result."""

    @ops(OPS, allowed_dtypes=(*HALVES, *FLOATS))
    def test_dispatch_meta_outplace(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            real = op(*arguments(sample), **sample.kwargs)
            meta = op(*(argument.to("meta") for argument in arguments(sample)), **sample.kwargs)
            self.assertEqual((meta.shape, meta.stride(), meta.dtype), (real.shape, real.stride(), real.dtype))


class TestExportOpInfo(TestCase):
    """Exported, and run on other values."""

    @in_double
    def test_fake_export(self, device, dtype, op):
        for sample in list(op.sample_inputs(device, dtype))[-2:]:
            module = Applied(op, sample.kwargs)
            program = torch.export.export(module, arguments(sample)).module()
            others = tuple(torch.randn_like(argument) for argument in arguments(sample))
            self.assertEqual(program(*others), module(*others))


class Applied(torch.nn.Module):
    """An op with its keywords as a module."""

    def __init__(self, op, keywords):
        super().__init__()
        self.op, self.keywords = op, keywords

    def forward(self, *tensors):
        return self.op(*tensors, **self.keywords)


class TestMathBits(TestCase):
    @in_double
    def test_neg_view(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            leaves = [tensor.requires_grad_() for tensor in arguments(sample)]
            lazy = [torch._neg_view((-tensor).detach()).requires_grad_() for tensor in leaves]
            self.assertTrue(all(tensor.is_neg() for tensor in lazy))
            results = [op(*tensors, **sample.kwargs) for tensors in (leaves, lazy)]
            self.assertEqual(*results)
            self.assertEqual(*(torch.autograd.grad(r.sum(), t) for r, t in zip(results, (leaves, lazy), strict=True)))


class TestEagerFusionOpInfo(TestCase):
    def check(self, device, dtype, op, dynamic):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            optests.aot_autograd_check(
                op.get_op(), arguments(sample), sample.kwargs, dynamic, self.assertRaisesRegex, self.assertEqual
            )

    @in_double
    def test_aot_autograd_exhaustive(self, device, dtype, op):
        self.check(device, dtype, op, dynamic=False)

    @in_double
    def test_aot_autograd_symbolic_exhaustive(self, device, dtype, op):
        self.check(device, dtype, op, dynamic=True)


class TestProxyTensorOpInfo(TestCase):
    def check(self, device, dtype, op, mode):
        for sample in op.sample_inputs(device, dtype):
            optests.make_fx_check(op.get_op(), arguments(sample), sample.kwargs, mode, self.assertEqual, True)

    @in_double
    def test_make_fx_exhaustive(self, device, dtype, op):
        self.check(device, dtype, op, "real")

    @in_double
    def test_make_fx_fake_exhaustive(self, device, dtype, op):
        self.check(device, dtype, op, "fake")

    @in_double
    def test_make_fx_symbolic_exhaustive(self, device, dtype, op):
        self.check(device, dtype, op, "symbolic")


class TestInductorOpInfo(TestCase):
    """Compiled by inductor with static and dynamic shapes: the values and gradients of eager."""

    def check(self, op, samples):
        for sample, dynamic in itertools.product(samples, (False, True)):
            torch._dynamo.reset()
            compiled = torch.compile(op.get_op(), fullgraph=True, dynamic=dynamic)
            results = [function(*arguments(sample), **sample.kwargs) for function in (op, compiled)]
            self.assertEqual(*results)
            cotangent = torch.randn_like(results[0])
            self.assertEqual(*(torch.autograd.grad(result, arguments(sample), cotangent) for result in results))

    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_comprehensive(self, device, dtype, op):
        samples = list(op.sample_inputs(device, dtype, requires_grad=True))
        self.check(op, samples[-1:])

    @pytest.mark.slow
    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_comprehensive_every_sample(self, device, dtype, op):
        self.check(op, op.sample_inputs(device, dtype, requires_grad=True))


# torch.func. A function takes tensors and returns a tuple of tensors; each transform below makes from it, and from
# arguments for it, another such function with arguments. So they nest in any order.


def drawn(like):
    """Random, of this shape; not randn_like, whose order of drawing is that of the strides."""
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


def vjp_of(function, primals):
    cotangents = [drawn(result) for result in function(*primals)]

    def transformed(*args):
        return vjp(function, *args[: len(primals)])[1](args[len(primals) :])

    return transformed, (*primals, *cotangents)


def jvp_of(function, primals):
    def transformed(*args):
        return jvp(function, args[: len(primals)], args[len(primals) :])[1]

    return transformed, (*primals, *map(drawn, primals))


def vmap_of(function, primals):
    return vmap(function), tuple(torch.stack([primal, drawn(primal)]) for primal in primals)


TRANSFORMS = {"vjp": vjp_of, "jvp": jvp_of, "vmap": vmap_of}
# Innermost first. Torch's names read from the outside: vmapjvpvjp is ("vjp", "jvp", "vmap").
CHAINS = [chain for length in (1, 2) for chain in itertools.product(TRANSFORMS, repeat=length)]
CHAINS += [("vjp", "vjp", "vmap"), ("vjp", "jvp", "vmap"), ("vmap", "vjp", "jvp")]
SLOW_CHAINS = [("vjp", "vjp", "vjp"), ("vjp", "vjp", "jvp"), ("jvp", "jvp", "jvp"), ("vmap", "jvp", "vjp")]


class TestOperators(TestCase):
    def check(self, device, dtype, op, chain):
        for sample in op.sample_inputs(device, dtype):
            outcomes = []
            for function in (op.get_op(), op.ref):

                def in_tuple(*primals, function=function, options=sample.kwargs):
                    return (function(*primals, **options),)

                # The same seed: the same tangents and cotangents for ours and for the reference.
                torch.manual_seed(0)
                transformed, args = in_tuple, arguments(sample)
                for name in chain:
                    transformed, args = TRANSFORMS[name](transformed, args)
                outcomes.append(transformed(*args))
            self.assertEqual(*outcomes)


def add_chain(chain, *marks):
    def test(self, device, dtype, op):
        self.check(device, dtype, op, chain)

    test.__name__ = f"test_{''.join(reversed(chain))}"
    for mark in marks:
        test = mark(test)
    setattr(TestOperators, test.__name__, in_double(test))


for each in CHAINS:
    add_chain(each)
for each in SLOW_CHAINS:
    add_chain(each, pytest.mark.slow)


class TestVmapOperatorsOpInfo(TestCase):
    @in_double
    def test_vmap_exhaustive(self, device, dtype, op):
        """Each tensor mapped or not, at its front or its back."""
        for sample in op.sample_inputs(device, dtype):
            args = arguments(sample)
            for dims in itertools.product((None, 0, -1), repeat=len(args)):
                if all(dim is None for dim in dims):
                    continue
                stacked = [
                    arg if dim is None else torch.stack([arg, torch.randn_like(arg)], dim)
                    for arg, dim in zip(args, dims, strict=True)
                ]
                results = [
                    vmap(lambda *args, f=function: f(*args, **sample.kwargs), dims)(*stacked)  # noqa: B023
                    for function in (op.get_op(), op.ref)
                ]
                self.assertEqual(*results)


for case in (
    TestBwdGradients,
    TestFwdGradients,
    TestCompositeCompliance,
    TestFakeTensor,
    TestCommon,
    TestSchemaCheckModeOpInfo,
    TestMeta,
    TestExportOpInfo,
    TestMathBits,
    TestEagerFusionOpInfo,
    TestProxyTensorOpInfo,
    TestInductorOpInfo,
    TestOperators,
    TestVmapOperatorsOpInfo,
):
    instantiate_device_type_tests(case, globals(), only_for=("cpu", "cuda"))
