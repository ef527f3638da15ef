"""Who is timed: ours, torch's own ways to compute a bilinear layer, and what such a layer could cost at best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from .cases import ROWS, WEIGHT, Case, Inputs, add_bias

OURS = "ours"
F_BILINEAR = "F.bilinear"
X_FIRST, Y_FIRST, PAIRS_FIRST = EINSUM_ORDERS = ("einsum, x first", "einsum, y first", "einsum, pairs first")
COMPILED = "torch.compile of einsum"
LINEAR = "linear price"
FLAGGEMS = "FlagGems"
NVMATH = "nvmath"

Forward = Callable[..., Tensor]  # of x, y, weight and maybe bias


class Unavailable(Exception):
    """Why a rival cannot run a case."""


@dataclass(frozen=True)
class Step:
    """One step of training: `backward(forward())`. Without leaves there is no backward: `forward` is all.

    gradients: the names of what `backward` returns.
    """

    forward: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]
    g: Tensor
    gradients: tuple[str, ...]

    def backward(self, out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, self.leaves, self.g)


@dataclass(frozen=True)
class Rival:
    """One way to compute a case.

    build: makes the step; Unavailable where it cannot. scratch: axes of the intermediate results that a step holds at
    the same time, at least. compiles: whether its first run takes seconds. slow: whether a step may take hundreds of
    times as long as the others'.
    """

    name: str
    build: Callable[[Case, Inputs], Step]
    scratch: tuple[str, ...] = ()
    compiles: bool = False
    slow: bool = False

    def scratch_bytes(self, case: Case) -> int:
        """Bytes beyond inputs and results that a step takes, at least."""
        return sum(case.elements(axes) for axes in self.scratch) * getattr(torch, case.dtype).itemsize


def rivals(case: Case, device: torch.device) -> list[Rival]:
    """Whoever computes a case of this form on this device, ours first."""
    form = case.form
    x_weight, y_weight, pairs = form.x.replace("m", "ln"), form.y.replace("n", "lm"), _pairs(case)
    found = [
        Rival(OURS, lambda case, inputs: _by_autograd(case, inputs, form.function)),
        Rival(X_FIRST, _einsum(("x", "weight", "y"), x_weight), (x_weight,) * 2),
        Rival(Y_FIRST, _einsum(("y", "weight", "x"), y_weight), (y_weight,) * 2),
        Rival(PAIRS_FIRST, _einsum(("x", "y", "weight"), pairs), (pairs,) * 2),
        Rival(COMPILED, _compiled, (x_weight,) * 2, compiles=True),
    ]
    if not form.pairwise:
        found.append(Rival(F_BILINEAR, _f_bilinear, (pairs,), slow=True))
        found.append(Rival(LINEAR, _linear_price, (pairs,) * 2))
    if device.type == "cuda":
        found.append(Rival(FLAGGEMS, _flaggems))
        found.append(Rival(NVMATH, _nvmath))
    return found


def _pairs(case: Case) -> str:
    """The axes of the product of x and y: batch axes, rows, then m and n."""
    return "".join(axis for axis in "bdst" if axis in case.form.x + case.form.y) + "mn"


def _by_autograd(case: Case, inputs: Inputs, forward: Forward) -> Step:
    """The step of a function that autograd differentiates."""
    leaves = {name: tensor.detach() for name, tensor in inputs.arguments().items()}
    wanted = tuple(leaves[name].requires_grad_() for name in case.gradients)
    return Step(partial(forward, *leaves.values()), wanted, inputs.g, case.gradients)


def _forward_only(inputs: Inputs, forward: Forward) -> Step:
    return Step(partial(forward, *inputs.arguments().values()), (), inputs.g, ())


def _einsum(order: tuple[str, str, str], middle: str) -> Callable[[Case, Inputs], Step]:
    """The first two operands of the order give a result of the axes `middle`, which takes the third."""
    a, b, c = (("x", "y", "weight").index(name) for name in order)

    def build(case: Case, inputs: Inputs) -> Step:
        first = f"{case.axes(order[0])},{case.axes(order[1])}->{middle}"
        second = f"{middle},{case.axes(order[2])}->{case.form.out}"

        def forward(*arguments: Tensor) -> Tensor:
            out = torch.einsum(second, torch.einsum(first, arguments[a], arguments[b]), arguments[c])
            return add_bias(case, out, *arguments[3:])

        return _by_autograd(case, inputs, forward)

    return build


def _in_one(case: Case) -> str:
    """The contraction of x, weight and y as one einsum."""
    return f"{case.form.x},{WEIGHT},{case.form.y}->{case.form.out}"


def _compiled(case: Case, inputs: Inputs) -> Step:
    contraction = _in_one(case)

    def forward(x: Tensor, y: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return add_bias(case, torch.einsum(contraction, x, weight, y), *bias)

    return _by_autograd(case, inputs, torch.compile(forward, dynamic=False))


def _f_bilinear(case: Case, inputs: Inputs) -> Step:
    axis = case.form.x.index("m")

    def moved(x: Tensor, y: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return F.bilinear(x.movedim(axis, -1), y.movedim(axis, -1), weight, *bias).movedim(-1, axis)

    return _by_autograd(case, inputs, F.bilinear if case.form.x.endswith("m") else moved)


def _linear_price(case: Case, inputs: Inputs) -> Step:
    """A linear layer whose features are the products of x and y, there already: three plain matrix products."""
    form, outputs = case.form, case.form.out.index("l")
    tensors = inputs.arguments()
    features = torch.einsum(f"{form.x},{form.y}->{_pairs(case)}", tensors.pop("x"), tensors.pop("y")).flatten(-2)
    layer = {"features": features} | {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    names = tuple(dict.fromkeys("features" if name in ("x", "y") else name for name in case.gradients))

    def forward() -> Tensor:
        out = F.linear(layer["features"], layer["weight"].flatten(1), layer.get("bias"))
        return out.movedim(-1, outputs)

    return Step(forward, tuple(layer[name].requires_grad_() for name in names), inputs.g, names)


def _flaggems(case: Case, inputs: Inputs) -> Step:
    """Their kernel computes the forward pass alone."""
    function = installed("flag_gems.ops", "bilinear")
    if case.form != ROWS:
        raise Unavailable("takes features on the last axis only")
    return _forward_only(inputs, function)


def _nvmath(case: Case, inputs: Inputs) -> Step:
    """cuTENSOR's contraction of three operands, which autograd does not differentiate."""
    contraction, axes = installed("nvmath.tensor", "ternary_contraction"), _in_one(case)

    def forward(x: Tensor, y: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return add_bias(case, contraction(axes, x, weight, y), *bias)

    return _forward_only(inputs, forward)


@cache
def installed(module: str, name: str) -> Callable[..., Tensor]:
    """A function of an optional package. Unavailable where the package is not installed or does not have it."""
    package = module.partition(".")[0]
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise Unavailable(f"{package} is not installed" if error.name == package else f"{package}: {error}") from error
    if not callable(found):
        raise Unavailable(f"this {package} has no {name}")
    return found
