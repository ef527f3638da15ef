"""`python -m triton_bilinear check`: every op and gradient against float64, on this machine's own device.

The bound of an error, root mean square over the result and relative to it, is

    2 eps(dtype) + sqrt(terms) eps(accumulator) / 2

the roundings of an operand product and of the store, and those of a sum of so many terms in the accumulator's type
(float64 for float64, else float32) whose errors are independent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .backend import triton_installed, use_backend
from .functional import bilinear, bilinear_form, linear, pairwise_bilinear
from .machine import default_device, describe, interpreting

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """A function, what it computes as torch.einsum, the shapes of its arguments, and the terms of its longest sum."""

    name: str
    function: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    terms: int


def _einsum(equation: str, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The equation over (x, weight, y), and the bias on the result's axis l."""
    out = torch.einsum(equation, x, weight, y)
    if bias is None:
        return out
    axis = equation.split("->")[1].index("l")
    return out + bias.reshape(-1, *(1,) * (out.dim() - 1 - axis))


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bn,mn->bm", x, weight) + bias


def cases(small: bool) -> Iterator[Case]:
    """Odd, thin and (but for the interpreter) large problems of every public function."""
    sizes = [(5, 3, 4, 7), (1, 2, 9, 5), (6, 1, 12, 10), (7, 17, 8, 3)]
    if not small:
        sizes += [(257, 45, 101, 51), (1, 33, 200, 129), (1000, 1, 200, 200), (3000, 128, 8, 128), (300, 256, 64, 180)]
    for B, L, M, N in sizes:
        terms = max(M * N, L * N, L * M, B)
        shapes = ((B, M), (B, N), (L, M, N))
        plain = partial(_einsum, "bm,lmn,bn->bl")
        yield Case(f"bilinear {B, L, M, N}", bilinear, plain, shapes, terms)
        yield Case(f"bilinear + bias {B, L, M, N}", bilinear, plain, (*shapes, (L,)), terms)
        moved = partial(_einsum, "kmb,lmn,knb->klb")
        first = ((3, M, B), (3, N, B), (L, M, N), (L,))
        yield Case(
            f"bilinear, features on axis 1 {B, L, M, N}", partial(bilinear, feature_dim=1), moved, first, 3 * terms
        )
        form = partial(_einsum, "bm,mn,bn->b")
        yield Case(f"bilinear_form {B, M, N}", bilinear_form, form, ((B, M), (B, N), (M, N)), max(M * N, B))
        single, several = partial(_einsum, "ksm,mn,ktn->kst"), partial(_einsum, "ksm,lmn,ktn->klst")
        pair = ((2, B, M), (2, L, N))
        yield Case(f"pairwise {B, L, M, N}", pairwise_bilinear, single, (*pair, (M, N)), max(M * N, 2 * B * L))
        biased = (*pair, (3, M, N), (3,))
        yield Case(f"pairwise + bias {B, L, M, N}", pairwise_bilinear, several, biased, max(3 * M * N, 6 * B * L))
        yield Case(f"linear {B, M, N}", linear, _linear, ((B, N), (M, N), (M,)), max(M, N, B))


def results(
    function: Callable[..., Tensor], arguments: list[Tensor], cotangent: Tensor, second_order: bool
) -> dict[str, Tensor]:
    """The result, the gradient of every argument, and for the second order those of the first ones' squares."""
    leaves = [tensor.detach().requires_grad_() for tensor in arguments]
    out = function(*leaves)
    grads = torch.autograd.grad(out, leaves, cotangent, create_graph=second_order)
    found = {"result": out} | {f"grad {i}": grad for i, grad in enumerate(grads)}
    if second_order:
        norm = sum((grad * grad).sum() for grad in grads)
        assert isinstance(norm, Tensor)
        found |= {f"second {i}": grad for i, grad in enumerate(torch.autograd.grad(norm, leaves, allow_unused=True))}
    return {name: tensor.detach() for name, tensor in found.items() if tensor is not None}


def bound(dtype: torch.dtype, terms: int) -> float:
    """See the module's docstring."""
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    return 2 * torch.finfo(dtype).eps + terms**0.5 * torch.finfo(accumulator).eps / 2


def errors(case: Case, dtype: torch.dtype, device: torch.device, second_order: bool) -> dict[str, float]:
    """The error of each result: its distance to float64's over the size of that, both root mean square."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).double() for shape in case.shapes]
    shape = case.oracle(*exact).shape
    cotangent = torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).double()
    expected = results(case.oracle, exact, cotangent, second_order)
    given = [tensor.to(device, dtype) for tensor in exact]
    found = results(case.function, given, cotangent.to(device, dtype), second_order)
    return {name: _distance(found[name].cpu().double(), value) for name, value in expected.items() if value.numel()}


def _distance(found: Tensor, expected: Tensor) -> float:
    distance, size = (found - expected).norm().item(), expected.norm().item()
    return distance / size if size else distance


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The command's options: it has none."""
    return subparsers.add_parser("check", help="compare every op and gradient with float64 on this machine's device")


def run(args: argparse.Namespace) -> int:
    """Print a line for each case and dtype, with its worst error and the bound; 1 where one misses it."""
    device, missed = default_device(), 0
    backends = ["torch"] + ["triton"] * (triton_installed() and (interpreting() or device.type != "cpu"))
    print(f"{describe(device)}; backends: {', '.join(backends)}")
    print(f"{'backend':8}{'dtype':10}{'case':46}{'worst of':12}{'error':>10}{'bound':>10}")
    for backend in backends:
        interpreted = backend == "triton" and interpreting()
        for case in cases(small=interpreted):
            for dtype in _DTYPES:
                if interpreted and dtype == torch.bfloat16:
                    continue  # the interpreter computes on its bit patterns
                # Second derivatives chain two sums; in half precision what is summed was rounded in between.
                second_order = dtype in (torch.float64, torch.float32)
                with use_backend(backend):
                    found = errors(case, dtype, device, second_order)
                limits = {name: (8 if name.startswith("second") else 1) * bound(dtype, case.terms) for name in found}
                worst = max(found, key=lambda name: found[name] / limits[name])
                good = found[worst] <= limits[worst]
                missed += not good
                line = (
                    f"{backend:8}{str(dtype)[6:]:10}{case.name:46}{worst:12}{found[worst]:10.1e}{limits[worst]:10.1e}"
                )
                print(line if good else f"{line}  MISSED")
    print(f"{missed} missed their bound" if missed else "all within their bounds")
    return 1 if missed else 0
