"""out[i, p] = sum_qr u[i, q] v[i, r] T[p, q, r], contracted in the Khatri-Rao order."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, row_strides, strides, strides3, tile_rows
from triton_bilinear.kernels.tiles import below, first_tile, step_tile


@triton.jit
def _load_depth(t_operand, q0, r0, mask_p, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr):
    """The tile of T at (q0, r0): depth (q, r) flattened, columns p."""
    t_ptrs, k_q, k_r, Q, R, stride_tq, stride_tr = t_operand
    mask_k = ((q0 + k_q < Q) | EVEN_Q) & ((r0 + k_r < R) | EVEN_R)
    return tl.load(t_ptrs + (q0 * stride_tq + r0 * stride_tr), mask=mask_k[:, None] & mask_p, other=0.0)


@triton.jit
def contract_khatri_rao_kernel(
    u_ptr, v_ptr, t_ptr, bias_ptr, out_ptr,
    B, P, Q, R, B_MIDDLE, B_INNER,
    stride_ub, stride_uj, stride_ui, stride_uq,
    stride_vb, stride_vj, stride_vi, stride_vr,
    stride_tp, stride_tq, stride_tr,
    stride_bias,
    stride_os, stride_ob, stride_oj, stride_oi, stride_op,
    steps_per_split,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr,
    VEC_U: tl.constexpr, VEC_V: tl.constexpr, VEC_T: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr, VEC_RUN: tl.constexpr,
    EVEN_B: tl.constexpr, EVEN_P: tl.constexpr, EVEN_Q: tl.constexpr, EVEN_R: tl.constexpr,
    ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, HOLD_U: tl.constexpr,
    AHEAD_U: tl.constexpr, AHEAD_V: tl.constexpr, AHEAD_T: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (tile, split) owns out[BLOCK_B rows, BLOCK_P columns] over its share of the (q, r) tiles.

    One matrix product per step, K = (q, r): the left operand u[i, q] * v[i, r] is made in registers and never stored.
    HOLD_U: all of u's columns fit one tile (Q <= BLOCK_Q) and stay on chip for the whole walk.
    Neighbouring programs share the batch rows; all programs walk T in the same order, so it is read from L2.
    """
    B, B_INNER = aligned(B, VEC_RUN), aligned(B_INNER, VEC_RUN)
    P, Q, R = aligned(P, VEC_P), aligned(Q, VEC_Q), aligned(R, VEC_R)
    u_strides, stride_uq = row_strides(stride_ub, stride_uj, stride_ui, stride_uq, VEC_U, WIDE)
    v_strides, stride_vr = row_strides(stride_vb, stride_vj, stride_vi, stride_vr, VEC_V, WIDE)
    stride_tp, stride_tq, stride_tr = strides3(stride_tp, stride_tq, stride_tr, VEC_T, WIDE)
    o_strides, stride_op = row_strides(stride_ob, stride_oj, stride_oi, stride_op, VEC_OUT, WIDE)
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

    u_base, u_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, u_strides, ROWS)
    v_base, v_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, v_strides, ROWS)
    u_ptrs = u_ptr + u_base + (u_rows[:, None] + offs_q[None, :] * stride_uq)
    v_ptrs = v_ptr + v_base + (v_rows[:, None] + offs_r[None, :] * stride_vr)
    k_q, k_r = offs_k // BLOCK_R, offs_k % BLOCK_R
    t_ptrs = t_ptr + (k_q * stride_tq + k_r * stride_tr)[:, None] + offs_p[None, :] * stride_tp

    u_operand = (u_ptrs, 0, offs_q[None, :], Q, stride_uq)
    v_operand = (v_ptrs, 0, offs_r[None, :], R, stride_vr)
    t_operand = (t_ptrs, k_q, k_r, Q, R, stride_tq, stride_tr)

    steps_q = tl.cdiv(Q, BLOCK_Q)
    first = tl.program_id(1) * steps_per_split
    last = tl.minimum(first + steps_per_split, steps_q * tl.cdiv(R, BLOCK_R))
    q0, r0 = first % steps_q * BLOCK_Q, first // steps_q * BLOCK_R
    some = below(first, last)
    u_held = first_tile(u_operand, q0, mask_b & some, EVEN_Q, AHEAD_U or HOLD_U)
    v_held = first_tile(v_operand, r0, mask_b & some, EVEN_R, AHEAD_V)
    if AHEAD_T:
        t_next = _load_depth(t_operand, q0, r0, mask_p & some, EVEN_Q, EVEN_R)
    acc = tl.zeros((BLOCK_B, BLOCK_P), ACC)
    for step in range(first, last):
        q0, r0 = step % steps_q * BLOCK_Q, step // steps_q * BLOCK_R
        q1, r1 = (step + 1) % steps_q * BLOCK_Q, (step + 1) // steps_q * BLOCK_R
        more = below(step + 1, last)
        if HOLD_U:
            u = u_held
        else:
            u, u_held = step_tile(u_operand, u_held, q0, q1, mask_b, mask_b & more, EVEN_Q, AHEAD_U)
        v, v_held = step_tile(v_operand, v_held, r0, r1, mask_b, mask_b & more, EVEN_R, AHEAD_V)
        if AHEAD_T:
            t = t_next
            t_next = _load_depth(t_operand, q1, r1, mask_p & more, EVEN_Q, EVEN_R)
        else:
            t = _load_depth(t_operand, q0, r0, mask_p, EVEN_Q, EVEN_R)
        if BLOCK_Q == 1:
            uv = u * v  # without a change of layouts
        else:
            uv = tl.reshape(u[:, :, None] * v[:, None, :], (BLOCK_B, BLOCK_Q * BLOCK_R))
        acc = tl.dot(uv, t, acc, input_precision=PRECISION, out_dtype=ACC)

    if HAS_BIAS:
        bias = tl.load(bias_ptr + offs_p * stride_bias, mask=offs_p < P, other=0.0)
        acc += bias.to(ACC)[None, :]
    out_base, out_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, o_strides, ROWS)
    out_ptrs = out_ptr + (out_base + tl.program_id(1).to(tl.int64) * stride_os)
    out_ptrs += out_rows[:, None] + offs_p[None, :] * stride_op
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=rows[:, None] & (offs_p < P)[None, :])
