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
    """Element offset of every batch row. Always 64-bit: it is computed once, and rows times stride grow large."""
    outer = (offs_b // B_INNER).to(tl.int64)
    inner = (offs_b % B_INNER).to(tl.int64)
    return outer * stride_outer + inner * stride_inner


@triton.jit
def walked_row_offsets(start, SIZE: tl.constexpr, B_INNER, stride_outer, stride_inner, ONE_LEVEL: tl.constexpr):
    """`row_offsets` of rows start, start + 1, ... in a loop over start: what does not depend on it leaves the loop."""
    if ONE_LEVEL:
        stride = tl.cast(stride_outer, tl.int64)
        return tl.arange(0, SIZE) * stride + start * stride
    else:
        return row_offsets(start + tl.arange(0, SIZE), B_INNER, stride_outer, stride_inner)


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
