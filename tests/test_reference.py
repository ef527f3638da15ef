"""Every item's closed forms against einsum in float64 and against autograd, and the two methods of item 11."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from triton_bilinear import reference

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Sizes of the axes: odd, one, and each of them empty in turn.
SIZES = (
    {"b": 7, "l": 3, "m": 5, "n": 9, "s": 4, "t": 11},
    {"b": 1, "l": 1, "m": 1, "n": 1, "s": 1, "t": 1},
    {"b": 17, "l": 1, "m": 8, "n": 13, "s": 1, "t": 3},
    {"b": 1, "l": 19, "m": 1, "n": 6, "s": 5, "t": 1},
    {"b": 0, "l": 3, "m": 2, "n": 4, "s": 0, "t": 3},
    {"b": 3, "l": 0, "m": 2, "n": 4, "s": 3, "t": 0},
    {"b": 3, "l": 2, "m": 0, "n": 4, "s": 2, "t": 3},
    {"b": 3, "l": 2, "m": 4, "n": 0, "s": 2, "t": 3},
)


@dataclass(frozen=True)
class Case:
    """One function of the reference: the einsum of its arguments (a last one after "+" is a bias), and its gradients.

    In an operand, `1` stands for an axis of size one.
    """

    item: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]
    equation: str
    bias: str = ""

    def operands(self) -> list[str]:
        return self.equation.split("->")[0].split(",") + [self.bias] * bool(self.bias)

    def draw(self, sizes: dict[str, int], dtype: torch.dtype) -> list[Tensor]:
        shapes = [[sizes.get(axis, 1) for axis in axes] for axes in self.operands()]
        return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]

    def einsum(self, *tensors: Tensor) -> Tensor:
        """The item by einsum, without the axes of size one; then these, and the bias, put in place."""
        factors = tensors[: len(tensors) - bool(self.bias)]
        operands, result = self.equation.split("->")
        squeezed = [
            tensor.squeeze(axes.index("1")) if "1" in axes else tensor
            for tensor, axes in zip(factors, operands.split(","), strict=True)
        ]
        value = torch.einsum(self.equation.replace("1", ""), *squeezed)
        if "1" in result:
            value = value.unsqueeze(result.index("1"))
        if self.bias:
            axis = result.index(self.bias)
            value = value + tensors[-1].reshape([-1 if i == axis else 1 for i in range(value.dim())])
        return value

    def gradients(self, g: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The backward with the arguments it needs: the bias itself is never among them."""
        return self.backward(g, *tensors[: len(tensors) - bool(self.bias)])


ref = reference
CASES = (
    Case("3 rows", ref.linear, ref.linear_backward, "bn,mn->bm", bias="m"),
    Case("3 columns", ref.linear_columns, ref.linear_columns_backward, "nb,mn->mb", bias="m"),
    Case("4", ref.product, ref.product_backward, "nb,mn->mb"),
    Case("5", ref.form, ref.form_backward, "m,n,mn->"),
    Case("6", ref.pairwise, ref.pairwise_backward, "ms,nt,mn->st"),
    Case("7 vectors", ref.multiply, ref.multiply_backward, "b,b->b"),
    Case("7 scale columns", ref.scale_columns, ref.scale_columns_backward, "1b,mb->mb"),
    Case("7 scale rows", ref.scale_rows, ref.scale_rows_backward, "b1,bm->bm"),
    Case("7 dot columns", ref.dot_columns, ref.dot_columns_backward, "mb,mb->1b"),
    Case("7 dot rows", ref.dot_rows, ref.dot_rows_backward, "bm,bm->b1"),
    Case("8", ref.batch_form, ref.batch_form_backward, "mb,nb,mn->1b"),
    Case("9", ref.combine, ref.combine_backward, "l,lmn->mn"),
    Case("10", ref.forms, ref.forms_backward, "m,n,lmn->l"),
    Case("11 method 1", ref.batch_forms_method1, ref.batch_forms_method1_backward, "mb,nb,lmn->lb"),
    Case("11 method 2", ref.batch_forms_method2, ref.batch_forms_method2_backward, "mb,nb,lmn->lb"),
    Case("12", ref.bilinear, ref.bilinear_backward, "bm,bn,lmn->bl", bias="l"),
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.item)
every_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes.values())))


