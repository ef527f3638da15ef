"""Large results on a CPU are written to huge pages where the system gives them."""

from __future__ import annotations

import mmap

import pytest
import torch

import triton_bilinear as tb
from triton_bilinear.cpu import huge_pages


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """First byte and length of each advice, which is not given."""
    ranges: list[tuple[int, int]] = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda begin, length, advice: ranges.append((begin, length)))
    monkeypatch.setattr(huge_pages, "LARGE", 2**16)
    return ranges


def pages_of(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of a tensor from its first whole page on."""
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    return begin, tensor.data_ptr() + tensor.nbytes - begin


def test_advice_is_for_the_bytes_of_each_large_result(advised):
    """Those of the gradient of a weight and of a long batch, and of no other."""
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((20, 64), (20, 64), (8, 64, 64))]
    with tb.use_backend("torch"):
        out = tb.bilinear(*leaves)
        assert not advised
        grads = torch.autograd.grad(out.sum(), leaves)
        assert advised == [pages_of(grads[2])]
        out = tb.bilinear(torch.randn(3000, 6), torch.randn(3000, 5), torch.randn(8, 6, 5))
    assert advised[1:] == [pages_of(out)]


def test_what_is_kept_for_backward_too(advised):
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((600, 64), (600, 64), (1, 64, 64))]
    with tb.use_backend("torch"):
        out = tb.bilinear(*leaves)
        (kept,) = advised  # x A
        assert kept[1] > 600 * 64 * 4 - mmap.PAGESIZE
        grads = torch.autograd.grad(out.sum(), leaves)
    assert advised[1:] == [pages_of(grads[0])]  # that of y is x A times numbers, and torch's


def test_results_of_pairs(advised):
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((9, 40, 64), (9, 40, 64), (8, 64, 64))]
    with tb.use_backend("torch"):
        out = tb.pairwise_bilinear(*leaves)
        grads = torch.autograd.grad(out.sum(), leaves)
    assert sorted(advised) == sorted(pages_of(result) for result in (out, *grads))


def test_without_such_a_system_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(huge_pages, "_madvise", None)
    huge_pages.advise(torch.empty(2**21))


def test_the_system_takes_the_advice_or_leaves_it():
    """Memory keeps what was written, whoever asks, and an empty result asks for nothing."""
    result = torch.arange(2**21)
    huge_pages.advise(result, torch.empty(0))
    assert torch.equal(result, torch.arange(2**21))
