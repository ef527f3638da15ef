"""out[p, q, r] = sum_i a[i, p] b[i, q] c[i, r]: the gradient of the weight, its axes in any order."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, strides, strides3, tile_rows


@triton.jit
def grad_weight_kernel(
    a_ptr, b_ptr, c_ptr, out_ptr,
    B, P, Q, R, B_INNER,
    stride_ab, stride_ai, stride_ap,
    stride_bb, stride_bi, stride_bq,
    stride_cb, stride_ci, stride_cr,
    stride_os, stride_op, stride_oq, stride_or,
    rows_per_split,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr,
    VEC_A: tl.constexpr, VEC_B: tl.constexpr, VEC_C: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr,
    EVEN_B: tl.constexpr, EVEN_P: tl.constexpr, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    ROWS: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (tile, split) owns out[BLOCK_P, BLOCK_Q, BLOCK_R] over its share of the batch.

    One matrix product per step, K = batch rows: the left operand a[i, p] * b[i, q], rows (p, q) flattened, is made in
    registers and never stored.
    """
    P, Q, R = aligned(P, VEC_P), aligned(Q, VEC_Q), aligned(R, VEC_R)
    stride_ab, stride_ai, stride_ap = strides3(stride_ab, stride_ai, stride_ap, VEC_A, WIDE)
    stride_bb, stride_bi, stride_bq = strides3(stride_bb, stride_bi, stride_bq, VEC_B, WIDE)
    stride_cb, stride_ci, stride_cr = strides3(stride_cb, stride_ci, stride_cr, VEC_C, WIDE)
    stride_op, stride_oq, stride_or = strides3(stride_op, stride_oq, stride_or, VEC_OUT, WIDE)
    stride_os = strides(stride_os, VEC_OUT, WIDE)

    num_q, num_r = tl.cdiv(Q, BLOCK_Q), tl.cdiv(R, BLOCK_R)
    pid = tl.program_id(0)
    p0 = pid // (num_q * num_r) * BLOCK_P
    q0 = pid // num_r % num_q * BLOCK_Q
    offs_p = p0 + tl.arange(0, BLOCK_P)
    offs_q = q0 + tl.arange(0, BLOCK_Q)
    offs_r = pid % num_r * BLOCK_R + tl.arange(0, BLOCK_R)
    mask_p = ((offs_p < P) | EVEN_P)[:, None]
    mask_q = ((offs_q < Q) | EVEN_Q)[None, :]
    mask_r = ((offs_r < R) | EVEN_R)[None, :]

    first = tl.program_id(1) * rows_per_split
    last = min(first + rows_per_split, B)
    a_ptrs = a_ptr + offs_p[:, None] * stride_ap
    b_ptrs = b_ptr + offs_q[None, :] * stride_bq
    c_ptrs = c_ptr + offs_r[None, :] * stride_cr
    acc = tl.zeros((BLOCK_P * BLOCK_Q, BLOCK_R), ACC)
    for b0 in range(first, last, BLOCK_B):
        mask_b = (b0 + tl.arange(0, BLOCK_B) < last) | EVEN_B
        a_base, a_rows = tile_rows(b0, BLOCK_B, B_INNER, stride_ab, stride_ai, ROWS)
        b_base, b_rows = tile_rows(b0, BLOCK_B, B_INNER, stride_bb, stride_bi, ROWS)
        c_base, c_rows = tile_rows(b0, BLOCK_B, B_INNER, stride_cb, stride_ci, ROWS)
        a = tl.load(a_ptrs + a_rows[None, :] + a_base, mask=mask_b[None, :] & mask_p, other=0.0)
        b = tl.load(b_ptrs + b_rows[:, None] + b_base, mask=mask_b[:, None] & mask_q, other=0.0)
        c = tl.load(c_ptrs + c_rows[:, None] + c_base, mask=mask_b[:, None] & mask_r, other=0.0)
        if BLOCK_P == 1:
            # In the layout of the load, where no two threads hold the same element of b.
            ab = tl.trans(b * tl.trans(a))
        else:
            ab = tl.reshape(a[:, None, :] * tl.trans(b)[None, :, :], (BLOCK_P * BLOCK_Q, BLOCK_B))
        acc = tl.dot(ab, c, acc, input_precision=PRECISION, out_dtype=ACC)

    offs_pq = tl.arange(0, BLOCK_P * BLOCK_Q)
    row_p, row_q = p0 + offs_pq // BLOCK_Q, q0 + offs_pq % BLOCK_Q
    out_offs = (row_p * stride_op + row_q * stride_oq)[:, None] + offs_r[None, :] * stride_or
    out_ptrs = out_ptr + tl.program_id(1).to(tl.int64) * stride_os + out_offs
    out_mask = ((row_p < P) & (row_q < Q))[:, None] & (offs_r < R)[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=out_mask)
