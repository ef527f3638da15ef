"""bench/products.py: what of a step is matrix products, by torch's profiler."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.products import kind_of, shares
from triton_bilinear.benchmark.rivals import Step


def step_of(forward, *leaves: torch.Tensor) -> Step:
    result = forward()
    return Step(forward, leaves, torch.ones_like(result), ())


def test_products_and_passes_are_told_apart() -> None:
    x, y = torch.randn(512, 512, requires_grad=True), torch.randn(512, 512)
    products = shares(step_of(lambda: x @ y @ y, x))
    passes = shares(step_of(lambda: x * y * y, x))
    assert products.products > 0.8 > 0.1 > products.passes
    assert passes.passes > 0.8
    assert passes.products == 0


@pytest.mark.parametrize(
    ("operator", "shapes", "kind"),
    [
        ("aten::mm", [[64, 1], [1, 8]], "products"),
        ("aten::bmm", [[9, 4, 5], [9, 5, 6]], "products"),
        ("aten::bmm", [[9, 1, 5], [9, 5, 6]], "passes"),  # dot products with a row
        ("aten::bmm", [[9, 4, 1], [9, 1, 6]], "passes"),  # products of two rows
        ("aten::mul", [[9, 4, 1], [9, 1, 6]], "passes"),
        ("aten::_embedding_bag_forward_only", [[9, 6], [36], [37]], "passes"),
        ("aten::view", [[9, 4]], "rest"),
    ],
)
def test_kinds_of_operators(operator: str, shapes: list[list[int]], kind: str) -> None:
    assert kind_of(operator, shapes) == kind
