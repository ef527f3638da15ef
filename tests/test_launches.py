"""The launch path of the public functions on GPUs that are not here: what arrives at the driver of each.

Everything up to the launch is real: planning for the device that the driver describes, specialisation, compilation for
its architecture, and the checks of a launch. The stand-in driver records instead of running.
"""

from __future__ import annotations

from math import prod

import pytest
import torch

pytest.importorskip("triton")
from standin import StandInLaunch, TensorArgument, run_standin

from triton_bilinear.tuning.devices import find_device

SIZES = (300, 64, 40, 72)
DEVICES = {
    "NVIDIA A100-SXM4-80GB": torch.bfloat16,
    "NVIDIA H100 80GB HBM3": torch.float16,
    "NVIDIA B200": torch.bfloat16,
    "NVIDIA L4": torch.float32,
    "AMD Instinct MI300X": torch.float16,
    "AMD Radeon RX 7900 XTX": torch.float64,
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def cases(*default: str) -> list:
    """Every device with every dtype; by default these devices with the one dtype above."""
    return [
        pytest.param(
            device,
            dtype,
            marks=[] if device in default and dtype is DEVICES[device] else [pytest.mark.slow],
            id=f"{device}-{dtype}",
        )
        for device in DEVICES
        for dtype in DTYPES
    ]


BLOCKS = {  # the axes of a result that a kernel's grid covers, and its splits
    "contract_khatri_rao_kernel": "BP",
    "contract_project_kernel": "BP",
    "grad_weight_kernel": "PQR",
    "reduce_partials_kernel": "BP",
}


def check(launch: StandInLaunch, device: str, dtype: torch.dtype) -> None:
    """What holds for every launch."""
    spec, arguments = find_device(device), launch.arguments
    assert launch.target == spec.architecture
    assert launch.shared_bytes <= spec.shared_memory
    assert launch.grid[2] == 1
    assert arguments.get("WIDE", False) is False
    if launch.kernel in BLOCKS:
        axes = BLOCKS[launch.kernel]
        assert launch.grid[0] == prod(-(-arguments[axis] // arguments[f"BLOCK_{axis}"]) for axis in axes)
    tensors = [argument for argument in arguments.values() if isinstance(argument, TensorArgument)]
    name = str(dtype).removeprefix("torch.")
    assert {tensor.dtype for tensor in tensors} <= {name, "float64" if name == "float64" else "float32"}
    assert name in [tensor.dtype for tensor in tensors]


def strides(launch: StandInLaunch, *names: str) -> tuple[int, ...]:
    return tuple(launch.arguments[f"stride_{name}"] for name in names)


def products(launches: list[StandInLaunch]) -> list[StandInLaunch]:
    return [launch for launch in launches if launch.kernel != "reduce_partials_kernel"]


def check_splits(launches: list[StandInLaunch]) -> None:
    """A product in several shares is followed by a pass that adds them up, as many as there were."""
    for launch, following in zip(launches, [*launches[1:], None], strict=True):
        if launch.kernel != "reduce_partials_kernel" and launch.grid[1] > 1:
            assert following is not None
            assert following.kernel == "reduce_partials_kernel"
            if launch.kernel != "grad_inputs_kernel":
                assert following.arguments["S"] == launch.grid[1]


@pytest.mark.parametrize(
    ("device", "dtype"), cases("NVIDIA H100 80GB HBM3", "NVIDIA L4", "AMD Instinct MI300X", "AMD Radeon RX 7900 XTX")
)
def test_a_training_step(device: str, dtype: torch.dtype) -> None:
    """x is stored features first: strides arrive as they are, whichever role the plan gives x."""
    B, L, M, N = SIZES
    launches = run_standin("standin_calls:train", device, dtype, SIZES).launches
    for launch in launches:
        check(launch, device, dtype)
    check_splits(launches)
    forward, *middle, weight = products(launches)
    assert forward.kernel.startswith("contract_")
    assert forward.arguments["HAS_BIAS"] is True or forward.grid[1] > 1
    assert (forward.arguments["B"], forward.arguments["P"]) == (B, L)
    # u is x or y, whichever the order reduces first; a result of one batch axis has no outer step of rows.
    x_is_u = forward.arguments["Q"] == M
    assert strides(forward, *(("ui", "uq") if x_is_u else ("vi", "vr"))) == (1, B)
    assert strides(forward, *(("vi", "vr") if x_is_u else ("ui", "uq"))) == (N, 1)
    assert strides(forward, "tp", *(("tq", "tr") if x_is_u else ("tr", "tq"))) == (M * N, N, 1)
    assert weight.kernel == "grad_weight_kernel"
    assert sorted(weight.arguments[axis] for axis in "PQR") == sorted((L, M, N))
    assert weight.arguments["B"] == B
    if len(middle) == 1:
        (joint,) = middle
        assert joint.kernel == "grad_inputs_kernel"
        assert strides(joint, "gi", "gl") == (L, 1)
        turned = joint.arguments["M"] == N
        assert strides(joint, *(("yi", "yn") if turned else ("xi", "xm"))) == (1, B)
    else:
        assert [launch.arguments["P"] for launch in middle] == [M, N]


@pytest.mark.parametrize(("device", "dtype"), cases("NVIDIA A100-SXM4-80GB", "NVIDIA B200"))
def test_a_form_and_pairs(device: str, dtype: torch.dtype) -> None:
    launches = run_standin("standin_calls:train_form_and_pairs", device, dtype).launches
    for launch in launches:
        check(launch, device, dtype)
    check_splits(launches)
    kept, grad_x, grad_weight, pairs, *of_pairs = products(launches)
    assert kept.kernel == "contract_project_kernel"
    assert kept.arguments["KEEP"] is True
    assert kept.arguments["kept_ptr"] == TensorArgument(str(dtype).removeprefix("torch."), (300, 1, 72), (72, 72, 1), 0)
    assert (grad_x.kernel[:9], grad_x.arguments["P"]) == ("contract_", 40)
    assert grad_weight.kernel == "grad_weight_kernel"
    assert pairs.kernel == "chain_kernel"
    assert [pairs.arguments[axis] for axis in ("B", "L", "A", "C", "D", "E")] == [3, 2, 100, 40, 100, 72]
    # From y: x has fewer features for the products of pairs.
    assert strides(pairs, "pi", "pl", "pa", "pe") == (7200, 0, 72, 1)
    assert strides(pairs, "ri", "rl", "rc", "rd") == (4000, 0, 1, 40)
    assert pairs.arguments["HAS_BIAS"] is True
    assert [launch.kernel for launch in of_pairs] == ["chain_kernel"] * 3
    assert [launch.arguments["SUMMED"] for launch in (pairs, *of_pairs)] == ["", "l", "l", "b"]


def test_the_device_is_that_of_the_active_driver() -> None:
    names = ["NVIDIA L4", "NVIDIA H100 80GB HBM3", "NVIDIA L4", "AMD Instinct MI300X"]
    assert run_standin("standin_calls:switch_devices", names[0], names).value == [find_device(name) for name in names]


@pytest.mark.parametrize("device", ["NVIDIA H100 80GB HBM3"])
def test_a_driver_that_knows_no_name_and_no_clock(device: str) -> None:
    """Its device is one of its architecture: the same kernels, with shared memory that fits."""
    spec, launches = run_standin("standin_calls:train_on_a_driver_of_few_words", device).value
    known = find_device(device)
    assert (spec.architecture, spec.sm_count, spec.shared_memory) == (
        known.architecture,
        known.sm_count,
        known.shared_memory,
    )
    assert spec.matrix_flops == pytest.approx(dict(known.matrix_flops), rel=0.2)
    assert len(products(launches)) >= 3
    for launch in launches:
        check(launch, device, torch.float16)
