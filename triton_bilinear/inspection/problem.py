"""What is asked about: the sizes of a layer, the dtype, and the gradients that are wanted. Knows no triton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..functional import bilinear, pairwise_bilinear
from ..ops.flops import chain_flops

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

    shape: tuple[int, ...]
    dtype: torch.dtype
    bias: bool = True
    gradients: tuple[str, ...] = GRADIENTS

    names: ClassVar[str] = "BLMN"
    function: ClassVar[Callable[..., Tensor]] = staticmethod(bilinear)

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.names) or not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"expected a shape of positive sizes ({', '.join(self.names)}), got {self.shape}")
        if self.dtype not in DTYPES.values():
            raise ValueError(f"expected float16, bfloat16, float32 or float64, got {self.dtype}")
        if max(map(prod, self.sizes().values())) * self.dtype.itemsize >= 2**63:
            raise ValueError(f"expected tensors of less than 2**63 bytes, got ({', '.join(self.names)}) = {self.shape}")
        unknown = set(self.gradients) - set(GRADIENTS)
        if unknown:
            raise ValueError(f"expected gradients of {', '.join(GRADIENTS)}, got {', '.join(sorted(unknown))}")

    def tensors(self) -> dict[str, Tensor]:
        """Dense arguments of `function`, by name, without storage."""
        return {
            name: torch.empty(size, dtype=self.dtype, device="meta")
            for name, size in self.sizes().items()
            if name != "out" and (self.bias or name != "bias")
        }

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The axes of "x", "y", "weight", "bias" and "out", the result."""
        B, L, M, N = self.shape
        return {"x": (B, M), "y": (B, N), "weight": (L, M, N), "bias": (L,), "out": (B, L)}

    def useful_flops(self, op: str) -> int:
        """FLOPs of an op's products without padding. See `step.StepOp` for its name."""
        B, L, M, N = self.shape
        return 0 if op == "grad_bias" else 2 * B * L * M * N

    def least_flops(self) -> int:
        """Useful FLOPs of all that is wanted, the gradients of x and y by one product."""
        inputs = bool({"x", "y"} & set(self.gradients))
        return (1 + inputs + self.wants("weight")) * self.useful_flops("forward")

    def minimum_bytes(self, op: str, keeps: bool = False) -> int:
        """Bytes of what an op of the step reads and writes, each once. See `step.StepOp` for its name and keeps."""
        count = {name: prod(size) for name, size in self.sizes().items()}
        x, y, out, weight, bias = (count[name] for name in ("x", "y", "out", "weight", "bias"))
        layer = x + y + out + weight
        elements = {
            "forward": layer + (bias if self.bias else 0),
            "grad_inputs": layer + x + y,
            "grad_x": layer,
            "grad_y": layer,
            "grad_weight": layer,
            "grad_bias": out + bias,
        }
        if keeps:
            kept = out * self.shape[-1 if self.wants("y") else -2]
            elements["forward"] += kept
            elements |= {"grad_x": x + out + kept, "grad_y": y + out + kept}
        return elements[op] * self.dtype.itemsize

    def wants(self, *names: str) -> bool:
        """Whether all these gradients are wanted."""
        return set(names) <= set(self.gradients)


@dataclass(frozen=True)
class PairwiseProblem(StepProblem):
    """A step of `Z[b, l, s, t] = x[b, s]^T A[l] y[b, t] + c[l]` over dense tensors. shape: (B, S, T, L, M, N)."""

    names: ClassVar[str] = "BSTLMN"
    function: ClassVar[Callable[..., Tensor]] = staticmethod(pairwise_bilinear)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        B, S, T, L, M, N = self.shape
        return {"x": (B, S, M), "y": (B, T, N), "weight": (L, M, N), "bias": (L,), "out": (B, L, S, T)}

    def useful_flops(self, op: str) -> int:
        """Of both products of an op, in the cheaper order."""
        B, S, T, L, M, N = self.shape
        matrices = {
            "forward": (S, M, N, T),
            "grad_x": (S, T, N, M),
            "grad_y": (T, S, M, N),
            "grad_weight": (M, S, T, N),
        }
        return chain_flops(B * L, *matrices[op]) if op in matrices else 0

    def least_flops(self) -> int:
        return sum(self.useful_flops(op) for op in ("forward", *(f"grad_{name}" for name in self.gradients)))


def parse_shape(text: str) -> tuple[int, ...]:
    """(B, L, M, N) from "4096,256,256,256", or (B, S, T, L, M, N) of a pairwise form. ValueError for anything else."""
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (4, 6) or min(sizes) < 1:
        raise ValueError(
            f"expected a shape B,L,M,N (of a pairwise form B,S,T,L,M,N) of positive sizes such as 4096,256,256,256, "
            f"got {text!r}"
        )
    return sizes


def step_of(shape: tuple[int, ...], dtype: torch.dtype) -> StepProblem:
    """The step with all gradients of a layer (B, L, M, N), or of a pairwise form (B, S, T, L, M, N)."""
    kind = PairwiseProblem if len(shape) == len(PairwiseProblem.names) else StepProblem
    return kind(shape, dtype)


def parse_dtype(name: str) -> torch.dtype:
    """torch's dtype from its name or a short one ("bf16"). ValueError for any other."""
    dtype = DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"unknown dtype {name!r}; known are {', '.join(DTYPES)}")
    return dtype
