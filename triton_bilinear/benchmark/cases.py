"""The sizes that benchmarks run, named after who uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from ..functional import bilinear, pairwise_bilinear
from ..inspection.problem import PairwiseProblem, StepProblem

WEIGHT = "lmn"


@dataclass(frozen=True)
class Form:
    """A public function, and the axes of x, y and the result as letters.

    b: samples, d: a second batch axis, behind the features; s, t: rows of x and of y, all pairs of which are scored;
    l, m, n: as in the weight (L, M, N).
    """

    x: str
    y: str
    out: str
    function: Callable[..., Tensor]

    @property
    def pairwise(self) -> bool:
        return "s" in self.x


ROWS = Form("bm", "bn", "bl", bilinear)
FIELDS = Form("bmd", "bnd", "bld", partial(bilinear, feature_dim=1))
PAIRS = Form("bsm", "btn", "blst", pairwise_bilinear)


@dataclass(frozen=True)
class Case:
    """A bilinear layer in somebody's model, and one step of its training.

    sizes: of each axis of the form. cpu_batch: what takes the place of `b` where there is no GPU. dtype: by torch's
    name. gradients: those that the user's training takes, of "x", "y", "weight" and "bias"; there is a bias where
    "bias" is among them. stored: the order in memory of the axes of "weight" or of "g", the gradient of the result,
    where it is not theirs. sliced: x and y are columns of matrices that are so many times as wide. quick: whether the
    quick set takes it.
    """

    name: str
    form: Form
    sizes: Mapping[str, int]
    cpu_batch: int
    dtype: str = "float32"
    gradients: tuple[str, ...] = ("x", "y", "weight", "bias")
    stored: Mapping[str, str] = field(default_factory=dict)
    sliced: int = 1
    quick: bool = False

    @property
    def bias(self) -> bool:
        return "bias" in self.gradients

    def axes(self, name: str) -> str:
        """Letters of "x", "y", "weight", "bias" or "g"."""
        return {"x": self.form.x, "y": self.form.y, "weight": WEIGHT, "bias": "l", "g": self.form.out}[name]

    def elements(self, axes: str) -> int:
        """Of a tensor with these axes."""
        return prod(self.sizes[axis] for axis in axes)

    def resized(self, **sizes: int) -> Case:
        """The same case with other sizes."""
        return replace(self, sizes={**self.sizes, **sizes})

    def on(self, device: torch.device) -> Case:
        """The case as this device runs it."""
        return self.resized(b=self.cpu_batch) if device.type == "cpu" else self

    def problem(self) -> StepProblem:
        """What the step computes, as the planner names it."""
        size, dtype = self.sizes, getattr(torch, self.dtype)
        if self.form.pairwise:
            return PairwiseProblem(tuple(size[axis] for axis in "bstlmn"), dtype, self.bias, self.gradients)
        rows = size["b"] * size.get("d", 1)
        return StepProblem((rows, *(size[axis] for axis in WEIGHT)), dtype, self.bias, self.gradients)

    def __str__(self) -> str:
        sizes = ", ".join(f"{axis.upper()} {size}" for axis, size in self.sizes.items())
        return f"{self.name}: {sizes}; {self.dtype}; gradients of {', '.join(self.gradients)}"


@dataclass(frozen=True)
class Inputs:
    """The tensors of a case; g is the gradient of the result."""

    x: Tensor
    y: Tensor
    weight: Tensor
    bias: Tensor | None
    g: Tensor

    def arguments(self) -> dict[str, Tensor]:
        """x, y, weight and, where there is one, the bias, in the order in which a function takes them."""
        given = {"x": self.x, "y": self.y, "weight": self.weight}
        return given if self.bias is None else {**given, "bias": self.bias}


def draw(case: Case, device: torch.device) -> Inputs:
    """Random tensors, normal, with the strides that the case's user has.

    The bias is as large as what it is added to: were it left out, the numbers would be wrong by as much.
    """
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def normal(axes: str, name: str) -> Tensor:
        stored = case.stored.get(name, axes)
        shape = [case.sizes[axis] for axis in stored]
        width = case.sliced if name in ("x", "y") else 1
        shape[-1] *= width
        values = torch.randn(shape, generator=generator, device=device).to(dtype)
        columns = values[..., : shape[-1] // width]
        return columns.permute([stored.index(axis) for axis in axes])

    x, y, weight, g = (normal(case.axes(name), name) for name in ("x", "y", "weight", "g"))
    bias = normal("l", "bias") * (case.sizes["m"] * case.sizes["n"]) ** 0.5 if case.bias else None
    return Inputs(x, y, weight, bias, g)


def add_bias(case: Case, out: Tensor, *bias: Tensor) -> Tensor:
    """A result of the case's form with the bias, if there is one, added along its outputs."""
    if not bias:
        return out
    behind = len(case.form.out) - 1 - case.form.out.index("l")
    return out + bias[0].view(-1, *[1] * behind)


