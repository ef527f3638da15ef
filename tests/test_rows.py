"""Batch axes as levels of rows: where rows lie, how tiles cross steps, and how far apart the rows of a tile are."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from triton_bilinear.gpu.rows import Rows, batch_rows

# (batch shape of the storage, slices of it that keep its axes apart)
BATCHES = [
    ((1000,), ()),
    ((40, 30), (slice(25),)),
    ((40, 300), (slice(256),)),
    ((5, 9, 30), (slice(7), slice(24))),
    ((5, 4, 300), (slice(3), slice(256))),
    ((3, 5, 200), (slice(4), slice(130))),
    ((400, 3, 4), (slice(2), slice(3))),
]


def batch(shape: tuple[int, ...], slices: tuple[slice, ...]) -> torch.Tensor:
    """Rows of two features, whose offsets are their values."""
    whole = torch.arange(2 * torch.Size(shape).numel()).view(*shape, 2)
    return whole[(slice(None), *slices)] if slices else whole


def offset(rows: Rows, row: int) -> int:
    steps, inner = divmod(row, rows.inner)
    outer, middle = divmod(steps, rows.middle)
    return sum(index * stride for index, stride in zip((outer, middle, inner), rows.strides[0], strict=True))


@pytest.mark.parametrize(("shape", "slices"), BATCHES)
def test_rows_lie_where_the_strides_say(shape, slices):
    tensor = batch(shape, slices)
    rows = batch_rows([tensor])
    assert rows.count == tensor[..., 0].numel()
    assert [offset(rows, row) for row in range(rows.count)] == tensor[..., 0].flatten().tolist()


@pytest.mark.parametrize("block", [16, 64, 128, 256])
@pytest.mark.parametrize(("shape", "slices"), BATCHES)
def test_kind_and_reach_of_tiles(shape, slices, block):
    rows = batch_rows([batch(shape, slices)])
    crosses_middle = crosses_outer = False
    for first in range(0, rows.count, block):
        tile = range(first, min(first + block, rows.count))
        offsets = [offset(rows, row) for row in tile]
        assert max(offsets) - min(offsets) <= rows.reach(0)
        crosses_middle |= any(a // rows.inner != b // rows.inner for a, b in itertools.pairwise(tile))
        outer = rows.inner * rows.middle
        crosses_outer |= any(a // outer != b // outer for a, b in itertools.pairwise(tile))
    match rows.kind(block):
        case "flat" | "straight":
            assert not crosses_middle
        case "crossing":
            assert not crosses_outer
        case kind:
            assert kind == "nested"


def test_reach_where_middle_steps_are_longer_than_outer_ones():
    """Expanded along the outer axis: at its step the kernel goes back over all middle ones."""
    rows = batch_rows([torch.empty_strided((2, 1000, 4, 8), (0, 3_000_000, 8, 1), device="meta")])
    assert (rows.kind(16), rows.middle) == ("nested", 1000)
    assert rows.reach(0) >= 999 * 3_000_000


def test_every_kind_is_met():
    assert {batch_rows([batch(*each)]).kind(64) for each in BATCHES} == {"flat", "straight", "crossing", "nested"}


def test_rows_that_lie_side_by_side():
    """In any of the tensors; of a single column rows always do, and no vector of several is read."""
    row_major, features_first = torch.empty(1000, 5), torch.empty(7, 1000).T
    assert batch_rows([row_major]).run == 1
    assert batch_rows([row_major, torch.empty(1000, 1)]).run == 1
    assert batch_rows([row_major, features_first]).run == 1000
    assert batch_rows([torch.empty(20, 39, 8).movedim(1, -1), torch.empty(20, 8, 5)]).run == 8
