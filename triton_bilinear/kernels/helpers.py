"""Index arithmetic shared by the kernels."""

import triton
import triton.language as tl


@triton.jit
def row_offsets(offs_b, B_MIDDLE, B_INNER, stride_outer, stride_middle, stride_inner):
    """Element offset of every batch row, in 64 bits."""
    steps, inner = offs_b // B_INNER, offs_b % B_INNER
    outer, middle = (steps // B_MIDDLE).to(tl.int64), (steps % B_MIDDLE).to(tl.int64)
    return outer * stride_outer + middle * stride_middle + inner.to(tl.int64) * stride_inner


@triton.jit
def tile_rows(first, SIZE: tl.constexpr, B_MIDDLE, B_INNER, stride_levels, ROWS: tl.constexpr):
    """Offsets of SIZE batch rows in two parts: the first row's, a 64-bit scalar, and each row's from that one.

    The second part has the strides' width. ROWS: "flat" where one stride walks all rows, "straight" where no tile
    crosses a middle step, "crossing" where some do, but none an outer step, "nested" where some cross both.
    """
    stride_outer, stride_middle, stride_inner = stride_levels
    offs = tl.arange(0, SIZE)
    if ROWS == "flat":
        return tl.cast(first, tl.int64) * stride_inner, offs * stride_inner
    else:
        steps, inner = first // B_INNER, first % B_INNER
        outer, middle = steps // B_MIDDLE, steps % B_MIDDLE
        base = tl.cast(outer, tl.int64) * stride_outer + tl.cast(middle, tl.int64) * stride_middle
        base += tl.cast(inner, tl.int64) * stride_inner
        if ROWS == "straight":
            return base, offs * stride_inner
        else:
            row_steps, row_inner = (first + offs) // B_INNER, (first + offs) % B_INNER
            within = (row_inner - inner) * stride_inner
            if ROWS == "crossing":
                return base, within + (row_steps - steps) * stride_middle
            else:
                within += (row_steps % B_MIDDLE - middle) * stride_middle
                return base, within + (row_steps // B_MIDDLE - outer) * stride_outer


@triton.jit
def aligned(value, VEC: tl.constexpr):
    """The same value, which the launcher knows to be a multiple of VEC, as the compiler can see it too.

    A launch tells the compiler of multiples of 16 alone; rows of 200 or 180 elements can be read in vectors as well, as
    can 1000 rows of the batch that lie side by side.
    A value of 1 is a constant of the launch, here a plain int, and stays one.
    """
    if isinstance(value, int):
        return value
    else:
        return value // VEC * VEC


@triton.jit
def strides(value, VEC: tl.constexpr, WIDE: tl.constexpr):
    """A stride that is a multiple of VEC, in 64 bits where the launcher found that offsets need them.

    Indices stay 32 bits wide: masks are made of them.
    """
    value = aligned(value, VEC)
    if WIDE and not isinstance(value, int):
        return tl.cast(value, tl.int64)
    else:
        return value


@triton.jit
def strides3(first, second, third, VEC: tl.constexpr, WIDE: tl.constexpr):
    """`strides` for the three strides of an operand."""
    return strides(first, VEC, WIDE), strides(second, VEC, WIDE), strides(third, VEC, WIDE)


@triton.jit
def row_strides(outer, middle, inner, feature, VEC: tl.constexpr, WIDE: tl.constexpr):
    """`strides` for an operand of rows: those of its rows' three levels, for `tile_rows`, and that of its features."""
    return strides3(outer, middle, inner, VEC, WIDE), strides(feature, VEC, WIDE)
