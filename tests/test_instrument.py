"""The counters themselves: a kernel whose work can be counted by hand."""

import pytest
import torch

pytest.importorskip("triton")
import small_kernels
from conftest import INTERPRETED
from instrument import counted

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="counts what Triton's interpreter runs")


def launch(B: int, L: int, K: int, block: int = 16) -> torch.Tensor:
    x, w = torch.randn(B, K), torch.randn(L, K)
    out = torch.empty(B, L)
    grid = (-(-B // block), -(-L // block))
    small_kernels.product_forward_kernel[grid](
        x, w, out, B, L, K, *x.stride(), *w.stride(), *out.stride(), BLOCK_B=block, BLOCK_L=block, BLOCK_K=block
    )
    torch.testing.assert_close(out, x @ w.T)
    return out


def test_full_tiles():
    with counted() as counts:
        launch(32, 16, 48)
    (count,) = counts.launches
    assert count.kernel == "product_forward_kernel"
    assert count.grid[:2] == (2, 1)
    assert count.dots == 2 * 3
    assert count.dot_flops == counts.dot_flops == 2 * 32 * 16 * 48
    assert count.loaded_bytes == 4 * (32 * 48 + 2 * 16 * 48), "both row blocks read all of w"
    assert count.stored_bytes == 4 * 32 * 16
    assert count.atomics == 0


def test_padding_is_work_but_not_traffic():
    with counted() as counts:
        launch(17, 3, 5)
    assert counts.dot_flops == 2 * 32 * 16 * 16
    assert counts.loaded_bytes == 4 * (17 * 5 + 2 * 3 * 5)
    assert counts.stored_bytes == 4 * 17 * 3


def test_launches_add_up():
    with counted() as counts:
        launch(16, 16, 16)
        launch(16, 16, 32)
    assert [count.dot_flops for count in counts.launches] == [2 * 16**3, 4 * 16**3]
    assert counts.dot_flops == 6 * 16**3
    assert counts.of("product_forward_kernel").stored_bytes == counts.stored_bytes == 8 * 16**2
    assert counts.of("another").launches == []


def test_nothing_is_counted_outside():
    with counted() as counts:
        pass
    launch(16, 16, 16)
    assert counts.launches == []


def test_atomics_are_counted():
    out = torch.zeros(1)
    with counted() as counts:
        small_kernels.adding_kernel[(3,)](out)
    assert counts.atomics == 3
    assert out.item() == 3
