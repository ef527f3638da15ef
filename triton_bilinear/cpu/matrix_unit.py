"""What a CPU's matrix unit for bfloat16 takes, as torch drives it, and when there is one.

That is AMX, or AVX-512's dot products of bfloat16 (Intel from Cooper Lake, AMD from Zen 4), by oneDNN.

It accumulates in float32, but torch stores what it returns in bfloat16. So what lies between two products is rounded
once, x[m] y[n] or a projection, and every sum has to be taken whole, by one matrix product, lest parts of it be rounded
too. `unit_plans` and `pair_plans` plan for that.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from . import onednn
from .budget import MANY

# Elements of all buffers of a call: where einsum holds few, and else one part of those, or at most.
FEW = 2**22
ONE_PART_OF = 8.5
MOST = 3 * 2**21
# Of these oneDNN takes some for itself: so many for each product, so many where its left operand is stored as its
# transpose, and more for some kinds of unit.
SCRATCH = 2**17
SCRATCH_OF_TRANSPOSE = 2**18

# Elements of the largest product.
LARGEST_PIECE = 2**22


class Unit(NamedTuple):
    """A kind of unit. Times are counted in multiply-adds of MKL's product of float32 on its CPU.

    sum_multiple: what the length of a sum must be a multiple of. speed: multiply-adds of bfloat16 in the time of one.
    short_sum: what is fixed for each sum, of bfloat16. call: what is fixed for each product.

    scratch_of_sum: elements that oneDNN takes for itself for each of a sum; scratch_of_operand: for each of the right
    operand of sums over the batch. piece: elements of a product beyond which more are no faster, rows: of a piece.

    one_by_one: one of the products of two rows of features, multiplied by torch's own loop; left_over: one of those at
    the end of a row that do not fill a vector. product: one by the unit, which makes a matrix of those of each row;
    dot: one multiply-add of dot products of each row, dot_of_all: of those of what another core has made; row: what is
    fixed for each row that is a product of its own. copy: one element of a copied weight, transposed: of one whose
    inner axis becomes another.
    """

    sum_multiple: int
    speed: float
    short_sum: float
    call: float
    one_by_one: float
    left_over: float
    product: float
    dot: float
    dot_of_all: float
    row: float
    copy: float
    transposed: float
    scratch_of_sum: int
    scratch_of_operand: float
    piece: int
    rows: int


# oneDNN, as it comes with torch 2.13: with AMX the end of a sum whose length is no multiple of 32 brings a NaN of one
# row into others (its issue 5717).
AMX = Unit(  # measured on a Xeon
    sum_multiple=32,
    speed=3.0,
    short_sum=32.0,
    call=2.5e6,
    one_by_one=20.0,
    left_over=150.0,
    product=12.0,
    dot=12.0,
    dot_of_all=28.0,
    row=20e3,
    copy=18.0,
    transposed=150.0,
    scratch_of_sum=48,
    scratch_of_operand=0.75,
    piece=2**21,
    rows=512,
)
BESIDE_AVX2 = Unit(  # measured on a Zen 5, where MKL's product is of AVX2 (see `onednn`)
    sum_multiple=1,
    speed=4.2,
    short_sum=0.0,
    call=1.5e6,
    one_by_one=10.0,
    left_over=100.0,
    product=3.0,
    dot=5.0,
    dot_of_all=5.0,
    row=8e3,
    copy=4.0,
    transposed=40.0,
    scratch_of_sum=0,
    scratch_of_operand=0.0,
    piece=2**23,
    rows=1024,
)
AVX512 = BESIDE_AVX2._replace(speed=2.0)  # not measured: an instruction does twice the multiply-adds of one of float32

# Rows that keep the unit busy.
FEWEST_ROWS = 48

# With AMX again, some products of few rows (those of the left operand, or with a column-major result those of the right
# one), always of more elements than these, end the process with a division by zero: 32 of 49152, say.
FEW_ROWS = 32
FEW_ELEMENTS = 2**20
# Of longer sums oneDNN keeps parts in float32 beside the result, for each thread and with the result's strides: of a
# part of a matrix that is more than the matrix.
LONGEST_IN_PLACE = 1024
# Of a sum of which products of any number of rows can be made.
LONGEST = FEW_ELEMENTS // FEW_ROWS


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
    return rows * columns <= (LARGEST_PIECE if rows > FEW_ROWS else FEW_ELEMENTS)
