"""Small kernels to test what looks at kernels from outside: the compiler, the stand-in driver, the counters."""

import torch
import triton
import triton.language as tl


@triton.jit
def product_forward_kernel(
    x_ptr,
    w_ptr,
    out_ptr,
    B,
    L,
    K,
    stride_xb,
    stride_xk,
    stride_wl,
    stride_wk,
    stride_ob,
    stride_ol,
    BLOCK_B: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):
    # out[b, l] = sum_k x[b, k] w[l, k]; each program owns one (BLOCK_B, BLOCK_L) tile of out
    offs_b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_l = tl.program_id(1).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + offs_b[:, None] * stride_xb + offs_k[None, :] * stride_xk
    w_ptrs = w_ptr + offs_l[None, :] * stride_wl + offs_k[:, None] * stride_wk
    acc = tl.zeros((BLOCK_B, BLOCK_L), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        x = tl.load(x_ptrs, mask=(offs_b[:, None] < B) & (k + offs_k[None, :] < K), other=0.0)
        w = tl.load(w_ptrs, mask=(offs_l[None, :] < L) & (k + offs_k[:, None] < K), other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        x_ptrs += BLOCK_K * stride_xk
        w_ptrs += BLOCK_K * stride_wk
    out = acc.to(out_ptr.dtype.element_ty)
    mask = (offs_b[:, None] < B) & (offs_l[None, :] < L)
    tl.store(out_ptr + offs_b[:, None] * stride_ob + offs_l[None, :] * stride_ol, out, mask=mask)


@triton.jit
def malformed_kernel(x_ptr, SIZE: tl.constexpr):
    # three is no power of two: the compiler refuses this
    tl.store(x_ptr + tl.arange(0, SIZE), tl.zeros((3,), dtype=tl.float32))


@triton.jit
def adding_kernel(out_ptr):
    # out += 1 from every program, by an atomic operation
    tl.atomic_add(out_ptr, 1.0)


@triton.jit
def filling_kernel(out_ptr, SIZE, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    # out[i] = 1 for i < SIZE; without its mask the last program goes on beyond
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, 1.0, mask=(offs < SIZE) | (not MASKED))


def launch_product(B: int, L: int, K: int, block: int, dtype: torch.dtype = torch.float16, num_stages: int = 2) -> None:
    """Launches product_forward_kernel on fresh CPU tensors."""
    x, w, out = (torch.zeros(shape, dtype=dtype) for shape in ((B, K), (L, K), (B, L)))
    sizes = (B, L, K, *x.stride(), *w.stride(), *out.stride())
    grid = (triton.cdiv(B, block), triton.cdiv(L, block))
    options = {"num_warps": 4, "num_stages": num_stages, "enable_fp_fusion": True}
    product_forward_kernel[grid](x, w, out, *sizes, BLOCK_B=block, BLOCK_L=block, BLOCK_K=block, **options)
