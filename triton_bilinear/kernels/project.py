"""out[i, p] = sum_r v[i, r] (sum_q u[i, q] T[p, q, r]), contracted in the project-then-dot order."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, row_strides, strides, strides3, tile_rows
from triton_bilinear.kernels.tiles import load_tile, product


@triton.jit
def contract_project_kernel(
    u_ptr, v_ptr, t_ptr, bias_ptr, out_ptr, kept_ptr,
    B, P, Q, R, B_MIDDLE, B_INNER,
    stride_ub, stride_uj, stride_ui, stride_uq,
    stride_vb, stride_vj, stride_vi, stride_vr,
    stride_tp, stride_tq, stride_tr,
    stride_bias,
    stride_os, stride_ob, stride_oj, stride_oi, stride_op,
    stride_kb, stride_kj, stride_ki, stride_kp, stride_kr,
    steps_per_split,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr,
    VEC_U: tl.constexpr, VEC_V: tl.constexpr, VEC_T: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr, VEC_RUN: tl.constexpr,
    EVEN_B: tl.constexpr, EVEN_P: tl.constexpr, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, KEEP: tl.constexpr,
    AHEAD_U: tl.constexpr, AHEAD_T: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (tile, split) owns out[BLOCK_B rows, BLOCK_P columns] over its share of the r tiles.

    For each r tile a plain matrix product with K = q and the columns (p, r) flattened, then the dot with v in the
    accumulator's precision: nothing is rounded on the way. KEEP also stores the projection, kept[i, p, r].
    """
    B, B_INNER = aligned(B, VEC_RUN), aligned(B_INNER, VEC_RUN)
    P, Q, R = aligned(P, VEC_P), aligned(Q, VEC_Q), aligned(R, VEC_R)
    u_strides, stride_uq = row_strides(stride_ub, stride_uj, stride_ui, stride_uq, VEC_U, WIDE)
    v_strides, stride_vr = row_strides(stride_vb, stride_vj, stride_vi, stride_vr, VEC_V, WIDE)
    stride_tp, stride_tq, stride_tr = strides3(stride_tp, stride_tq, stride_tr, VEC_T, WIDE)
    o_strides, stride_op = row_strides(stride_ob, stride_oj, stride_oi, stride_op, VEC_OUT, WIDE)
    stride_os = strides(stride_os, VEC_OUT, WIDE)
    k_strides, stride_kr = row_strides(stride_kb, stride_kj, stride_ki, stride_kr, 1, WIDE)
    stride_kp = strides(stride_kp, 1, WIDE)

    num_p = tl.cdiv(P, BLOCK_P)
    pid = tl.program_id(0)
    b0 = (pid // num_p) * BLOCK_B
    rows = b0 + tl.arange(0, BLOCK_B) < B
    offs_p = (pid % num_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_q = tl.arange(0, BLOCK_Q)
    offs_r = tl.arange(0, BLOCK_R)
    offs_c = tl.arange(0, BLOCK_P * BLOCK_R)
    col_p, col_r = (pid % num_p) * BLOCK_P + offs_c // BLOCK_R, offs_c % BLOCK_R
    mask_b = (rows | EVEN_B)[:, None]
    mask_p = (col_p < P) | EVEN_P

    u_base, u_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, u_strides, ROWS)
    v_base, v_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, v_strides, ROWS)
    u_ptrs = u_ptr + u_base + (u_rows[:, None] + offs_q[None, :] * stride_uq)
    v_ptrs = v_ptr + v_base + (v_rows[:, None] + offs_r[None, :] * stride_vr)
    t_ptrs = t_ptr + offs_q[:, None] * stride_tq + (col_p * stride_tp + col_r * stride_tr)[None, :]

    u_operand = (u_ptrs, 0, offs_q[None, :], Q, stride_uq)
    v_operand = (v_ptrs, 0, offs_r[None, :], R, stride_vr)

    first = tl.program_id(1) * steps_per_split
    last = tl.minimum(first + steps_per_split, tl.cdiv(R, BLOCK_R))
    out = tl.zeros((BLOCK_B, BLOCK_P), ACC)
    for step in range(first, last):
        r0 = step * BLOCK_R
        mask_c = (mask_p & ((r0 + col_r < R) | EVEN_R))[None, :]
        t_operand = (t_ptrs, r0 * stride_tr, offs_q[:, None], Q, stride_tq)
        acc = product(
            u_operand, t_operand, mask_b, mask_c,
            BLOCK_Q, EVEN_Q, (BLOCK_B, BLOCK_P * BLOCK_R), AHEAD_U, AHEAD_T, ACC, PRECISION,
        )  # fmt: skip
        v = load_tile(v_operand, r0, mask_b, EVEN_R).to(ACC)
        out += tl.sum(tl.reshape(acc, (BLOCK_B, BLOCK_P, BLOCK_R)) * v[:, None, :], 2)
        if KEEP:
            kept_base, kept_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, k_strides, ROWS)
            kept_offs = kept_rows[:, None] + (col_p * stride_kp + (r0 + col_r) * stride_kr)[None, :]
            kept_ptrs = kept_ptr + kept_base + kept_offs
            kept_mask = rows[:, None] & ((col_p < P) & (r0 + col_r < R))[None, :]
            tl.store(kept_ptrs, acc.to(kept_ptr.dtype.element_ty), mask=kept_mask)

    if HAS_BIAS:
        bias = tl.load(bias_ptr + offs_p * stride_bias, mask=offs_p < P, other=0.0)
        out += bias.to(ACC)[None, :]
    out_base, out_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, o_strides, ROWS)
    out_ptrs = out_ptr + (out_base + tl.program_id(1).to(tl.int64) * stride_os)
    out_ptrs += out_rows[:, None] + offs_p[None, :] * stride_op
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=rows[:, None] & (offs_p < P)[None, :])
