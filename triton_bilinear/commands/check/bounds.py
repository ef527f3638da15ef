"""How far from float64 a result may be, element by element.

Every checked quantity is a sum of K terms `t`, each a product of one element from each of some tensors. With z the
exact sum, `S = sum |t|` and `R = sqrt(sum t^2)`, an element may be wrong by

    eps_out |z|  +  2 eps_product R  +  eps_sum (sqrt(K) + 3) S

* `eps_out |z|`: the rounding of the result, twice what one rounding to nearest may do.
* `2 eps_product R`: in half precision, and with tf32, the terms themselves are rounded once before the matrix unit.
  Their errors are independent, at most `eps / 2` each relative to the term, so the error of the sum has a standard
  deviation of at most `eps R / sqrt(12)`: the bound is seven of those.
* `eps_sum (sqrt(K) + 3) S`: the roundings of a sum of K terms in the accumulator's type (float32; float64 for float64),
  after those of the terms, products of up to four factors. The root is the probabilistic bound of Higham and Mary
  (2019), which holds for any order of summation; the worst case would have K in its place.

K, S and R need no formulas of their own: as every quantity has coefficients of one, they are the same function applied
to tensors of ones, to absolute values, and (the root of) to squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Precision:
    """A dtype, and the spacing at 1 of what products are rounded to; 0 where they are not rounded before the sum."""

    name: str
    dtype: torch.dtype
    eps_product: float
    allow_tf32: bool = False

    @property
    def eps_out(self) -> float:
        return torch.finfo(self.dtype).eps

    @property
    def eps_sum(self) -> float:
        return torch.finfo(torch.float64 if self.dtype == torch.float64 else torch.float32).eps


FLOAT64 = Precision("float64", torch.float64, 0.0)
FLOAT32 = Precision("float32", torch.float32, 0.0)
FLOAT16 = Precision("float16", torch.float16, torch.finfo(torch.float16).eps)
BFLOAT16 = Precision("bfloat16", torch.bfloat16, torch.finfo(torch.bfloat16).eps)
# Both factors of a term are cut to 11 bits, and some hardware truncates: four roundings where others have one.
TF32 = Precision("tf32", torch.float32, 4 * 2.0**-10, allow_tf32=True)

Quantities = dict[str, Tensor]


@dataclass(frozen=True)
class Exact:
    """One quantity in float64: its value z, and R, S and K of the module's text, element by element."""

    value: Tensor
    root_square: Tensor
    absolute: Tensor
    terms: Tensor

    def bound(self, precision: Precision) -> Tensor:
        return (
            precision.eps_out * self.value.abs()
            + 2 * precision.eps_product * self.root_square
            + precision.eps_sum * (self.terms.sqrt() + 3) * self.absolute
        )


def exact(function: Callable[..., Quantities], tensors: tuple[Tensor, ...]) -> dict[str, Exact]:
    """The quantities that `function` computes from float64 tensors, with what their bounds need."""
    values, squares, absolutes, terms = (
        function(*(change(tensor.double()) for tensor in tensors))
        for change in (torch.clone, torch.square, torch.abs, torch.ones_like)
    )
    return {name: Exact(value, squares[name].sqrt(), absolutes[name], terms[name]) for name, value in values.items()}


@dataclass(frozen=True)
class Error:
    """The element of a result that is worst by error / bound. Error and bound are relative to that element's R."""

    error: float
    bound: float
    ratio: float


def worst_error(actual: Tensor, exact: Exact, precision: Precision) -> Error:
    """Compare a result with the exact one.

    Raises:
        ValueError: a result of another shape or dtype than it must have.
    """
    if actual.shape != exact.value.shape or actual.dtype != precision.dtype:
        raise ValueError(
            f"expected {tuple(exact.value.shape)} {precision.dtype}, got {tuple(actual.shape)} {actual.dtype}"
        )
    if actual.numel() == 0:
        return Error(0.0, 0.0, 0.0)
    error = (actual.double() - exact.value).abs().nan_to_num(nan=torch.inf).flatten()
    bound = exact.bound(precision).flatten()
    ratio = torch.where(error == 0, 0.0, error / bound)  # a sum of nothing is exactly zero
    at = ratio.argmax()
    scale = exact.root_square.flatten()[at].clamp_min(torch.finfo(torch.float64).tiny)
    return Error((error[at] / scale).item(), (bound[at] / scale).item(), ratio[at].item())
