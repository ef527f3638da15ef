"""Kinds of matrix unit for bfloat16 in CPUs, as oneDNN drives them: what each takes, and what it costs."""

from __future__ import annotations

from math import inf
from typing import NamedTuple


class Unit(NamedTuple):
    """A kind of unit. Times are counted in multiply-adds of MKL's product of float32 on its CPU."""

    # What the length of a sum must be a multiple of, lest its end bring a NaN of one row into others.
    sum_multiple: int
    # Rows (of the left operand, or with a column-major result of the right one) for which a product of more than
    # `matrix_unit.FEW_ELEMENTS` may end the process with a division by zero: 32 of 49152, say. Two of oneDNN's faults.
    few_rows: int

    speed: float  # multiply-adds of bfloat16 in the time of one
    short_sum: float  # what is fixed for each sum, in multiply-adds of bfloat16
    call: float  # what is fixed for each product
    row: float  # what is fixed for each row of the batch, where it is a product of its own
    product: float  # one product of two features, and
    product_row: float  # what is fixed for those of one feature and a row of others (see `bags`)
    product_of_rows: float  # one by torch's loop along the rows of the batch, where sums need no padding; and for that
    turned: float  # one element of transposed features
    sum: float  # one multiply-add of weighted rows that are added up, of what another core has made, and
    sum_row: float  # what is fixed for each of them (see `bags`)
    dot: float  # one multiply-add of dot products of each row
    dot_of_all: float  # of those of what another core has made
    dot_of_copy: float  # of those in float32, of a copy
    copy: float  # one element of a copied weight
    transposed: float  # one of a copy whose inner axis is another

    fewest_rows: int  # of a left operand that keep the unit busy, and
    fewest_columns: int  # of a part of a right one that is copied
    rows: int  # of a piece, and
    piece: int  # elements of a product, beyond which more are no faster
    cached: int  # elements of a sum over the batch, or of a weight, that caches hold; of more than that
    read: float  # one element that a core reads
    reads_transposes: bool  # whether a vector times a stored transpose is faster than that matrix times it
    scratch_of_sum: int  # elements that oneDNN takes for each of a sum
    scratch_of_operand: float  # for each of the right operand of a sum over the batch


AMX = Unit(  # measured on a Xeon, with the oneDNN that torch 2.13 comes with; the NaN is that one's issue 5717
    sum_multiple=32,
    few_rows=32,
    speed=3.0,
    short_sum=32.0,
    call=2.5e6,
    row=20e3,
    product=4.5,  # this and the next, and those of sums, not measured: somewhat more than on a Zen 5
    product_row=110.0,
    product_of_rows=inf,  # sums are padded
    turned=inf,
    sum=18.0,
    sum_row=110.0,
    dot=12.0,
    dot_of_all=28.0,
    dot_of_copy=inf,  # not measured: never the cheapest
    copy=18.0,
    transposed=150.0,
    fewest_rows=48,
    fewest_columns=1,
    rows=512,
    piece=2**21,
    cached=2**22,
    read=0.0,  # not measured
    reads_transposes=False,  # not measured
    scratch_of_sum=48,
    scratch_of_operand=0.75,
)
# AVX-512's dot products, measured on a Zen 5, where MKL's product is of AVX2 (see `onednn`). On a Zen 4 its plans of 25
# sizes took 3 % longer than the best in the mean, by costs of its own 2 %.
BESIDE_AVX2 = Unit(
    sum_multiple=1,
    few_rows=0,
    speed=4.2,
    short_sum=0.0,
    call=1.5e6,
    row=5e3,
    product=3.6,
    product_row=70.0,
    product_of_rows=5.4,
    turned=35.0,
    sum=4.0,
    sum_row=77.0,
    dot=6.5,
    dot_of_all=5.5,
    dot_of_copy=14.0,
    copy=4.0,
    transposed=40.0,
    fewest_rows=24,
    fewest_columns=24,
    rows=1024,
    piece=2**23,
    cached=9 * 2**19,
    read=9.0,
    reads_transposes=True,
    scratch_of_sum=0,
    scratch_of_operand=0.0,
)
AVX512 = BESIDE_AVX2._replace(speed=2.0)  # not measured: an instruction does twice the multiply-adds of one of float32
