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
def first_tile(operand, first, mask, EVEN: tl.constexpr, AHEAD: tl.constexpr):
    """What a walk holds before its first step: that step's tile where tiles are loaded a step ahead, else nothing."""
    if AHEAD:
        return load_tile(operand, first, mask, EVEN)
    else:
        return 0


@triton.jit
def step_tile(operand, held, now, then, mask, mask_then, EVEN: tl.constexpr, AHEAD: tl.constexpr):
    """This step's tile, at index `now`, and what the walk holds for the next one, at `then`."""
    if AHEAD:
        return held, load_tile(operand, then, mask_then, EVEN)
    else:
        return load_tile(operand, now, mask, EVEN), held


@triton.jit
def product(
    left, right, mask_left, mask_right,
    BLOCK: tl.constexpr, EVEN: tl.constexpr, SHAPE: tl.constexpr,
    AHEAD_LEFT: tl.constexpr, AHEAD_RIGHT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The product of two tiles, summed over all of the depth that both operands (see `load_tile`) are walked along."""
    depth = left[3]
    held_left = first_tile(left, 0, mask_left, EVEN, AHEAD_LEFT)
    held_right = first_tile(right, 0, mask_right, EVEN, AHEAD_RIGHT)
    acc = tl.zeros(SHAPE, ACC)
    for k in range(0, depth, BLOCK):
        then = k + BLOCK
        more = below(then, depth)
        a, held_left = step_tile(left, held_left, k, then, mask_left, mask_left & more, EVEN, AHEAD_LEFT)
        b, held_right = step_tile(right, held_right, k, then, mask_right, mask_right & more, EVEN, AHEAD_RIGHT)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    return acc
