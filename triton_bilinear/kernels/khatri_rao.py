"""out[i, p] = sum_qr u[i, q] v[i, r] T[p, q, r], contracted in the Khatri-Rao order."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, strides, strides3, tile_rows


@triton.jit
def contract_khatri_rao_kernel(
    u_ptr, v_ptr, t_ptr, bias_ptr, out_ptr,
    B, P, Q, R, B_INNER,
    stride_ub, stride_ui, stride_uq,
    stride_vb, stride_vi, stride_vr,
    stride_tp, stride_tq, stride_tr,
    stride_bias,
    stride_os, stride_ob, stride_oi, stride_op,
    steps_per_split,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr,
    VEC_U: tl.constexpr, VEC_V: tl.constexpr, VEC_T: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr,
    EVEN_B: tl.constexpr, EVEN_P: tl.constexpr, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (tile, split) owns out[BLOCK_B rows, BLOCK_P columns] over its share of the (q, r) tiles.

    One matrix product per step, K = (q, r): the left operand u[i, q] * v[i, r] is made in registers and never stored.
    Neighbouring programs share the batch rows; all programs walk T in the same order, so it is read from L2.
    """
    P, Q, R = aligned(P, VEC_P), aligned(Q, VEC_Q), aligned(R, VEC_R)
    stride_ub, stride_ui, stride_uq = strides3(stride_ub, stride_ui, stride_uq, VEC_U, WIDE)
    stride_vb, stride_vi, stride_vr = strides3(stride_vb, stride_vi, stride_vr, VEC_V, WIDE)
    stride_tp, stride_tq, stride_tr = strides3(stride_tp, stride_tq, stride_tr, VEC_T, WIDE)
    stride_ob, stride_oi, stride_op = strides3(stride_ob, stride_oi, stride_op, VEC_OUT, WIDE)
    stride_os = strides(stride_os, VEC_OUT, WIDE)

    num_p = tl.cdiv(P, BLOCK_P)
    pid = tl.program_id(0)
    b0 = (pid // num_p) * BLOCK_B
    rows = b0 + tl.arange(0, BLOCK_B) < B
    offs_p = (pid % num_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_q = tl.arange(0, BLOCK_Q)
    offs_r = tl.arange(0, BLOCK_R)
    offs_k = tl.arange(0, BLOCK_Q * BLOCK_R)
    mask_b = (rows | EVEN_B)[:, None]
    mask_p = ((offs_p < P) | EVEN_P)[None, :]

    u_base, u_rows = tile_rows(b0, BLOCK_B, B_INNER, stride_ub, stride_ui, ROWS)
    v_base, v_rows = tile_rows(b0, BLOCK_B, B_INNER, stride_vb, stride_vi, ROWS)
    u_ptrs = u_ptr + u_base + (u_rows[:, None] + offs_q[None, :] * stride_uq)
    v_ptrs = v_ptr + v_base + (v_rows[:, None] + offs_r[None, :] * stride_vr)
    k_q, k_r = offs_k // BLOCK_R, offs_k % BLOCK_R
    t_ptrs = t_ptr + (k_q * stride_tq + k_r * stride_tr)[:, None] + offs_p[None, :] * stride_tp

    steps_q = tl.cdiv(Q, BLOCK_Q)
    first = tl.program_id(1) * steps_per_split
    last = min(first + steps_per_split, steps_q * tl.cdiv(R, BLOCK_R))
    acc = tl.zeros((BLOCK_B, BLOCK_P), ACC)
    for step in range(first, last):
        q0 = (step % steps_q) * BLOCK_Q
        r0 = (step // steps_q) * BLOCK_R
        mask_u = mask_b & ((q0 + offs_q < Q) | EVEN_Q)[None, :]
        mask_v = mask_b & ((r0 + offs_r < R) | EVEN_R)[None, :]
        mask_k = ((q0 + k_q < Q) | EVEN_Q) & ((r0 + k_r < R) | EVEN_R)
        t_step = q0 * stride_tq + r0 * stride_tr
        u = tl.load(u_ptrs + q0 * stride_uq, mask=mask_u, other=0.0)
        v = tl.load(v_ptrs + r0 * stride_vr, mask=mask_v, other=0.0)
        t = tl.load(t_ptrs + t_step, mask=mask_k[:, None] & mask_p, other=0.0)
        uv = tl.reshape(u[:, :, None] * v[:, None, :], (BLOCK_B, BLOCK_Q * BLOCK_R))
        acc = tl.dot(uv, t, acc, input_precision=PRECISION, out_dtype=ACC)

    if HAS_BIAS:
        bias = tl.load(bias_ptr + offs_p * stride_bias, mask=offs_p < P, other=0.0)
        acc += bias.to(ACC)[None, :]
    out_base, out_rows = tile_rows(b0, BLOCK_B, B_INNER, stride_ob, stride_oi, ROWS)
    out_ptrs = out_ptr + (out_base + tl.program_id(1).to(tl.int64) * stride_os)
    out_ptrs += out_rows[:, None] + offs_p[None, :] * stride_op
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=rows[:, None] & (offs_p < P)[None, :])
