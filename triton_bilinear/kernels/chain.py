"""out[b, l, a, d] = sum_c (sum_e P[b, l, a, e] Q[b, l, e, c]) R[b, l, c, d], or its sum over b or l: all pairs.

Forward nothing else is summed, for the gradient of x the outputs l are, for that of the weight the batch b is.
"""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, row_strides, strides, tile_rows
from triton_bilinear.kernels.tiles import product


@triton.jit
def _matrix(sample, output, B_MIDDLE, B_INNER, levels, ROWS: tl.constexpr):
    """Offset of a sample's matrix for an output, in 64 bits. levels: the strides of b, and that of l."""
    stride_levels, stride_l = levels
    at_sample, _ = tile_rows(sample, 1, B_MIDDLE, B_INNER, stride_levels, ROWS)
    return at_sample + tl.cast(output, tl.int64) * stride_l


@triton.jit
def chain_kernel(
    p_ptr, q_ptr, r_ptr, bias_ptr, out_ptr,
    B, L, A, C, D, E, B_MIDDLE, B_INNER,
    stride_pb, stride_pj, stride_pi, stride_pl, stride_pa, stride_pe,
    stride_qb, stride_qj, stride_qi, stride_ql, stride_qe, stride_qc,
    stride_rb, stride_rj, stride_ri, stride_rl, stride_rc, stride_rd,
    stride_bias,
    stride_os, stride_ob, stride_oj, stride_oi, stride_ol, stride_oa, stride_od,
    steps_per_split,
    BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    VEC_P: tl.constexpr, VEC_Q: tl.constexpr, VEC_R: tl.constexpr, VEC_OUT: tl.constexpr,
    VEC_A: tl.constexpr, VEC_C: tl.constexpr, VEC_D: tl.constexpr, VEC_E: tl.constexpr,
    EVEN_A: tl.constexpr, EVEN_C: tl.constexpr, EVEN_D: tl.constexpr, EVEN_E: tl.constexpr,
    SUMMED: tl.constexpr, ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, AHEAD_P: tl.constexpr, AHEAD_Q: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (a and d tile of one (b, l), split) owns out[BLOCK_A, BLOCK_D] over its share of the c tiles.

    SUMMED: "b" or "l" where that axis is summed too: out has stride 0 along it, and splits share all its c tiles.
    The inner product P Q of a c tile stays on chip: it is rounded once to the operands' dtype, as a stored intermediate
    would be, and feeds the second product.
    """
    A, C, D, E = aligned(A, VEC_A), aligned(C, VEC_C), aligned(D, VEC_D), aligned(E, VEC_E)
    levels_p = row_strides(stride_pb, stride_pj, stride_pi, stride_pl, VEC_P, WIDE)
    levels_q = row_strides(stride_qb, stride_qj, stride_qi, stride_ql, VEC_Q, WIDE)
    levels_r = row_strides(stride_rb, stride_rj, stride_ri, stride_rl, VEC_R, WIDE)
    levels_o = row_strides(stride_ob, stride_oj, stride_oi, stride_ol, VEC_OUT, WIDE)
    stride_pa, stride_pe = strides(stride_pa, VEC_P, WIDE), strides(stride_pe, VEC_P, WIDE)
    stride_qe, stride_qc = strides(stride_qe, VEC_Q, WIDE), strides(stride_qc, VEC_Q, WIDE)
    stride_rc, stride_rd = strides(stride_rc, VEC_R, WIDE), strides(stride_rd, VEC_R, WIDE)
    stride_oa, stride_od = strides(stride_oa, VEC_OUT, WIDE), strides(stride_od, VEC_OUT, WIDE)
    stride_os = strides(stride_os, VEC_OUT, WIDE)

    num_a, num_d = tl.cdiv(A, BLOCK_A), tl.cdiv(D, BLOCK_D)
    pid = tl.program_id(0)
    tile, matrix = pid % (num_a * num_d), pid // (num_a * num_d)
    if SUMMED == "b":
        sample, output, summed = 0, matrix, B
    elif SUMMED == "l":
        sample, output, summed = matrix, 0, L
    else:
        sample, output, summed = matrix // L, matrix % L, 1
    offs_a = tile // num_d * BLOCK_A + tl.arange(0, BLOCK_A)
    offs_d = tile % num_d * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_c = tl.arange(0, BLOCK_C)
    offs_e = tl.arange(0, BLOCK_E)
    mask_a = ((offs_a < A) | EVEN_A)[:, None]
    mask_d = ((offs_d < D) | EVEN_D)[None, :]

    p_base = p_ptr + _matrix(sample, output, B_MIDDLE, B_INNER, levels_p, ROWS)
    q_base = q_ptr + _matrix(sample, output, B_MIDDLE, B_INNER, levels_q, ROWS)
    r_base = r_ptr + _matrix(sample, output, B_MIDDLE, B_INNER, levels_r, ROWS)
    p_ptrs = p_base + offs_a[:, None] * stride_pa + offs_e[None, :] * stride_pe
    q_ptrs = q_base + offs_e[:, None] * stride_qe + offs_c[None, :] * stride_qc
    r_ptrs = r_base + offs_c[:, None] * stride_rc + offs_d[None, :] * stride_rd

    steps_c = tl.cdiv(C, BLOCK_C)
    split = tl.program_id(1)
    first = split * steps_per_split
    acc = tl.zeros((BLOCK_A, BLOCK_D), ACC)
    for step in range(first, tl.minimum(first + steps_per_split, steps_c * summed)):
        if SUMMED == "b":
            k_b, k_l, c0 = step // steps_c, 0, step % steps_c * BLOCK_C
        elif SUMMED == "l":
            k_b, k_l, c0 = 0, step // steps_c, step % steps_c * BLOCK_C
        else:
            k_b, k_l, c0 = 0, 0, step * BLOCK_C
        at_p = _matrix(k_b, k_l, B_MIDDLE, B_INNER, levels_p, ROWS)
        at_q = _matrix(k_b, k_l, B_MIDDLE, B_INNER, levels_q, ROWS)
        at_r = _matrix(k_b, k_l, B_MIDDLE, B_INNER, levels_r, ROWS)
        mask_c = (c0 + offs_c < C) | EVEN_C
        p_operand = (p_ptrs + at_p, 0, offs_e[None, :], E, stride_pe)
        q_operand = (q_ptrs + (at_q + c0 * stride_qc), 0, offs_e[:, None], E, stride_qe)
        inner = product(
            p_operand, q_operand, mask_a, mask_c[None, :],
            BLOCK_E, EVEN_E, (BLOCK_A, BLOCK_C), AHEAD_P, AHEAD_Q, ACC, PRECISION,
        )  # fmt: skip
        r = tl.load(r_ptrs + (at_r + c0 * stride_rc), mask=mask_c[:, None] & mask_d, other=0.0)
        acc = tl.dot(inner.to(r.dtype), r, acc, input_precision=PRECISION, out_dtype=ACC)

    if HAS_BIAS:
        acc += tl.load(bias_ptr + tl.cast(output, tl.int64) * stride_bias, mask=split == 0, other=0.0).to(ACC)
    out_base = out_ptr + split.to(tl.int64) * stride_os + _matrix(sample, output, B_MIDDLE, B_INNER, levels_o, ROWS)
    out_ptrs = out_base + (offs_a[:, None] * stride_oa + offs_d[None, :] * stride_od)
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(offs_a < A)[:, None] & (offs_d < D)[None, :])
