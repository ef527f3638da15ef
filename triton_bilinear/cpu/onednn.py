"""Matrix products of float32 by oneDNN, on a CPU whose vectors MKL leaves half empty.

torch's own products of float32 are MKL's, which keeps CPUs of other makers than Intel to AVX2; oneDNN's are more than
twice as fast where vectors of AVX-512 are multiplied at once, as on a Zen 5, and a little faster where they are by
halves, as on a Zen 4. torch reaches these by the operator that its compiler takes for a linear layer. It returns a new
tensor; where its right operand is not dense it falls back to a loop that is a thousand times as slow; and it reads a
bias as if it were dense.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .transposed import transposed

# Multiply-adds of a product from which oneDNN's is no slower, and of a sum from which it makes up for a copy of it.
LEAST = 2**21
SHORTEST = 8
# Multiply-adds of each of several products that all threads make faster one by one than MKL's, of which each thread has
# its own.
LEAST_OF_EACH = 2**23
# Elements of a new tensor that is copied, and so takes memory beside its copy, and of a copy.
LARGEST = 2**19
# Rows that meet a matrix from which a dense copy of it pays.
FEWEST_ROWS = 32
# Columns that a matrix meets from which a dense copy of it pays where vectors are multiplied by halves.
FEWEST_COLUMNS = 384


def serves(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products of this dtype on this device are oneDNN's, where one `pays`."""
    return is_there() and dtype == torch.float32 and device.type == "cpu" and bool(torch.backends.mkldnn.enabled)


@cache
def is_there() -> bool:
    """Whether the CPU is one of those, and torch reaches oneDNN."""
    capabilities = torch.cpu.get_capabilities()
    half_empty = bool(capabilities.get("avx512_f")) and str(capabilities.get("cpu_name")).startswith("AMD")
    return half_empty and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def by_halves() -> bool:
    """Whether that CPU multiplies vectors of 512 bits by halves."""
    # Of what torch tells, this instruction is the one mark of AMD's CPUs that do not.
    return not torch.cpu.get_capabilities().get("avx512_vp2intersect")


def pays(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN multiplies these faster, with a copy of one that is not dense, in a new tensor."""
    (rows, length), columns = left.shape, right.shape[1]
    if length < SHORTEST or rows * length * columns < LEAST:
        return False
    if columns < FEWEST_COLUMNS and not left.is_contiguous() and by_halves():
        return False
    return is_dense(right) or (rows >= FEWEST_ROWS and right.numel() <= LARGEST)


def pays_to_copy(left: Tensor, right: Tensor) -> bool:
    """The same with a copy of the product."""
    return left.shape[0] * right.shape[1] <= LARGEST and pays(left, right)


def pays_one_by_one(lefts: Tensor, rights: Tensor) -> bool:
    """The same of each of several products (count, rows, K) (count, K, columns), instead of a batched one."""
    _, rows, length = lefts.shape
    return rows * length * rights.shape[2] >= LEAST_OF_EACH and pays_to_copy(lefts[0], rights[0])


def is_dense(matrix: Tensor) -> bool:
    """Whether a matrix or its transpose is contiguous."""
    return matrix.is_contiguous() or matrix.t().is_contiguous()


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left right + bias, a new tensor. Shapes: (rows, K), (K, columns), dense, (columns,); (rows, columns)."""
    if not left.is_contiguous():
        left = transposed(left.t())  # a copy that is made faster than oneDNN's
    if bias is not None:
        bias = bias.contiguous()
    made: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
    return made
