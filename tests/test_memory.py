"""Memory beyond inputs and results: what is allocated, at sizes where B*L*N or B*M*N elements would show."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import triton_bilinear as tb
from triton_bilinear.benchmark.cases import PAIRS, ROWS, Case, draw
from triton_bilinear.benchmark.memory import extra_bytes
from triton_bilinear.benchmark.rivals import EINSUM_ORDERS, OURS, rivals
from triton_bilinear.cpu import matrix_unit, onednn
from triton_bilinear.cpu.budget import CPU_PIECE

# A step holds this many buffers of a piece at most on the CPU path.
BUFFERS = 4


def allocated(function: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that the CPU's allocator hands out while the function runs: the peak, and what it returns and so keeps."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        results = function()
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    assert level == size(*results), "an allocation was not seen"
    return peak, level


def size(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def step(sizes: tuple[int, ...], dtype: torch.dtype, backend: str) -> tuple[int, int]:
    """Bytes that a training step takes beyond its results, and those of inputs and results."""
    B, L, M, N = sizes
    leaves = [torch.randn(shape).to(dtype).requires_grad_() for shape in ((B, M), (B, N), (L, M, N), (L,))]
    cotangent = torch.randn(B, L).to(dtype)

    def run() -> tuple[Tensor, ...]:
        with tb.use_backend(backend):
            result = tb.bilinear(*leaves)
            return result, *torch.autograd.grad(result, leaves, cotangent)

    peak, results = allocated(run)
    return peak - results, size(*leaves, cotangent) + results


def test_what_is_counted() -> None:
    peak, kept = allocated(lambda: (torch.empty(2**20), torch.empty(2**18) + torch.empty(2**18)))
    assert kept == 5 * 2**20
    assert peak == 7 * 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(4096, 64, 64, 64), (2048, 128, 32, 96), (8192, 48, 128, 24)], ids=str)
def test_a_step_on_the_torch_path(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    B, L, M, N = sizes
    extra, given = step(sizes, dtype, "torch")
    bound = BUFFERS * CPU_PIECE * max(4, dtype.itemsize)
    assert extra <= given + bound
    assert extra < B * M * N * dtype.itemsize
    assert extra < B * L * N * dtype.itemsize


@pytest.mark.parametrize(
    "sizes",
    [(1, 64, 300, 300), (64, 5000, 32, 32), (600, 5000, 32, 32), (20, 2000, 8, 300), (2000, 5000, 16, 16)],
    ids=str,
)
def test_a_weight_in_half_precision_is_not_copied_whole(sizes: tuple[int, ...]) -> None:
    """Nor is a result of many outputs computed whole in float32."""
    assert step(sizes, torch.bfloat16, "torch")[0] <= BUFFERS * CPU_PIECE * 4


def test_the_workspace_of_the_torch_path_does_not_grow_with_the_batch() -> None:
    extras = [step((B, 48, 64, 64), torch.float32, "torch")[0] for B in (2048, 8192)]
    assert extras[1] <= extras[0]


def extra_beside_einsum(sizes: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """Extra bytes of a step of ours, and of the order of einsum that takes least."""
    case = Case("", ROWS, dict(zip("blmn", sizes, strict=True)), sizes[0], dtype, gradients=("x", "y", "weight"))
    device = torch.device("cpu")
    inputs = draw(case, device)
    extra = {
        rival.name: extra_bytes(rival.build(case, inputs), device)["step"]
        for rival in rivals(case, device)
        if rival.name in (OURS, *EINSUM_ORDERS)
    }
    return extra[OURS], min(extra[order] for order in EINSUM_ORDERS)


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32 are MKL's, or oneDNN's."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch is built without oneDNN")
    monkeypatch.setattr(onednn, "is_there", lambda: request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "sizes",
    [
        (1024, 128, 128, 128),
        (256, 160, 160, 160),
        (2000, 90, 60, 128),
        (4096, 64, 32, 32),
        (2048, 64, 32, 32),
        (5000, 10, 101, 51),
        (1024, 96, 64, 48),
    ],
    ids=str,
)
def test_larger_pieces_stay_an_eighth_of_what_einsum_takes(sizes: tuple[int, ...]) -> None:
    """Of 16 MiB and more."""
    ours, einsums = extra_beside_einsum(sizes, "float32")
    assert 8 * ours <= einsums


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("batch", "weight"),
    [
        (32, torch.empty(32, 128, 2001, device="meta")[..., :2000]),
        (64, torch.empty(128, 64, 1501, device="meta")[..., :1500]),
        (64, torch.empty(100, 301, 300, device="meta")[:, :300]),
        (100, torch.empty(128, 128, 257, device="meta")[..., :256].permute(2, 0, 1)),
    ],
    ids=["N", "N of few M", "M", "L innermost"],
)
def test_no_large_part_of_a_sliced_weight_is_copied(batch: int, weight: Tensor) -> None:
    """Of 16 to 49 MB; MKL takes it as it lies, oneDNN does not. Its gradient, which is as large, would hide a copy."""
    given = torch.empty_strided(weight.shape, weight.stride()).normal_()
    L, M, N = weight.shape
    x, y, g = (
        torch.randn(batch, M, requires_grad=True),
        torch.randn(batch, N, requires_grad=True),
        torch.randn(batch, L),
    )

    def run() -> tuple[Tensor, ...]:
        with tb.use_backend("torch"):
            result = tb.bilinear(x, y, given)
            return result, *torch.autograd.grad(result, (x, y), g)

    peak, results = allocated(run)
    assert peak - results <= 8 * 2**20


@pytest.mark.parametrize("unit", [True, False], ids=["with a matrix unit", "without"])
@pytest.mark.parametrize(
    "sizes", [(1024, 64, 128, 128), (4096, 64, 32, 32), (10000, 128, 8, 128), (1024, 96, 64, 48)], ids=str
)
def test_half_precision_takes_an_eighth_of_what_einsum_takes(sizes: tuple[int, ...], unit: bool, monkeypatch) -> None:
    """Of 18 to 36 MB; with oneDNN's own buffers, which are part of the most that a matrix unit's orders take."""
    if unit and matrix_unit._unit() is None:
        pytest.skip("what oneDNN takes differs where there is no matrix unit")
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: unit)
    ours, einsums = extra_beside_einsum(sizes, "bfloat16")
    assert 8 * ours <= einsums


@pytest.mark.parametrize(
    "sizes",
    [
        {"b": 1, "s": 1, "t": 1, "l": 64, "m": 1024, "n": 1024},
        {"b": 1, "s": 16, "t": 16, "l": 32, "m": 1024, "n": 1024},
        {"b": 1, "s": 1, "t": 1, "l": 1000, "m": 64, "n": 1000},
        {"b": 1, "l": 1, "m": 4000, "n": 4000},
        {"b": 8192, "l": 33, "m": 1000, "n": 1},
        {"b": 100000, "l": 1, "m": 600, "n": 2},
    ],
    ids=lambda sizes: str(tuple(sizes.values())),
)
@pytest.mark.parametrize("unit", [True, False], ids=["with a matrix unit", "without"])
def test_nothing_large_is_converted(sizes: dict[str, int], unit: bool, monkeypatch) -> None:
    """Few rows or pairs of large weights, many rows of a small one, in bfloat16: neither is copied whole."""
    monkeypatch.setattr(matrix_unit, "serves", lambda tensor: unit and tensor.dtype == torch.bfloat16)
    case = Case("", PAIRS if "s" in sizes else ROWS, sizes, sizes["b"], "bfloat16", gradients=("x", "y", "weight"))
    device = torch.device("cpu")
    ours, *_ = rivals(case, device)
    extra = extra_bytes(ours.build(case, draw(case, device)), device)
    assert max(extra["forward"], extra["backward"]) <= 14 * 2**20


@pytest.mark.parametrize("sizes", [(128, 64, 32, 32)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_step_through_the_kernels(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("counts the CPU's allocations")
    B, L, M, N = sizes
    extra, given = step(sizes, dtype, "triton")
    assert extra <= given
    assert extra < B * M * N * dtype.itemsize / 2
    assert extra < B * L * N * dtype.itemsize / 2


def test_a_pairwise_step_on_the_torch_path() -> None:
    """x A is needed for every form, (B, L, S, N); a weight for every sample, (B, L, M, N), is not."""
    B, L, S, M = 32, 2, 4, 128
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((B, S, M), (B, S, M), (L, M, M), (L,))]

    def run() -> tuple[Tensor, ...]:
        with tb.use_backend("torch"):
            result = tb.pairwise_bilinear(*leaves)
            return result, *torch.autograd.grad(result, leaves, torch.ones_like(result))

    peak, results = allocated(run)
    assert peak - results <= size(*leaves) + results + 4 * (B * L * S * M)
    assert peak - results < 4 * (B * L * M * M)


class Allocations(TorchDispatchMode):
    """Adds up what the allocating ops give, on the meta device too."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not any(
            isinstance(arg, Tensor) and arg.untyped_storage()._cdata == result.untyped_storage()._cdata for arg in args
        ):
            self.bytes += size(result)
        return result


