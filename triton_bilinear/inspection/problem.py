"""What is asked about: the sizes of a layer, the dtype, and the gradients that are wanted. Knows no triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GRADIENTS = ("x", "y", "weight", "bias")

DTYPES = {
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
    "fp32": torch.float32,
    "float64": torch.float64,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class StepProblem:
    """A step of the layer `z[i, l] = sum_mn x[i, m] A[l, m, n] y[i, n] + b[l]` over dense tensors.

    shape: (B, L, M, N). gradients: which of "x", "y", "weight" and "bias" are wanted; none is the forward pass alone.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    bias: bool = True
    gradients: tuple[str, ...] = GRADIENTS

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"expected a shape of four positive sizes (B, L, M, N), got {self.shape}")
        if self.dtype not in DTYPES.values():
            raise ValueError(f"expected float16, bfloat16, float32 or float64, got {self.dtype}")
        unknown = set(self.gradients) - set(GRADIENTS)
        if unknown:
            raise ValueError(f"expected gradients of {', '.join(GRADIENTS)}, got {', '.join(sorted(unknown))}")

    @property
    def unit(self) -> int:
        """FLOPs of one contraction of the family."""
        B, L, M, N = self.shape
        return 2 * B * L * M * N

    def tensors(self) -> dict[str, Tensor]:
        """Dense arguments of `bilinear`, by name, without storage."""
        B, L, M, N = self.shape
        sizes: dict[str, tuple[int, ...]] = {"x": (B, M), "y": (B, N), "weight": (L, M, N)}
        if self.bias:
            sizes["bias"] = (L,)
        return {name: torch.empty(size, dtype=self.dtype, device="meta") for name, size in sizes.items()}

    def minimum_bytes(self, op: str, keeps: bool = False) -> int:
        """Bytes of what an op of the step reads and writes, each once. See `step.StepOp` for its name and keeps."""
        B, L, M, N = self.shape
        weight, layer, bias = L * M * N, B * (L + M + N), L if self.bias else 0
        kept = B * L * (N if self.wants("y") else M)
        elements = {
            "forward": layer + weight + bias + (kept if keeps else 0),
            "grad_inputs": layer + B * (M + N) + weight,
            "grad_x": B * (L + M) + kept if keeps else layer + weight,
            "grad_y": B * (L + N) + kept if keeps else layer + weight,
            "grad_weight": layer + weight,
            "grad_bias": B * L + L,
        }
        return elements[op] * self.dtype.itemsize

    def wants(self, *names: str) -> bool:
        """Whether all these gradients are wanted."""
        return set(names) <= set(self.gradients)


def parse_shape(text: str) -> tuple[int, int, int, int]:
    """(B, L, M, N) from "4096,256,256,256". ValueError for anything else."""
    try:
        sizes: Sequence[int] = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise ValueError(f"expected a shape B,L,M,N of four positive sizes such as 4096,256,256,256, got {text!r}")
    B, L, M, N = sizes
    return B, L, M, N


def parse_dtype(name: str) -> torch.dtype:
    """torch's dtype from its name or a short one ("bf16"). ValueError for any other."""
    dtype = DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"unknown dtype {name!r}; known are {', '.join(DTYPES)}")
    return dtype
