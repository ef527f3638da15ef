"""out[b, o, a, d] = sum_{k, c} (sum_e P[b, o, k, a, e] Q[b, o, k, e, c]) R[b, o, k, c, d]: all of the pairwise form."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, strides, strides3
from triton_bilinear.kernels.tiles import product


@triton.jit
def chain_kernel(
    p_ptr, q_ptr, r_ptr, bias_ptr, out_ptr,
    OUTER, K, A, C, D, E,
    stride_pb, stride_po, stride_pk, stride_pa, stride_pe,
    stride_qb, stride_qo, stride_qk, stride_qe, stride_qc,
    stride_rb, stride_ro, stride_rk, stride_rc, stride_rd,
    stride_bias,
    stride_os, stride_ob, stride_oo, stride_oa, stride_od,
    steps_per_split,
    BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_A: tl.constexpr, VEC_C: tl.constexpr, VEC_D: tl.constexpr, VEC_E: tl.constexpr,
    EVEN_A: tl.constexpr, EVEN_C: tl.constexpr, EVEN_D: tl.constexpr, EVEN_E: tl.constexpr,
    HAS_BIAS: tl.constexpr, AHEAD_P: tl.constexpr, AHEAD_Q: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (a and d tile of one (b, o), split) owns out[BLOCK_A, BLOCK_D] over its share of the (k, c) tiles.

    The inner product P Q of a c tile stays on chip: it is rounded once to the operands' dtype, as a stored intermediate
    would be, and feeds the second product.
    """
    A, C, D, E = aligned(A, VEC_A), aligned(C, VEC_C), aligned(D, VEC_D), aligned(E, VEC_E)
    stride_pb, stride_po, stride_pk = strides3(stride_pb, stride_po, stride_pk, VEC_P, WIDE)
    stride_pa, stride_pe = strides(stride_pa, VEC_P, WIDE), strides(stride_pe, VEC_P, WIDE)
    stride_qb, stride_qo, stride_qk = strides3(stride_qb, stride_qo, stride_qk, VEC_Q, WIDE)
    stride_qe, stride_qc = strides(stride_qe, VEC_Q, WIDE), strides(stride_qc, VEC_Q, WIDE)
    stride_rb, stride_ro, stride_rk = strides3(stride_rb, stride_ro, stride_rk, VEC_R, WIDE)
    stride_rc, stride_rd = strides(stride_rc, VEC_R, WIDE), strides(stride_rd, VEC_R, WIDE)
    stride_ob, stride_oo, stride_oa = strides3(stride_ob, stride_oo, stride_oa, VEC_OUT, WIDE)
    stride_od, stride_os = strides(stride_od, VEC_OUT, WIDE), strides(stride_os, VEC_OUT, WIDE)

    num_a, num_d = tl.cdiv(A, BLOCK_A), tl.cdiv(D, BLOCK_D)
    pid = tl.program_id(0)
    tile = pid % (num_a * num_d)
    b = (pid // (num_a * num_d) // OUTER).to(tl.int64)
    o = (pid // (num_a * num_d) % OUTER).to(tl.int64)
    offs_a = tile // num_d * BLOCK_A + tl.arange(0, BLOCK_A)
    offs_d = tile % num_d * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_c = tl.arange(0, BLOCK_C)
    offs_e = tl.arange(0, BLOCK_E)
    mask_a = ((offs_a < A) | EVEN_A)[:, None]
    mask_d = ((offs_d < D) | EVEN_D)[None, :]

    p_base = p_ptr + (b * stride_pb + o * stride_po)
    q_base = q_ptr + (b * stride_qb + o * stride_qo)
    r_base = r_ptr + (b * stride_rb + o * stride_ro)
    p_ptrs = p_base + offs_a[:, None] * stride_pa + offs_e[None, :] * stride_pe
    q_ptrs = q_base + offs_e[:, None] * stride_qe + offs_c[None, :] * stride_qc
    r_ptrs = r_base + offs_c[:, None] * stride_rc + offs_d[None, :] * stride_rd

    steps_c = tl.cdiv(C, BLOCK_C)
    split = tl.program_id(1)
    first = split * steps_per_split
    acc = tl.zeros((BLOCK_A, BLOCK_D), ACC)
    for step in range(first, tl.minimum(first + steps_per_split, steps_c * K)):
        k = (step // steps_c).to(tl.int64)
        c0 = step % steps_c * BLOCK_C
        mask_c = (c0 + offs_c < C) | EVEN_C
        p_operand = (p_ptrs + k * stride_pk, 0, offs_e[None, :], E, stride_pe)
        q_operand = (q_ptrs + (k * stride_qk + c0 * stride_qc), 0, offs_e[:, None], E, stride_qe)
        inner = product(
            p_operand, q_operand, mask_a, mask_c[None, :],
            BLOCK_E, EVEN_E, (BLOCK_A, BLOCK_C), AHEAD_P, AHEAD_Q, ACC, PRECISION,
        )  # fmt: skip
        r_tile = r_ptrs + k * stride_rk + c0 * stride_rc
        r = tl.load(r_tile, mask=mask_c[:, None] & mask_d, other=0.0)
        acc = tl.dot(inner.to(r.dtype), r, acc, input_precision=PRECISION, out_dtype=ACC)

    if HAS_BIAS:
        acc += tl.load(bias_ptr + o * stride_bias, mask=split == 0, other=0.0).to(ACC)
    out_base = out_ptr + split.to(tl.int64) * stride_os + b * stride_ob + o * stride_oo
    out_ptrs = out_base + (offs_a[:, None] * stride_oa + offs_d[None, :] * stride_od)
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(offs_a < A)[:, None] & (offs_d < D)[None, :])
