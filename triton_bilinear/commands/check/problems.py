"""What is checked: each public function at sizes and layouts that have gone wrong somewhere before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...functional import bilinear, bilinear_form, linear, pairwise_bilinear


class Draw:
    """Random tensors of one dtype on one device, the same for every dtype but for their rounding.

    Values are uniform in +-[0.25, 1]: no product of four of them underflows in float16.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        sizes = torch.rand(shape, generator=self.generator, dtype=torch.float64) * 0.75 + 0.25
        signs = torch.randint(2, shape, generator=self.generator) * 2 - 1
        return (sizes * signs).to(self.device, self.dtype)

    def strided(self, *shape: int) -> Tensor:
        """Every second element along each axis of a tensor whose axes are stored in reverse order."""
        stored = self(*(2 * size for size in reversed(shape)))
        return stored.permute(*reversed(range(len(shape))))[(slice(None, None, 2),) * len(shape)]

    def like(self, tensor: Tensor, strided: bool) -> Tensor:
        return self.strided(*tensor.shape) if strided else self(*tensor.shape)


@dataclass(frozen=True)
class Problem:
    """A public function and its float64 twin on the same tensors, drawn by `tensors`.

    `names` are those of the tensors. With `strided`, incoming gradients are strided too.
    """

    operation: str
    label: str
    function: Callable[..., Tensor]
    twin: Callable[..., Tensor]
    names: tuple[str, ...]
    tensors: Callable[[Draw], tuple[Tensor, ...]]
    strided: bool = False


def _shape(b: int, outputs: int, m: int, n: int) -> str:
    return f"B={b} L={outputs} M={m} N={n}"


# (B, L, M, N): odd; one element; one sample; one form; a form of a large batch; M = 8; a long sum over L; a grad A that
# is small and a batch that is not; empty axes.
SMALL = ((13, 5, 7, 11), (1, 1, 1, 1), (1, 19, 9, 6), (17, 1, 12, 10), (9, 17, 8, 5), (0, 3, 4, 5), (4, 3, 0, 5))
SIZES = (
    (37, 19, 23, 29),
    (1, 1, 1, 1),
    (1, 65, 40, 33),
    (129, 1, 48, 31),
    (2048, 2, 37, 20),
    (700, 48, 8, 67),
    (16, 1024, 12, 9),
    (20000, 3, 5, 7),
    (257, 64, 101, 51),
    (0, 3, 4, 5),
    (4, 0, 3, 5),
    (4, 3, 0, 5),
)
LARGE = ((2048, 128, 130, 96), (1000, 257, 160, 129))
# (batch, L, S, T, M, N)
PAIRWISE_SMALL = ((2, 3, 5, 4, 7, 6), (1, 1, 1, 1, 1, 1))
PAIRWISE_SIZES = ((3, 5, 17, 13, 23, 29), (1, 1, 1, 1, 1, 1), (4, 6, 40, 40, 65, 65), (0, 2, 3, 4, 5, 6))
PAIRWISE_LARGE = ((8, 10, 128, 100, 129, 129),)


def problems(scale: str) -> Iterator[Problem]:
    """Everything to check, at a scale: "small" for the interpreter, "medium" for a CPU, "large" for a GPU."""
    small = scale == "small"
    large = scale == "large"
    sizes = SMALL if small else SIZES + LARGE * large
    odd = sizes[0]
    for size in sizes:
        yield _bilinear(size)
    yield _without_bias(odd)
    yield from (_strided(odd), _expanded(odd), _feature_dim(odd))
    for b, _, m, n in sizes:
        yield _form(b, m, n)
    for pair in PAIRWISE_SMALL if small else PAIRWISE_SIZES + PAIRWISE_LARGE * large:
        yield from (_pairwise(*pair), _pairwise_single(*pair))
    yield _pairwise(*PAIRWISE_SMALL[0], strided=True)
    for b, outputs, m, _ in sizes:
        yield _linear(b, m, outputs)


def _bilinear_twin(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None, feature_dim: int = -1) -> Tensor:
    x, y = x.movedim(feature_dim, -1), y.movedim(feature_dim, -1)
    z = torch.einsum("...m,lmn,...n->...l", x, weight, y)
    return (z if bias is None else z + bias).movedim(-1, feature_dim)


