"""Index arithmetic shared by the kernels."""

import triton
import triton.language as tl


@triton.jit
def offsets(start, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """``start + arange(SIZE)``, in 64 bits where the launcher found that 32 do not suffice."""
    offs = tl.arange(0, SIZE)
    if WIDE:
        offs = offs.to(tl.int64)
    return start + offs


@triton.jit
def row_offsets(offs_b, B_INNER, stride_outer, stride_inner):
    """Element offset of every batch row, in 64 bits."""
    outer = (offs_b // B_INNER).to(tl.int64)
    inner = (offs_b % B_INNER).to(tl.int64)
    return outer * stride_outer + inner * stride_inner


@triton.jit
def tile_rows(first, SIZE: tl.constexpr, B_INNER, stride_outer, stride_inner, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of SIZE batch rows in two parts: the first row's, a 64-bit scalar, and each row's from that one.

    The second part has 32 bits unless WIDE. ROWS: "flat" where there is no outer step, "straight" where no tile crosses
    one, "crossing" where some do.
    """
    offs = tl.arange(0, SIZE)
    if ROWS == "flat":
        return tl.cast(first, tl.int64) * stride_inner, offs * widen(stride_inner, WIDE)
    else:
        outer, inner = first // B_INNER, first % B_INNER
        base = tl.cast(outer, tl.int64) * stride_outer + tl.cast(inner, tl.int64) * stride_inner
        if ROWS == "straight":
            return base, offs * widen(stride_inner, WIDE)
        else:
            rows = first + offs
            from_outer = (rows // B_INNER - outer) * widen(stride_outer, WIDE)
            return base, from_outer + (rows % B_INNER - inner) * widen(stride_inner, WIDE)


@triton.jit
def aligned(value, VEC: tl.constexpr):
    """The same value, which the launcher knows to be a multiple of VEC, as the compiler can see it too.

    A launch tells the compiler of multiples of 16 alone; rows of 200 or 180 elements can be read in vectors as well.
    A value of 1 is a constant of the launch, here a plain int, and stays one.
    """
    if isinstance(value, int):
        return value
    else:
        return value // VEC * VEC


@triton.jit
def aligned3(first, second, third, VEC: tl.constexpr):
    """`aligned` for the three strides of an operand."""
    return aligned(first, VEC), aligned(second, VEC), aligned(third, VEC)


@triton.jit
def widen(stride, WIDE: tl.constexpr):
    """A stride whose multiples may pass 2**31."""
    if WIDE:
        return tl.cast(stride, tl.int64)
    else:
        return stride
