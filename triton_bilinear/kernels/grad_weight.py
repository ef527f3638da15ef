"""out[p, q, r] = sum_i a[i, p] b[i, q] c[i, r]: the gradient of the weight, its axes in any order."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, row_strides, strides, strides3, tile_rows
from triton_bilinear.kernels.tiles import below


@triton.jit
def _load_rows(operand, b0, mask, BLOCK_B: tl.constexpr, B_MIDDLE, B_INNER, ROWS: tl.constexpr):
    """The (rows, columns) tile of an operand from batch row b0 on."""
    ptrs, columns, stride_levels = operand
    base, rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, stride_levels, ROWS)
    return tl.load(ptrs + rows[:, None] + base, mask=mask & columns, other=0.0)


@triton.jit
def _first_rows(
    operand, first, mask,
    BLOCK_B: tl.constexpr, B_MIDDLE, B_INNER, ROWS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """What is held before the first step: see `tiles.first_tile`."""
    if AHEAD:
        return _load_rows(operand, first, mask, BLOCK_B, B_MIDDLE, B_INNER, ROWS)
    else:
        return 0


@triton.jit
def _step_rows(
    operand, held, b0, mask, mask_next,
    BLOCK_B: tl.constexpr, B_MIDDLE, B_INNER, ROWS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """This step's tile, and what is held for the next one: see `tiles.step_tile`."""
    if AHEAD:
        return held, _load_rows(operand, b0 + BLOCK_B, mask_next, BLOCK_B, B_MIDDLE, B_INNER, ROWS)
    else:
        return _load_rows(operand, b0, mask, BLOCK_B, B_MIDDLE, B_INNER, ROWS), held


@triton.jit
def grad_weight_kernel(
    a_ptr, b_ptr, c_ptr, out_ptr,
    B, P, Q, R, B_MIDDLE, B_INNER,
    stride_ab, stride_aj, stride_ai, stride_ap,
    stride_bb, stride_bj, stride_bi, stride_bq,
    stride_cb, stride_cj, stride_ci, stride_cr,
    stride_os, stride_op, stride_oq, stride_or,
    rows_per_split,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr,
    VEC_A: tl.constexpr, VEC_B: tl.constexpr, VEC_C: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr, VEC_RUN: tl.constexpr,
    EVEN_B: tl.constexpr, EVEN_P: tl.constexpr, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    ROWS: tl.constexpr, AHEAD_A: tl.constexpr, AHEAD_B: tl.constexpr, AHEAD_C: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (tile, split) owns out[BLOCK_P, BLOCK_Q, BLOCK_R] over its share of the batch.

    One matrix product per step, K = batch rows: the left operand a[i, p] * b[i, q], rows (p, q) flattened, is made in
    registers and never stored.
    """
    B, B_INNER = aligned(B, VEC_RUN), aligned(B_INNER, VEC_RUN)
    P, Q, R = aligned(P, VEC_P), aligned(Q, VEC_Q), aligned(R, VEC_R)
    a_strides, stride_ap = row_strides(stride_ab, stride_aj, stride_ai, stride_ap, VEC_A, WIDE)
    b_strides, stride_bq = row_strides(stride_bb, stride_bj, stride_bi, stride_bq, VEC_B, WIDE)
    c_strides, stride_cr = row_strides(stride_cb, stride_cj, stride_ci, stride_cr, VEC_C, WIDE)
    stride_op, stride_oq, stride_or = strides3(stride_op, stride_oq, stride_or, VEC_OUT, WIDE)
    stride_os = strides(stride_os, VEC_OUT, WIDE)

    num_q, num_r = tl.cdiv(Q, BLOCK_Q), tl.cdiv(R, BLOCK_R)
    pid = tl.program_id(0)
    p0 = pid // (num_q * num_r) * BLOCK_P
    q0 = pid // num_r % num_q * BLOCK_Q
    offs_p = p0 + tl.arange(0, BLOCK_P)
    offs_q = q0 + tl.arange(0, BLOCK_Q)
    offs_r = pid % num_r * BLOCK_R + tl.arange(0, BLOCK_R)
    a_operand = (a_ptr + offs_p[None, :] * stride_ap, ((offs_p < P) | EVEN_P)[None, :], a_strides)
    b_operand = (b_ptr + offs_q[None, :] * stride_bq, ((offs_q < Q) | EVEN_Q)[None, :], b_strides)
    c_operand = (c_ptr + offs_r[None, :] * stride_cr, ((offs_r < R) | EVEN_R)[None, :], c_strides)

    first = tl.program_id(1) * rows_per_split
    last = tl.minimum(first + rows_per_split, B)
    offs_b = tl.arange(0, BLOCK_B)
    mask_first = ((first + offs_b < last) | EVEN_B)[:, None] & below(first, last)
    a_held = _first_rows(a_operand, first, mask_first, BLOCK_B, B_MIDDLE, B_INNER, ROWS, AHEAD_A)
    b_held = _first_rows(b_operand, first, mask_first, BLOCK_B, B_MIDDLE, B_INNER, ROWS, AHEAD_B)
    c_held = _first_rows(c_operand, first, mask_first, BLOCK_B, B_MIDDLE, B_INNER, ROWS, AHEAD_C)
    acc = tl.zeros((BLOCK_P * BLOCK_Q, BLOCK_R), ACC)
    for b0 in range(first, last, BLOCK_B):
        mask_b = ((b0 + offs_b < last) | EVEN_B)[:, None]
        mask_next = ((b0 + BLOCK_B + offs_b < last) | EVEN_B)[:, None] & below(b0 + BLOCK_B, last)
        a, a_held = _step_rows(a_operand, a_held, b0, mask_b, mask_next, BLOCK_B, B_MIDDLE, B_INNER, ROWS, AHEAD_A)
        b, b_held = _step_rows(b_operand, b_held, b0, mask_b, mask_next, BLOCK_B, B_MIDDLE, B_INNER, ROWS, AHEAD_B)
        c, c_held = _step_rows(c_operand, c_held, b0, mask_b, mask_next, BLOCK_B, B_MIDDLE, B_INNER, ROWS, AHEAD_C)
        if BLOCK_P == 1:
            # In the layout of the load, where no two threads hold the same element of b.
            ab = tl.trans(b * a)
        else:
            ab = tl.reshape(tl.trans(a)[:, None, :] * tl.trans(b)[None, :, :], (BLOCK_P * BLOCK_Q, BLOCK_B))
        acc = tl.dot(ab, c, acc, input_precision=PRECISION, out_dtype=ACC)

    offs_pq = tl.arange(0, BLOCK_P * BLOCK_Q)
    row_p, row_q = p0 + offs_pq // BLOCK_Q, q0 + offs_pq % BLOCK_Q
    out_offs = (row_p * stride_op + row_q * stride_oq)[:, None] + offs_r[None, :] * stride_or
    out_ptrs = out_ptr + tl.program_id(1).to(tl.int64) * stride_os + out_offs
    out_mask = ((row_p < P) & (row_q < Q))[:, None] & (offs_r < R)[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=out_mask)
