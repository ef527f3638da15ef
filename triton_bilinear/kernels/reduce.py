"""out[i, p] = sum_s partial[s, i, p] + bias[p]: the second pass of every split, in a fixed order."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import row_offsets


@triton.jit
def reduce_partials_kernel(
    partial_ptr, bias_ptr, out_ptr,
    S, B, P, B_MIDDLE, B_INNER,
    stride_ps,
    stride_bias,
    stride_ob, stride_oj, stride_oi, stride_op,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Program (tile) owns out[BLOCK_B rows, BLOCK_P columns] and adds its S partial results, which lie (S, B, P)."""
    num_p = tl.cdiv(P, BLOCK_P)
    pid = tl.program_id(0)
    offs_b = (pid // num_p) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_p = (pid % num_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_b < B)[:, None] & (offs_p < P)[None, :]
    partial_ptrs = partial_ptr + offs_b.to(tl.int64)[:, None] * P + offs_p[None, :]
    acc = tl.zeros((BLOCK_B, BLOCK_P), partial_ptr.dtype.element_ty)
    for s in range(S):
        acc += tl.load(partial_ptrs + s * tl.cast(stride_ps, tl.int64), mask=mask, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + offs_p.to(tl.int64) * stride_bias, mask=offs_p < P, other=0.0)
        acc += bias.to(acc.dtype)[None, :]
    out_rows = row_offsets(offs_b, B_MIDDLE, B_INNER, stride_ob, stride_oj, stride_oi)
    out_ptrs = out_ptr + out_rows[:, None] + offs_p.to(tl.int64)[None, :] * stride_op
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=mask)
