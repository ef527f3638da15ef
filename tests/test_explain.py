"""explain: plans, origins, floors and predictions, as data and in words."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import triton_bilinear as tb
from triton_bilinear.backend import triton_installed
from triton_bilinear.tuning.devices import find_device

if not triton_installed():
    pytest.skip("needs triton", allow_module_level=True)

H100 = "NVIDIA H100 80GB HBM3"
LARGE = (4096, 256, 256, 256)


def test_it_says_what_and_why_as_data():
    found = tb.explain(*LARGE, dtype=torch.bfloat16, gpu=H100)
    assert (found.gpu, found.shape, found.dtype, found.precision) == (H100, LARGE, "bfloat16", "ieee")
    assert [op.name for op in found.ops] == ["forward", "grad_inputs", "grad_weight", "grad_bias"]
    device = find_device(H100)
    for op in found.ops[:3]:
        assert op.by == "triton"
        assert op.origin in ("measured", "predicted", "safe")
        assert op.source
        assert op.plan["blocks"]
        assert op.floor_arithmetic_seconds == pytest.approx(2 * 4096 * 256**3 / device.matrix_flops["bfloat16"])
        assert op.limit == max(op.terms, key=op.terms.get)
        # The terms make up the prediction: none is longer than it, and together they are not shorter.
        assert max(op.terms.values()) < op.predicted_seconds <= sum(op.terms.values())
        assert op.predicted_seconds > op.floor_seconds == max(op.floor_arithmetic_seconds, op.floor_bytes_seconds)
    forward = 2 * (4096 * 3 * 256 + 256**3 + 256) / device.memory_bandwidth
    assert found.ops[0].floor_bytes_seconds == pytest.approx(forward)
    assert found.predicted_seconds == sum(op.predicted_seconds for op in found.ops[:3])


def test_it_says_why_x_and_y_get_one_product_or_two():
    joint = tb.explain(*LARGE, dtype=torch.bfloat16, gpu=H100)
    assert joint.inputs.chosen == "joint"
    assert joint.inputs.joint_seconds == joint.ops[1].predicted_seconds <= joint.inputs.separate_seconds
    assert "\nx and y together, by one product" in str(joint)
    separate = tb.explain(65536, 4, 256, 256, dtype=torch.bfloat16, gpu=H100)
    both = sum(op.predicted_seconds for op in separate.ops if op.name in ("grad_x", "grad_y"))
    assert separate.inputs.chosen == "separate"
    assert separate.inputs.separate_seconds == pytest.approx(both)
    assert separate.inputs.joint_seconds is None or separate.inputs.joint_seconds > both
    assert "\nx and y together, by two contractions" in str(separate)


@pytest.mark.parametrize(("shape", "gradients"), [((4096, 1, 512, 512), None), (LARGE, ("x", "weight")), (LARGE, ())])
def test_there_is_nothing_to_choose_where_kernels_make_one_of_them(shape, gradients):
    assert tb.explain(*shape, dtype=torch.bfloat16, gpu=H100, gradients=gradients).inputs is None


def test_what_torch_computes_is_not_predicted():
    found = tb.explain(*LARGE, dtype=torch.bfloat16, gpu=H100).ops[-1]
    assert (found.name, found.by, found.plan, found.predicted_seconds, found.limit) == (
        "grad_bias", "torch", None, None, None,
    )  # fmt: skip
    assert "torch" in str(found)


def test_data_is_json():
    found = tb.explain(*LARGE, dtype=torch.float16, gpu=H100).as_dict()
    assert json.loads(json.dumps(found))["ops"][1]["plan"]["kernel"] == found["ops"][1]["plan"]["kernel"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("gpu", ["A100", H100, "MI300X", "NVIDIA GeForce RTX 4090"])
def test_words_say_that_times_are_predicted(gpu, dtype):
    found = tb.explain(512, 64, 64, 64, dtype=dtype, gpu=gpu)
    text = str(found)
    assert found.gpu in text
    assert "predicted, not measured" in text
    for op in found.ops[:-1]:
        assert f"\n{op.name}: kernel {op.plan['kernel']}" in text
    assert text.count("limited by") == len(found.ops) - 1
    assert text.count("floor") == len(found.ops) + 1


def test_gradients_and_bias_are_as_asked():
    found = tb.explain(*LARGE, gpu=H100, gradients=("weight",), bias=False)
    assert [op.name for op in found.ops] == ["forward", "grad_weight"]
    assert found.dtype == "float32"
    assert found.precision == "tf32x3"


def test_tensors_give_sizes_dtype_gradients_and_strides():
    x = torch.randn(8, 16, 32, dtype=torch.float16)
    y = torch.randn(8, 16, 48, dtype=torch.float16, requires_grad=True)
    layer = tb.Bilinear(32, 48, 64, dtype=torch.float16).requires_grad_(False)
    found = tb.explain(x, y, layer.weight, layer.bias, gpu=H100)
    assert (found.shape, found.dtype) == ((128, 64, 32, 48), "float16")
    assert [op.name for op in found.ops] == ["forward", "grad_y"]
    assert tb.explain(x, y, layer.weight, None, gpu=H100).ops[0].plan == found.ops[0].plan
    # A weight that no vector can be read from has another plan.
    odd = torch.randn(64, 48, 64, dtype=torch.float16)[:, :, :64:2].mT
    assert tb.explain(x, y, odd, gpu=H100).ops[0].plan != found.ops[0].plan


@pytest.mark.parametrize(
    "problem", [(1, 2, 3), (1, 2, 3, 0), (torch.ones(2, 3), torch.ones(2, 3)), (torch.ones(2, 3),) * 3, ()]
)
def test_a_problem_that_is_none_is_an_error(problem):
    with pytest.raises(ValueError, match="expected"):
        tb.explain(*problem, gpu=H100)


@pytest.mark.parametrize("told", [{"dtype": torch.float16}, {"bias": False}], ids=str)
def test_what_tensors_tell_is_not_told_again(told):
    tensors = torch.ones(2, 3), torch.ones(2, 4), torch.ones(5, 3, 4)
    with pytest.raises(ValueError, match="tensors tell dtype and bias"):
        tb.explain(*tensors, gpu=H100, **told)


def test_other_errors_say_what_was_expected():
    with pytest.raises(LookupError, match="known are"):
        tb.explain(*LARGE, gpu="NVIDIA Foo")
    with pytest.raises(ValueError, match="expected gradients of"):
        tb.explain(*LARGE, gpu=H100, gradients=("z",))
    with pytest.raises(ValueError, match="expected float16"):
        tb.explain(*LARGE, gpu=H100, dtype=torch.int8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_has_to_be_named():
    with pytest.raises(ValueError, match="name one"):
        tb.explain(*LARGE)


def test_triton_is_imported_by_the_call_alone():
    code = (
        "import sys, triton_bilinear as tb; print('triton' in sys.modules); "
        f"tb.explain(64, 64, 64, 64, gpu={H100!r}); print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
