"""`explain`: which plan and tile serve a problem on a GPU, where they come from, and what is predicted of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .backend import triton_installed
from .inspection.problem import GRADIENTS, StepProblem
from .tuning.devices import DeviceSpec, find_device

if TYPE_CHECKING:
    from .inspection.explanation import Explanation


def explain(
    *problem: int | Tensor | None,
    dtype: torch.dtype | None = None,
    gpu: str | torch.device | DeviceSpec | None = None,
    gradients: tuple[str, ...] | None = None,
    bias: bool = True,
) -> Explanation:
    """What a training step of the layer would run on a GPU, which need not be here: `print(explain(...))` says it in
    words, `explain(...).as_dict()` as data. Times in it are predicted by the cost model and the device's data sheet.

        explain(4096, 256, 256, 256, dtype=torch.bfloat16, gpu="NVIDIA H100 80GB HBM3")
        explain(x, y, layer.weight, layer.bias)

    Args:
        problem: the sizes B, L, M, N; or the tensors x (*, M), y (*, N), weight (L, M, N) and maybe bias (L,) or None,
            whose sizes, strides and dtype count, and not their values.
        dtype: for sizes: float16, bfloat16, float32 (the default) or float64.
        gpu: a GPU's name, a torch device, or a DeviceSpec. By default the tensors' device, or this machine's GPU.
        gradients: which of "x", "y", "weight", "bias" are wanted. By default all of them for sizes, and for tensors
            those that require grad.
        bias: for sizes: whether there is a bias.

    Raises:
        ValueError: a problem that is none; a dtype or no bias for tensors, which tell; no GPU named and none here.
        LookupError: an unknown GPU.
        ImportError: triton is not installed.
    """
    if not triton_installed():
        raise ImportError("explain(): the package `triton` is not installed; install it (pip install triton)")
    tensors = _named(problem)
    if tensors and not (dtype is None and bias):
        raise ValueError(f"explain(): tensors tell dtype and bias, got dtype={dtype}, bias={bias} with them")
    step = _from_tensors(tensors, gradients) if tensors else _from_sizes(problem, dtype, bias, gradients)
    device = _device(gpu, tensors)
    # triton is imported here, and not with the package.
    from .gpu.device import float32_precision
    from .inspection.explanation import Explanation, explain_op, inputs_choice
    from .inspection.step import step_ops

    precision = float32_precision(torch.empty(0, dtype=step.dtype, device="meta"), device)
    ops = step_ops(step, device, tensors or None)
    return Explanation(
        gpu=device.name,
        shape=step.shape,
        dtype=str(step.dtype).removeprefix("torch."),
        precision=precision,
        ops=tuple(explain_op(op, step, device, precision) for op in ops),
        inputs=inputs_choice(ops, device),
    )


def _named(problem: tuple[int | Tensor | None, ...]) -> dict[str, Tensor]:
    """The tensors by name; none for sizes."""
    given = problem[:3] if len(problem) == 4 and problem[3] is None else problem
    tensors = [value for value in given if isinstance(value, Tensor)]
    if tensors and not (len(tensors) == len(given) and len(given) in (3, 4)):
        raise ValueError(f"explain(): expected B, L, M, N or x, y, weight[, bias], got {len(problem)} arguments")
    if tensors and tensors[2].dim() != 3:
        raise ValueError(f"explain(): expected a weight (L, M, N), got one of shape {tuple(tensors[2].shape)}")
    return dict(zip(("x", "y", "weight", "bias"), tensors, strict=False))


def _from_sizes(
    sizes: tuple[int | Tensor | None, ...], dtype: torch.dtype | None, bias: bool, gradients: tuple[str, ...] | None
) -> StepProblem:
    wanted = GRADIENTS if gradients is None else gradients
    return StepProblem(sizes, dtype or torch.float32, bias, wanted)  # type: ignore[arg-type]


def _from_tensors(tensors: dict[str, Tensor], gradients: tuple[str, ...] | None) -> StepProblem:
    x, weight = tensors["x"], tensors["weight"]
    outputs, m, n = weight.shape
    wanted = tuple(name for name, tensor in tensors.items() if tensor.requires_grad) if gradients is None else gradients
    return StepProblem((x.shape[:-1].numel(), outputs, m, n), x.dtype, "bias" in tensors, wanted)


def _device(gpu: str | torch.device | DeviceSpec | None, tensors: dict[str, Tensor]) -> DeviceSpec:
    if isinstance(gpu, DeviceSpec):
        return gpu
    if isinstance(gpu, str):
        return find_device(gpu)
    here = gpu or next((tensor.device for tensor in tensors.values() if tensor.device.type != "cpu"), None)
    if here is None and torch.cuda.is_available():
        here = torch.device("cuda")
    if here is None or here.type in ("cpu", "meta"):
        raise ValueError('explain(): no GPU here; name one, for instance gpu="NVIDIA H100 80GB HBM3"')
    from .gpu.device import device_of

    return device_of(torch.empty(0, device=here))