def assert_close(actual: Tensor, exact: Tensor) -> None:
    """A few roundings of the dtype, relative to the largest element: these sums have at most some dozens of terms."""
    assert actual.shape == exact.shape
    eps = torch.finfo(actual.dtype).eps
    largest = exact.abs().max().item() if exact.numel() else 0.0
    torch.testing.assert_close(actual.double(), exact, rtol=16 * eps, atol=16 * eps * max(largest, 1.0))


def exact_gradients(case: Case, g: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [tensor.double().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(case.einsum(*leaves), leaves, g.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_size
@every_case
def test_forward_equals_einsum(case, sizes, dtype):
    tensors = case.draw(sizes, dtype)
    result = case.forward(*tensors)
    assert result.dtype == dtype
    assert_close(result, case.einsum(*(tensor.double() for tensor in tensors)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_size
@every_case
def test_backward_equals_autograd_of_einsum(case, sizes, dtype):
    tensors = case.draw(sizes, dtype)
    g = torch.randn_like(case.forward(*tensors))
    gradients = case.gradients(g, *tensors)
    assert len(gradients) == len(tensors)
    for gradient, exact in zip(gradients, exact_gradients(case, g, tensors), strict=True):
        assert gradient.dtype == dtype
        assert_close(gradient, exact)


@every_size
@every_case
def test_backward_equals_autograd_of_its_own_forward(case, sizes):
    tensors = [tensor.requires_grad_() for tensor in case.draw(sizes, torch.float64)]
    result = case.forward(*tensors)
    g = torch.randn_like(result)
    if not result.requires_grad:  # a loop over nothing: no graph
        assert result.numel() == 0
        return
    derived = torch.autograd.grad(result, tensors, g, allow_unused=True, materialize_grads=True)
    for gradient, exact in zip(case.gradients(g, *tensors), derived, strict=True):
        assert_close(gradient, exact)


@every_size
def test_bias(sizes):
    """Item 2: the sum, and `dY = g`, `db = sum over samples of g`."""
    Y = torch.randn(sizes["b"], sizes["l"], dtype=torch.float64, requires_grad=True)
    b = torch.randn(sizes["l"], dtype=torch.float64, requires_grad=True)
    Z = reference.add_bias(Y, b)
    assert_close(Z, torch.stack([row + b for row in Y]) if len(Y) else Y)
    g = torch.randn_like(Z)
    for gradient, exact in zip(reference.add_bias_backward(g), torch.autograd.grad(Z, (Y, b), g), strict=True):
        assert_close(gradient, exact)


def test_product_below_any_scalar():
    """Item 4: the formula takes whatever `dL/dY` a further scalar function has."""
    X, A = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 7), (3, 5)))
    Y = reference.product(X, A)
    loss = Y.sin().square().sum().log()
    (dY,) = torch.autograd.grad(loss, Y, retain_graph=True)
    for gradient, exact in zip(reference.product_backward(dY, X, A), torch.autograd.grad(loss, (X, A)), strict=True):
        assert_close(gradient, exact)


@every_size
def test_methods_of_item_11_agree(sizes):
    X = torch.randn(sizes["m"], sizes["b"], dtype=torch.float64)
    Y = torch.randn(sizes["n"], sizes["b"], dtype=torch.float64)
    A = torch.randn(sizes["l"], sizes["m"], sizes["n"], dtype=torch.float64)
    Z = reference.batch_forms_method1(X, Y, A)
    assert_close(reference.batch_forms_method2(X, Y, A), Z)
    g = torch.randn_like(Z)
    one = reference.batch_forms_method1_backward(g, X, Y, A)
    two = reference.batch_forms_method2_backward(g, X, Y, A)
    for first, second in zip(one, two, strict=True):
        assert_close(first, second)


@every_size
def test_item_12_is_item_11_transposed(sizes):
    X = torch.randn(sizes["b"], sizes["m"], dtype=torch.float64)
    Y = torch.randn(sizes["b"], sizes["n"], dtype=torch.float64)
    A = torch.randn(sizes["l"], sizes["m"], sizes["n"], dtype=torch.float64)
    b = torch.randn(sizes["l"], dtype=torch.float64)
    Z = reference.bilinear(X, Y, A, b)
    assert_close(reference.add_bias(reference.batch_forms_method2(X.T, Y.T, A).T, b), Z)
    dX, dY, dA, _ = reference.bilinear_backward(Z, X, Y, A)
    transposed = reference.batch_forms_method2_backward(Z.T, X.T, Y.T, A)
    for gradient, exact in zip(transposed, (dX.T, dY.T, dA), strict=True):
        assert_close(gradient, exact)
