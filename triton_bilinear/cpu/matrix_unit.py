"""What a CPU's matrix unit for bfloat16 takes, as torch drives it, and when there is one.

That is AMX, or AVX-512's dot products of bfloat16 (Intel from Cooper Lake, AMD from Zen 4), by oneDNN.

It accumulates in float32, but torch stores what it returns in bfloat16. So what lies between two products is rounded
once, x[m] y[n] or a projection, and every sum has to be taken whole, by one matrix product, lest parts of it be rounded
too. `unit_plans` and `pair_plans` plan for that.
"""

from __future__ import annotations

from functools import cache
from math import gcd

import torch
from torch import Tensor

from . import onednn
from .budget import MANY
from .units import AMX, AVX512, BESIDE_AVX2, Unit

# Elements of all buffers of a call: where einsum holds few, and else one part of those, or at most.
FEW = 2**22
ONE_PART_OF = 8.75
MOST = 3 * 2**21
# Of these oneDNN takes some for itself: so many for each product, so many where its left operand is stored as its
# transpose, and more for some kinds of unit.
SCRATCH = 2**17
SCRATCH_OF_TRANSPOSE = 2**18

# Elements of the largest product.
LARGEST_PIECE = 2**22
# And with few rows (see `Unit.few_rows`).
FEW_ELEMENTS = 2**20
# Of longer sums oneDNN keeps parts in float32 beside the result, for each thread and with the result's strides: of a
# part of a matrix that is more than the matrix.
LONGEST_IN_PLACE = 1024


def serves(tensor: Tensor) -> bool:
    """Whether torch multiplies matrices of this tensor's dtype and device by a matrix unit."""
    is_served = tensor.dtype == torch.bfloat16 and tensor.is_cpu and bool(torch.backends.mkldnn.enabled)
    return is_served and _unit() is not None


def takes_any_sum(tensor: Tensor) -> bool:
    """Whether it serves operands as they are, however long the sums."""
    return serves(tensor) and kind().sum_multiple == 1


def kind() -> Unit:
    """The kind of unit that is there."""
    return _unit() or AMX


@cache
def _unit() -> Unit | None:
    if not torch.backends.mkldnn.is_available():
        return None
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("amx_bf16"):
        return AMX
    if capabilities.get("avx512_bf16"):
        return BESIDE_AVX2 if onednn.is_there() else AVX512
    return None


def room(held: int, longest_sum: int, transposed: bool = False) -> int:
    """Elements of our buffers in a call of which einsum would hold so many; below 0 if oneDNN's take it all.

    transposed: left operands are stored as their transposes.
    """
    most = FEW if held <= MANY else min(MOST, int(held / ONE_PART_OF))
    scratch = SCRATCH + kind().scratch_of_sum * longest_sum + SCRATCH_OF_TRANSPOSE * transposed
    return most - scratch


def padded(outer: int, inner: int) -> int:
    """The least width >= inner for which sums over (outer, width) have a length that the unit takes."""
    whole = kind().sum_multiple
    unit = whole // gcd(whole, outer)
    return -(-inner // unit) * unit


def even(rows: int) -> int:
    """As many rows or one more: an odd number of rows times an odd number of columns takes up to five times as long."""
    return rows + rows % 2


def can_be_a_piece(rows: int, columns: int) -> bool:
    """Whether an operand of a product is no larger than a piece, and none of few rows that may end the process."""
    return rows * columns <= (LARGEST_PIECE if rows > kind().few_rows else FEW_ELEMENTS)


def can_be_a_sum(length: int) -> bool:
    """Whether products of any number of rows can be made of sums of this length."""
    return length * kind().few_rows <= FEW_ELEMENTS
