"""The step in float64, and how far from it somebody's numbers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..cpu.pieces import spans
from .cases import WEIGHT, Case, Inputs, add_bias

Results = dict[str, Tensor]  # "out", and the gradient of each argument by its name

# Float64 elements of the weight, and of the first product, that are looked at at a time: 128 MiB.
_ELEMENTS = 2**24

# Largest error of a result or gradient, as norms over its elements. Between what rounding explains (F.bilinear, which
# adds up gradients in half precision, loses five roundings at L = 1024) and what a missing term would be.
BOUNDS = {"float64": 1e-12, "float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}


def step_results(out: Tensor, names: tuple[str, ...], gradients: tuple[Tensor, ...]) -> Results:
    """A result and its gradients, by name."""
    return {"out": out.detach(), **dict(zip(names, gradients, strict=True))}


def truth(case: Case, inputs: Inputs) -> Results:
    """The result and the case's gradients in float64, of some samples and some outputs at a time."""
    arguments = inputs.arguments()
    exact = {name: torch.zeros_like(arguments[name], dtype=torch.float64) for name in case.gradients}
    exact["out"] = torch.zeros_like(inputs.g, dtype=torch.float64)
    axis, size = case.form.out.index("l"), case.sizes
    few_outputs = spans(size["l"], max(1, _ELEMENTS // (size["m"] * size["n"])))
    few_samples = list(spans(size["b"], max(1, _ELEMENTS * size["b"] // case.elements(_middle(case)))))
    for outputs in few_outputs:
        layer = {name: t[outputs].double() for name, t in arguments.items() if name in ("weight", "bias")}
        for samples in few_samples:
            x, y, g = (tensor[samples].double() for tensor in (inputs.x, inputs.y, inputs.g))
            width = outputs.stop - outputs.start
            part = _piece(case, {"x": x, "y": y, **layer}, g.narrow(axis, outputs.start, width))
            for name, found in part.items():
                if name in ("x", "y"):
                    exact[name][samples] += found
                elif name == "out":
                    exact[name][samples].narrow(axis, outputs.start, width).copy_(found)
                else:
                    exact[name][outputs] += found
    return exact


def _middle(case: Case) -> str:
    """The axes of the first product: of x and the weight, or of x and y where that is the smaller one."""
    x_weight, pairs = case.form.x.replace("m", "ln"), case.form.x.replace("m", "mn")
    return x_weight if case.form.pairwise or case.elements(x_weight) <= case.elements(pairs) else pairs


def _piece(case: Case, arguments: dict[str, Tensor], g: Tensor) -> Results:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    x, y, weight, *bias = leaves.values()
    form, middle = case.form, _middle(case)
    if "l" in middle:
        out = torch.einsum(f"{middle},{form.y}->{form.out}", torch.einsum(f"{form.x},{WEIGHT}->{middle}", x, weight), y)
    else:
        out = torch.einsum(f"{middle},{WEIGHT}->{form.out}", torch.einsum(f"{form.x},{form.y}->{middle}", x, y), weight)
    out = add_bias(case, out, *bias)
    return step_results(out, case.gradients, torch.autograd.grad(out, [leaves[name] for name in case.gradients], g))


def worst_error(results: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest error of a result, relative to its norm. Results that have other names are not looked at.

    nan where a result is not finite; infinity where its shape is wrong.
    """
    worst: Any = torch.zeros((), dtype=torch.float64)
    for name in results.keys() & expected.keys():
        actual, right = results[name], expected[name]
        if actual.shape != right.shape:
            return float("inf")
        error = (actual - right).norm() / right.norm().clamp_min(torch.finfo(torch.float64).tiny)
        worst = torch.maximum(worst.to(error.device), error)  # of nan and a number it is nan
    return worst.item()
