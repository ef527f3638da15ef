"""dx[i, m] = sum_ln g[i, l] A[l, m, n] y[i, n] and dy[i, n] = sum_lm g[i, l] A[l, m, n] x[i, m], from one product."""

import triton
import triton.language as tl

from triton_bilinear.kernels.helpers import aligned, row_strides, strides, strides3, tile_rows
from triton_bilinear.kernels.tiles import below, first_tile, load_tile, product, step_tile


@triton.jit
def grad_inputs_kernel(
    g_ptr, x_ptr, y_ptr, a_ptr, dx_ptr, dy_ptr,
    B, L, M, N, B_MIDDLE, B_INNER,
    stride_gb, stride_gj, stride_gi, stride_gl,
    stride_xb, stride_xj, stride_xi, stride_xm,
    stride_yb, stride_yj, stride_yi, stride_yn,
    stride_al, stride_am, stride_an,
    stride_dxs, stride_dxb, stride_dxj, stride_dxi, stride_dxm,
    stride_dys, stride_dyb, stride_dyj, stride_dyi, stride_dyn,
    tiles_per_group, m_per_split,
    BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    VEC_G: tl.constexpr, VEC_X: tl.constexpr, VEC_Y: tl.constexpr, VEC_A: tl.constexpr,
    VEC_DX: tl.constexpr, VEC_DY: tl.constexpr,
    VEC_L: tl.constexpr, VEC_M: tl.constexpr, VEC_N: tl.constexpr, VEC_RUN: tl.constexpr,
    EVEN_B: tl.constexpr, EVEN_L: tl.constexpr, EVEN_M: tl.constexpr, EVEN_N: tl.constexpr,
    ROWS: tl.constexpr, HOLD_G: tl.constexpr, AHEAD_G: tl.constexpr, AHEAD_A: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (batch tile, group of n tiles, m split) walks its n tiles, and for each the m tiles of its split.

    G = g . A is one product with K = l and the columns (m, n) flattened; G[i, m, n] stays in the accumulator. Its sum
    over m with x grows dy[rows, n tile] in registers. Its sum over n with y is added to dx[rows, m tile], which no
    other program touches: each group of n tiles has a dx of its own, added up afterwards in a fixed order.
    HOLD_G: all of g's columns fit one tile (L <= BLOCK_L) and stay on chip for the whole walk.
    """
    B, B_INNER = aligned(B, VEC_RUN), aligned(B_INNER, VEC_RUN)
    L, M, N = aligned(L, VEC_L), aligned(M, VEC_M), aligned(N, VEC_N)
    g_strides, stride_gl = row_strides(stride_gb, stride_gj, stride_gi, stride_gl, VEC_G, WIDE)
    x_strides, stride_xm = row_strides(stride_xb, stride_xj, stride_xi, stride_xm, VEC_X, WIDE)
    y_strides, stride_yn = row_strides(stride_yb, stride_yj, stride_yi, stride_yn, VEC_Y, WIDE)
    stride_al, stride_am, stride_an = strides3(stride_al, stride_am, stride_an, VEC_A, WIDE)
    dx_strides, stride_dxm = row_strides(stride_dxb, stride_dxj, stride_dxi, stride_dxm, VEC_DX, WIDE)
    dy_strides, stride_dyn = row_strides(stride_dyb, stride_dyj, stride_dyi, stride_dyn, VEC_DY, WIDE)
    stride_dxs, stride_dys = strides(stride_dxs, VEC_DX, WIDE), strides(stride_dys, VEC_DY, WIDE)

    num_n = tl.cdiv(N, BLOCK_N)
    num_groups = tl.cdiv(num_n, tiles_per_group)
    group = tl.program_id(0) % num_groups
    split = tl.program_id(1)
    b0 = (tl.program_id(0) // num_groups) * BLOCK_B
    offs_l = tl.arange(0, BLOCK_L)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_c = tl.arange(0, BLOCK_M * BLOCK_N)
    col_m, col_n = offs_c // BLOCK_N, offs_c % BLOCK_N
    rows = b0 + tl.arange(0, BLOCK_B) < B
    mask_b = (rows | EVEN_B)[:, None]

    g_base, g_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, g_strides, ROWS)
    x_base, x_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, x_strides, ROWS)
    y_base, y_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, y_strides, ROWS)
    dx_base, dx_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, dx_strides, ROWS)
    dy_base, dy_rows = tile_rows(b0, BLOCK_B, B_MIDDLE, B_INNER, dy_strides, ROWS)
    dx_base += group.to(tl.int64) * stride_dxs
    dy_base += split.to(tl.int64) * stride_dys
    g_ptrs = g_ptr + g_base + (g_rows[:, None] + offs_l[None, :] * stride_gl)
    x_ptrs = x_ptr + x_base + (x_rows[:, None] + offs_m[None, :] * stride_xm)
    y_ptrs = y_ptr + y_base + (y_rows[:, None] + offs_n[None, :] * stride_yn)
    dx_ptrs = dx_ptr + dx_base + (dx_rows[:, None] + offs_m[None, :] * stride_dxm)
    dy_ptrs = dy_ptr + dy_base + (dy_rows[:, None] + offs_n[None, :] * stride_dyn)
    a_ptrs = a_ptr + offs_l[:, None] * stride_al + (col_m * stride_am + col_n * stride_an)[None, :]

    g_operand = (g_ptrs, 0, offs_l[None, :], L, stride_gl)
    x_operand = (x_ptrs, 0, offs_m[None, :], M, stride_xm)
    y_operand = (y_ptrs, 0, offs_n[None, :], N, stride_yn)
    mask_l = ((offs_l < L) | EVEN_L)[:, None]
    if HOLD_G:
        g_held = load_tile(g_operand, 0, mask_b, EVEN_L)
    m_first = split * m_per_split
    m_last = tl.minimum(m_first + m_per_split, M)
    n_first = group * tiles_per_group * BLOCK_N
    for n0 in range(n_first, tl.minimum(n_first + tiles_per_group * BLOCK_N, N), BLOCK_N):
        tl.debug_barrier()  # this program's own dx of the n tile before is read back below, by other threads of it
        y = load_tile(y_operand, n0, mask_b, EVEN_N).to(ACC)
        mask_n = ((n0 + col_n < N) | EVEN_N)[None, :]
        a_along_m = (a_ptrs, n0 * stride_an, col_m[None, :], M, stride_am)
        a_held = first_tile(a_along_m, m_first, mask_l & mask_n & below(m_first, m_last), EVEN_M, HOLD_G and AHEAD_A)
        dy = tl.zeros((BLOCK_B, BLOCK_N), ACC)
        grown = below(n_first, n0)
        for m0 in range(m_first, m_last, BLOCK_M):
            dx_mask = rows[:, None] & (m0 + offs_m < M)[None, :]
            dx_tile = dx_ptrs + m0 * stride_dxm
            x = load_tile(x_operand, m0, mask_b, EVEN_M).to(ACC)
            dx = tl.load(dx_tile, mask=dx_mask & grown, other=0.0).to(ACC)
            if HOLD_G:
                m1, mask_a = m0 + BLOCK_M, mask_l & mask_n
                more = below(m1, m_last)
                a, a_held = step_tile(a_along_m, a_held, m0, m1, mask_a, mask_a & more, EVEN_M, AHEAD_A)
                acc = tl.dot(g_held, a, input_precision=PRECISION, out_dtype=ACC)
            else:
                a_along_l = (a_ptrs, m0 * stride_am + n0 * stride_an, offs_l[:, None], L, stride_al)
                mask_c = mask_n & ((m0 + col_m < M) | EVEN_M)[None, :]
                acc = product(
                    g_operand, a_along_l, mask_b, mask_c,
                    BLOCK_L, EVEN_L, (BLOCK_B, BLOCK_M * BLOCK_N), AHEAD_G, AHEAD_A, ACC, PRECISION,
                )  # fmt: skip
            grad = tl.reshape(acc, (BLOCK_B, BLOCK_M, BLOCK_N))
            dy += tl.sum(grad * x[:, :, None], 1)
            dx += tl.sum(grad * y[:, None, :], 2)
            tl.store(dx_tile, dx.to(dx_ptr.dtype.element_ty), mask=dx_mask)
        dy_mask = rows[:, None] & (n0 + offs_n < N)[None, :]
        tl.store(dy_ptrs + n0 * stride_dyn, dy.to(dy_ptr.dtype.element_ty), mask=dy_mask)