DEVICES = ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA L4", "AMD Instinct MI300X"]
# Large batches; few outputs; one sample; one form; a small weight of a large batch.
LARGE = [(65536, 64, 128, 128), (262144, 8, 64, 64), (1, 512, 1024, 1024), (200_000, 1, 300, 300), (100_000, 4, 8, 8)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_the_workspace_of_the_kernels(dtype: torch.dtype, device: str) -> None:
    """Two results of one launch have a bounded workspace each, beside a wider copy of one of them."""
    pytest.importorskip("triton")
    from triton_bilinear.gpu.contract import contract_launches
    from triton_bilinear.gpu.grad_inputs import grad_inputs_launches
    from triton_bilinear.gpu.grad_weight import grad_weight_launches
    from triton_bilinear.planning.plan import MAX_WORKSPACE_BYTES
    from triton_bilinear.tuning.devices import find_device

    spec = find_device(device)
    for (B, L, M, N), feature_dim in product(LARGE, (0, 1)):

        def rows(features: int, B: int = B, feature_dim: int = feature_dim) -> Tensor:
            shape = (B, features) if feature_dim else (features, B)
            return torch.empty(shape, dtype=dtype, device="meta").movedim(feature_dim, -1)

        x, y, g, dx, dy, z = (rows(features) for features in (M, N, L, M, N, L))
        weight, dweight = (torch.empty(L, M, N, dtype=dtype, device="meta") for _ in range(2))
        for given, launch in (
            ((x, y, weight, z), lambda x=x, y=y, w=weight, z=z: contract_launches(x, y, w, None, z, None, spec)),
            (
                (g, x, y, weight, dx, dy),
                lambda g=g, x=x, y=y, w=weight, dx=dx, dy=dy: grad_inputs_launches(g, x, y, w, dx, dy, spec),
            ),
            ((g, x, y, dweight), lambda g=g, x=x, y=y, dw=dweight: grad_weight_launches(g, x, y, dw, spec)),
        ):
            with Allocations() as allocations:
                launch()
            assert allocations.bytes <= size(*given) + 2 * MAX_WORKSPACE_BYTES