def _rows(b: int, l: int, m: int, n: int) -> dict[str, int]:  # noqa: E741
    return {"b": b, "l": l, "m": m, "n": n}


_NO_BIAS = ("x", "y", "weight")

CASES = (
    Case("square 256", ROWS, _rows(4096, 256, 256, 256), 256),
    Case("square 128", ROWS, _rows(8192, 64, 128, 128), 1024, quick=True),
    Case("small features", ROWS, _rows(65536, 64, 32, 32), 4096),
    Case("DimeNet", ROWS, _rows(200000, 128, 8, 128), 10000, gradients=_NO_BIAS, quick=True),
    Case("xDeepFM first layer", FIELDS, {"b": 4096, "l": 256, "m": 39, "n": 39, "d": 16}, 256),
    Case("xDeepFM later layer", FIELDS, {"b": 4096, "l": 128, "m": 39, "n": 128, "d": 16}, 128),
    Case("BLOCK VQA", ROWS, _rows(18432, 180, 180, 180), 1024, sliced=10),
    Case("e3nn / MACE", ROWS, _rows(5000, 128, 128, 89), 2000, gradients=_NO_BIAS, stored={"weight": "mnl"}),
    Case("TuckER", ROWS, _rows(128, 200, 200, 200), 128, gradients=_NO_BIAS),
    Case("stanza tagger", ROWS, _rows(5000, 10, 101, 51), 5000, quick=True),
    Case("stanza parser", ROWS, _rows(1000, 800, 800, 800), 100),
    Case("spaCy arc labels", ROWS, _rows(5000, 45, 256, 256), 5000),
    # Their weight is chosen for each sample; here it is one for all.
    Case("RESCAL", ROWS, _rows(512, 1, 256, 256), 512, gradients=_NO_BIAS),
    Case("NTN", ROWS, _rows(512, 4, 100, 100), 512),
    # Both inputs end in a column of ones.
    Case("supar", PAIRS, {"b": 125, "s": 40, "t": 40, "l": 50, "m": 101, "n": 101}, 8, gradients=_NO_BIAS, quick=True),
    Case(
        "stanza pairwise", PAIRS, {"b": 100, "s": 50, "t": 50, "l": 160, "m": 401, "n": 401}, 2,
        gradients=_NO_BIAS, stored={"weight": "mnl", "g": "bstl"},
    ),
    Case("W2NER", PAIRS, {"b": 12, "s": 128, "t": 128, "l": 10, "m": 513, "n": 513}, 2, gradients=_NO_BIAS),
    Case("FlagGems 1", ROWS, _rows(256, 128, 64, 64), 256),
    Case("FlagGems 2", ROWS, _rows(512, 256, 128, 128), 512),
    Case("FlagGems 3", ROWS, _rows(1024, 96, 64, 48), 1024),
    Case("FlagGems 4", ROWS, _rows(128, 128, 256, 256), 128),
    Case("FlagGems 5", ROWS, _rows(2048, 64, 32, 32), 2048),
    Case("one form", ROWS, _rows(16384, 1, 512, 512), 2048, quick=True),
    Case("one sample", ROWS, _rows(1, 256, 256, 256), 1),
    Case("tiny", ROWS, _rows(32, 2, 20, 20), 32, quick=True),
)  # fmt: skip


def batch_sweep(largest: int) -> tuple[Case, ...]:
    """The batch grows fourfold from 1000 to `largest`, at 64 outputs and 32 features each."""
    batches = [1000]
    while batches[-1] * 4 <= largest:
        batches.append(batches[-1] * 4)
    return tuple(Case(f"batch {b}", ROWS, _rows(b, 64, 32, 32), b) for b in batches)


def output_sweep(batch: int) -> tuple[Case, ...]:
    """The outputs grow fourfold from 1 to 256, at 64 features each."""
    return tuple(Case(f"outputs {l}", ROWS, _rows(batch, l, 64, 64), batch) for l in (1, 4, 16, 64, 256))  # noqa: E741
