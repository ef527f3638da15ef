"""What torch's own tests ask of bilinear: its samples on either backend, its errors, its edge cases.

The checks that torch makes of any operator by its OpInfo are in test_torch_suite.py.
"""

from __future__ import annotations

import warnings

import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_near
from torch.autograd import gradcheck, gradgradcheck

import triton_bilinear as tb

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    common_modules = pytest.importorskip("torch.testing._internal.common_modules", reason="needs expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

OP_INFO = next(op for op in op_db if op.name == "nn.functional.bilinear")
MODULE_INFO = next(info for info in common_modules.module_db if info.module_cls is torch.nn.Bilinear)
OP_SAMPLES = 16
MODULE_SAMPLES = 3


def op_samples(device, dtype, requires_grad=False):
    samples = list(OP_INFO.sample_inputs(device, dtype, requires_grad=requires_grad))
    assert len(samples) == OP_SAMPLES
    return samples


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("index", range(OP_SAMPLES))
def test_op_samples(backend, device, index, dtype):
    if reason := oracle.skip_reason(dtype, backend, device):
        pytest.skip(reason)
    sample = op_samples(device, dtype)[index]
    result = tb.bilinear(sample.input, *sample.args)
    assert result.shape == F.bilinear(sample.input, *sample.args).shape
    assert_near(result, oracle.bilinear(sample.input, *sample.args))


@pytest.mark.parametrize("index", range(OP_SAMPLES))
def test_op_samples_gradients(backend, device, index):
    sample = op_samples(device, torch.float64, requires_grad=True)[index]
    leaves = (sample.input, *sample.args)
    result = tb.bilinear(*leaves)
    cotangent = torch.randn_like(result)
    grads = torch.autograd.grad(result, leaves, cotangent)
    for grad, exact in zip(grads, oracle.gradients(oracle.bilinear, leaves, cotangent), strict=True):
        assert_near(grad, exact)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("index", range(MODULE_SAMPLES))
def test_module_samples(backend, device, index, training):
    samples = MODULE_INFO.module_inputs_func(
        MODULE_INFO, device=device, dtype=torch.float64, requires_grad=True, training=training
    )
    assert len(samples) == MODULE_SAMPLES
    sample = samples[index]
    construct, call = sample.constructor_input, sample.forward_input
    module = tb.Bilinear(*construct.args, **construct.kwargs, device=device, dtype=torch.float64).train(training)
    result = module(*call.args, **call.kwargs)
    with torch.no_grad():
        expected = sample.reference_fn(module, *call.args)
    assert_near(result, expected.reshape(result.shape))
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def message(function, *arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (3, 2, 5), (6, 4, 5), None),
        ((3, 4), (2, 5), (6, 4, 5), None),
        ((2, 3, 4), (2, 7, 5), (6, 4, 5), None),
        ((3, 3), (3, 5), (6, 4, 5), None),
        ((3, 4), (3, 3), (6, 4, 5), None),
        ((3, 4), (3, 5), (6, 4, 5), (5,)),
    ],
    ids=str,
)
def test_errors_have_torchs_text(shapes):
    arguments = [None if shape is None else torch.ones(shape) for shape in shapes]
    ours = message(tb.bilinear, *arguments)
    assert ours.startswith("bilinear(): ")
    assert ours == message(F.bilinear, *arguments)


def test_values_and_gradients_of_test_nn(backend, device):
    """test_nn's test_bilinear: the module equals a product of matrices, and so do its four gradients."""
    module = tb.Bilinear(5, 4, 3, device=device, dtype=torch.float64)
    x = torch.randn(7, 5, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.randn(7, 4, device=device, dtype=torch.float64, requires_grad=True)
    leaves = (x, y, module.weight, module.bias)
    result = module(x, y)
    cotangent = torch.randn_like(result)
    result.backward(cotangent)
    assert_near(result, oracle.bilinear(*leaves))
    for leaf, exact in zip(leaves, oracle.gradients(oracle.bilinear, leaves, cotangent), strict=True):
        assert_near(leaf.grad, exact)


def test_transposed_inputs(backend, device):
    """test_nn's test_bilinear_non_contiguous."""
    module = tb.Bilinear(3, 2, 2, device=device, dtype=torch.float64)
    x = torch.randn(4, 5, 3, device=device, dtype=torch.float64).transpose(0, 1).requires_grad_()
    y = torch.randn(4, 5, 2, device=device, dtype=torch.float64).transpose(0, 1).requires_grad_()
    leaves = (x, y, module.weight, module.bias)
    result = module(x, y)
    assert_near(result, oracle.bilinear(*leaves))
    grads = torch.autograd.grad(result, leaves, torch.ones_like(result))
    for grad, exact in zip(grads, oracle.gradients(oracle.bilinear, leaves, torch.ones_like(result)), strict=True):
        assert_near(grad, exact)


def test_no_bias(backend, device):
    """test_nn's test_bilinear_no_bias."""
    with_bias = tb.Bilinear(5, 4, 3, device=device, dtype=torch.float64)
    without = tb.Bilinear(5, 4, 3, bias=False, device=device, dtype=torch.float64)
    with torch.no_grad():
        with_bias.bias.zero_()
        without.weight.copy_(with_bias.weight)
    assert without.bias is None
    x, y = (torch.randn(2, size, device=device, dtype=torch.float64, requires_grad=True) for size in (5, 4))
    assert torch.equal(without(x, y), with_bias(x, y))
    fast = backend == "triton"
    assert gradcheck(tb.bilinear, (x, y, without.weight), fast_mode=fast)
    assert gradgradcheck(tb.bilinear, (x, y, without.weight), fast_mode=fast)


def test_batches_of_several_axes(backend, device):
    """test_nn's test_bilinear_broadcasting: leading axes are batch axes."""
    module = tb.Bilinear(3, 4, 5, device=device, dtype=torch.float64)
    x, y = (torch.randn(2, 3, size, device=device, dtype=torch.float64) for size in (3, 4))
    assert_near(module(x, y), module(x.reshape(6, 3), y.reshape(6, 4)).view(2, 3, 5).double())
