"""The stand-in driver: a launch goes the whole way to a GPU's driver and says what arrived there."""

import pytest

pytest.importorskip("triton")
from standin import TensorArgument, run_standin

from triton_bilinear.tuning.devices import find_device

DEVICES = {
    "NVIDIA A100-SXM4-80GB": "sm_80",
    "NVIDIA H100 80GB HBM3": "sm_90",
    "NVIDIA B200": "sm_100",
    "AMD Instinct MI300X": "gfx942",
}


@pytest.mark.parametrize("device", DEVICES)
def test_a_launch_arrives_as_it_was_made(device):
    run = run_standin("small_kernels:launch_product", device, 200, 64, 48, 64)
    assert run.value is None
    (launch,) = run.launches
    assert launch.kernel == "product_forward_kernel"
    assert launch.target == DEVICES[device]
    assert launch.grid == (4, 1, 1)
    assert (launch.num_warps, launch.num_stages) == (4, 2)
    assert launch.shared_bytes > 0
    assert launch.arguments["x_ptr"] == TensorArgument("float16", (200, 48), (48, 1), 0)
    assert launch.arguments["B"] == 200
    assert launch.arguments["BLOCK_K"] == 64
    assert launch.signature["x_ptr"] == "*fp16"
    assert launch.signature["B"] == "i32"
    assert launch.signature["stride_xk"] == "constexpr", "a stride of 1 is compiled in"
    assert {"x_ptr", "stride_xb", "K", "L"} <= launch.divisible
    assert "B" not in launch.divisible


def test_what_a_gpu_refuses_the_stand_in_refuses():
    run = run_standin("standin_calls:launch_good_and_bad", "NVIDIA L4")
    assert [launch.grid for launch in run.launches] == [(1, 1, 1), (2, 3, 1)]
    assert "out of resource" in run.value["memory"]
    assert "grid" in run.value["grid"]


def test_the_driver_says_which_device_it_is():
    assert run_standin("standin_calls:describe_device", "H200").value == find_device("NVIDIA H200")


def test_a_failure_is_raised_here_with_its_reason():
    with pytest.raises(RuntimeError, match="no_such_function"):
        run_standin("standin_calls:no_such_function", "NVIDIA L4")
