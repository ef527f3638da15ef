"""Tiles of operands, loaded along an axis, and their products along all of it."""

import triton
import triton.language as tl


@triton.jit
def load_tile(operand, first, mask, EVEN: tl.constexpr):
    """The operand's tile at index `first` of the axis that it is walked along; zeros beyond its end.

    operand: pointers and the distance from them to its tile at index 0; offsets along that axis, its size, its stride.
    """
    ptrs, start, offs, size, stride = operand
    return tl.load(ptrs + (start + first * stride), mask=mask & ((first + offs < size) | EVEN), other=0.0)


@triton.jit
def below(index, end):
    """Whether index < end, as a mask."""
    return tl.full((1, 1), index, tl.int32) < end


@triton.jit
def product(
    left, right, mask_left, mask_right,
    BLOCK: tl.constexpr, EVEN: tl.constexpr, SHAPE: tl.constexpr,
    AHEAD_LEFT: tl.constexpr, AHEAD_RIGHT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The product of two tiles, summed over all of the depth that both operands (see `load_tile`) are walked along."""
    depth = left[3]
    if AHEAD_LEFT:
        left_next = load_tile(left, 0, mask_left, EVEN)
    if AHEAD_RIGHT:
        right_next = load_tile(right, 0, mask_right, EVEN)
    acc = tl.zeros(SHAPE, ACC)
    for k0 in range(0, depth, BLOCK):
        k1 = k0 + BLOCK
        if AHEAD_LEFT:
            left_tile = left_next
            left_next = load_tile(left, k1, mask_left & below(k1, depth), EVEN)
        else:
            left_tile = load_tile(left, k0, mask_left, EVEN)
        if AHEAD_RIGHT:
            right_tile = right_next
            right_next = load_tile(right, k1, mask_right & below(k1, depth), EVEN)
        else:
            right_tile = load_tile(right, k0, mask_right, EVEN)
        acc = tl.dot(left_tile, right_tile, acc, input_precision=PRECISION, out_dtype=ACC)
    return acc