_ALL = ("x", "y", "weight", "bias")


def _bilinear(size: tuple[int, int, int, int]) -> Problem:
    b, outputs, m, n = size
    return Problem(
        "bilinear", _shape(*size), bilinear, _bilinear_twin, _ALL,
        lambda draw: (draw(b, m), draw(b, n), draw(outputs, m, n), draw(outputs)),
    )  # fmt: skip


def _without_bias(size: tuple[int, int, int, int]) -> Problem:
    b, outputs, m, n = size
    return Problem(
        "bilinear", f"{_shape(*size)}, no bias, batch of 2 axes", bilinear, _bilinear_twin, _ALL[:3],
        lambda draw: (draw(2, b, m), draw(2, b, n), draw(outputs, m, n)),
    )  # fmt: skip


def _strided(size: tuple[int, int, int, int]) -> Problem:
    b, outputs, m, n = size
    return Problem(
        "bilinear", f"{_shape(*size)}, strided, weight stored (M, N, L)", bilinear, _bilinear_twin, _ALL,
        lambda draw: (
            draw.strided(b, m), draw.strided(b, n), draw(m, n, outputs).permute(2, 0, 1), draw.strided(outputs),
        ),
        strided=True,
    )  # fmt: skip


def _expanded(size: tuple[int, int, int, int]) -> Problem:
    b, outputs, m, n = size

    def on_expanded(function: Callable[..., Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return function(x.expand(b, m), y, weight)

    return Problem(
        "bilinear", f"{_shape(*size)}, x expanded", partial(on_expanded, bilinear),
        partial(on_expanded, _bilinear_twin), _ALL[:3],
        lambda draw: (draw(1, m), draw(b, n), draw(outputs, m, n)),
    )  # fmt: skip


def _feature_dim(size: tuple[int, int, int, int]) -> Problem:
    b, outputs, m, n = size
    return Problem(
        "bilinear", f"{_shape(*size)}, features on axis 1 of 3", partial(bilinear, feature_dim=1),
        partial(_bilinear_twin, feature_dim=1), _ALL,
        lambda draw: (draw(3, m, b), draw(3, n, b), draw(outputs, m, n), draw(outputs)),
    )  # fmt: skip


def _form(b: int, m: int, n: int) -> Problem:
    def twin(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("bm,mn,bn->b", x, weight, y)

    return Problem(
        "bilinear_form", f"B={b} M={m} N={n}", bilinear_form, twin, _ALL[:3],
        lambda draw: (draw(b, m), draw(b, n), draw(m, n)),
    )  # fmt: skip


def _pairwise_twin(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bsm,lmn,btn->blst", x, weight, y) + bias[:, None, None]


def _pairwise(b: int, outputs: int, s: int, t: int, m: int, n: int, strided: bool = False) -> Problem:
    label = f"B={b} L={outputs} S={s} T={t} M={m} N={n}"

    def tensors(draw: Draw) -> tuple[Tensor, ...]:
        make = draw.strided if strided else draw
        return make(b, s, m), make(b, t, n), make(outputs, m, n), make(outputs)

    return Problem(
        "pairwise_bilinear", label + ", strided" * strided, pairwise_bilinear, _pairwise_twin, _ALL, tensors, strided
    )


def _pairwise_single(b: int, _: int, s: int, t: int, m: int, n: int) -> Problem:
    def twin(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("bsm,mn,btn->bst", x, weight, y)

    return Problem(
        "pairwise_bilinear", f"B={b} S={s} T={t} M={m} N={n}, weight (M, N)", pairwise_bilinear, twin, _ALL[:3],
        lambda draw: (draw(b, s, m), draw(b, t, n), draw(m, n)),
    )  # fmt: skip


def _linear(b: int, n: int, outputs: int) -> Problem:
    def twin(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.einsum("bn,mn->bm", x, weight) + bias

    return Problem(
        "linear", f"B={b} N={n} M={outputs}", linear, twin, ("x", "weight", "bias"),
        lambda draw: (draw(b, n), draw(outputs, n), draw(outputs)),
    )  # fmt: skip
