"""The public functions: what the caller means, and errors where it cannot be meant.

Everything below this file works on arguments that were checked here: floating-point tensors of one dtype and device,
of matching sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import ops

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

# Multiply-adds of a contraction that take less time than a call of an op.
_SMALL = 2**16


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None, *, feature_dim: int = -1) -> Tensor:
    """`z[..., l] = sum_mn x[..., m] weight[l, m, n] y[..., n] + bias[l]` (items 10, 11, 12).

    By position the same call as torch.nn.functional.bilinear, with the same errors.

    Args:
        x: (*, M): any number of batch axes, none included.
        y: (*, N), the batch axes of x.
        weight: (L, M, N).
        bias: (L,), or None.
        feature_dim: the axis of x, y and the result that holds the features, the last by default. `feature_dim=0` takes
            samples as columns, x (M, B), y (N, B), and gives (L, B), as item 11 does. Served by strides: nothing is
            copied.

    Returns:
        (*, L), contiguous, of the dtype of the arguments: float16, bfloat16, float32 or float64. Sums are accumulated
        in float32 (float64 for float64). Under autocast the arguments are cast to its dtype, as for
        torch.nn.functional.linear.

    Raises:
        RuntimeError: sizes, dtypes or devices that do not match; on a GPU, more than 2**30 rows, or more tiles of a
            result than a grid holds.
        IndexError: no axis `feature_dim`.
        TypeError: an argument that is no tensor.
    """
    given = x, y, weight, bias
    if has_torch_function(given):
        return handle_torch_function(bilinear, given, *given, feature_dim=feature_dim)
    return _contract("bilinear", *_prepared("bilinear", x, y, weight, bias), feature_dim)


def _contract(name: str, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int) -> Tensor:
    """`bilinear` of prepared arguments."""
    axis = _bilinear_axis(name, x, y, weight, bias, feature_dim)
    if ops.tiny.suits(x, y, weight, bias, axis):
        return ops.tiny.bilinear(x, y, weight, bias)
    outputs, m, n = weight.shape
    if torch.is_grad_enabled():
        # A product with the weight that is no larger than the arguments and the result is worth keeping: it is most
        # of a gradient.
        limit = m + n + outputs
        if y.requires_grad and _known(outputs * n <= limit) and _repays(x, n, outputs):
            return ops.call(ops.contract_keep, x, y, weight, bias, axis)[0]
        if x.requires_grad and not y.requires_grad and _known(outputs * m <= limit) and _repays(x, n, outputs):
            return ops.call(ops.contract_keep, y, x, weight.mT, bias, axis)[0]
    return ops.call(ops.contract, x, y, weight, bias, axis)


def _known(comparison: bool | torch.SymBool) -> bool:
    """Whether a comparison of sizes holds; in a graph, whether it does so for all the sizes that the graph is for."""
    if not torch.compiler.is_compiling():
        return bool(comparison)
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # seconds to import, and a compiler has it

    return guard_or_false(comparison)


def _repays(x: Tensor, n: int, outputs: int) -> bool:
    """Whether a kept product repays what it costs the gradient: a call more where there are several outputs.

    A small problem feels that call. A compiled graph is one for every batch: there the batch must not decide.
    The gradient flattens batch axes, and DTensor does not flatten axes that it has sharded unevenly.
    """
    if x.dim() > 2 and ops.sharding.is_distributed(x):
        return False
    return outputs == 1 or torch.compiler.is_compiling() or x.numel() * n * outputs > _SMALL


def bilinear_form(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """`z[...] = x[...]^T weight y[...]`, one form for every sample (items 5, 8).

    Args:
        x: (*, M): any number of batch axes, none included.
        y: (*, N), the batch axes of x.
        weight: (M, N).

    Returns:
        (*), the batch shape; a 0-d tensor for one pair of vectors. Dtypes and autocast as for `bilinear`.

    Raises:
        RuntimeError: sizes, dtypes or devices that do not match.
    """
    given = x, y, weight
    if has_torch_function(given):
        return handle_torch_function(bilinear_form, given, *given)
    x, y, weight, _ = _prepared("bilinear_form", x, y, weight, None)
    if weight.dim() != 2:
        raise RuntimeError(f"bilinear_form(): weight must have 2 axes (M, N), got shape {tuple(weight.shape)}")
    return _contract("bilinear_form", x, y, weight.unsqueeze(0), None, -1).squeeze(-1)


def pairwise_bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`Z[..., l, s, t] = x[..., s, :]^T weight[l] y[..., t, :] + bias[l]`, every pair of rows (item 6).

    Computed as two products, the one with the weight from whichever side takes less work; the product of every pair of
    rows is never formed.

    Args:
        x: (*, S, M): any number of batch axes, none included.
        y: (*, T, N), the batch axes of x.
        weight: (L, M, N), or (M, N) for a single form.
        bias: (L,), or () or (1,) for a single form, or None.

    Returns:
        (*, L, S, T), or (*, S, T) for a single form; contiguous. Dtypes and autocast as for `bilinear`.

    Raises:
        RuntimeError: sizes, dtypes or devices that do not match.
    """
    given = x, y, weight, bias
    if has_torch_function(given):
        return handle_torch_function(pairwise_bilinear, given, *given)
    x, y, weight, bias = _prepared("pairwise_bilinear", x, y, weight, bias)
    _check_pairwise(x, y, weight, bias)
    if weight.dim() == 3:
        return ops.pairwise(x, y, weight, bias)
    return ops.pairwise(x, y, weight.unsqueeze(0), None if bias is None else bias.reshape(1)).squeeze(-3)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`Y = X weight^T + bias` for samples as rows (items 2, 3, 4).

    This is torch's own product, with torch's own backward, which is the derivation's: `dX = g A`, `dA = g^T X`,
    `db = g^T 1`. Samples as columns, `A X + b 1^T`, are `linear(X.T, A, b).T`.

    Args:
        x: (*, N): any number of batch axes, none included.
        weight: (M, N).
        bias: (M,), or what broadcasts to it, or None.

    Returns:
        (*, M), of the arguments' dtype. All of torch.nn.functional.linear, its dtypes, autocast and errors too.

    Raises:
        RuntimeError: sizes or dtypes that do not match.
    """
    return torch.nn.functional.linear(x, weight, bias)


def _prepared(
    name: str, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The arguments after autocast, of one supported dtype on one device."""
    for argument, value in (("x", x), ("y", y), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and (value is not None or argument != "bias"):
            raise TypeError(f"{name}(): argument '{argument}' must be Tensor, not {type(value).__name__}")
    if torch._C._is_any_autocast_enabled():
        x, y, weight = (_autocast(tensor) for tensor in (x, y, weight))
        bias = None if bias is None else _autocast(bias)
    dtype, device = x.dtype, x.device
    if not (dtype == y.dtype == weight.dtype and (bias is None or bias.dtype == dtype)):
        given = _listed(x.dtype, y.dtype, weight.dtype, None if bias is None else bias.dtype)
        raise RuntimeError(f"{name}(): all tensors must have the same dtype, got {given}")
    if dtype not in _DTYPES:
        raise RuntimeError(f"{name}(): expected float16, bfloat16, float32 or float64 tensors, got {dtype}")
    if not (device == y.device == weight.device and (bias is None or bias.device == device)):
        given = _listed(device, y.device, weight.device, None if bias is None else bias.device)
        raise RuntimeError(f"{name}(): all tensors must be on the same device, got {given}")
    return x, y, weight, bias


def _autocast(tensor: Tensor) -> Tensor:
    """What autocast does to an argument of linear: float64 it leaves alone."""
    device_type = tensor.device.type
    # Autocast knows no meta tensors. (To ask whether it knows a device would break torch 2.11's graphs.)
    enabled = device_type != "meta" and torch.is_autocast_enabled(device_type)
    if not enabled or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type))


def _listed(x: object, y: object, weight: object, bias: object | None) -> str:
    listed = f"x: {x}, y: {y}, weight: {weight}"
    return listed if bias is None else f"{listed}, bias: {bias}"


def _bilinear_axis(name: str, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int) -> int:
    """Check the sizes, and count feature_dim from the end. Errors that torch raises too are in its words."""
    dims = x.dim()
    if dims != y.dim():
        raise RuntimeError(f"{name}(): input dimensions do not match: got {dims} and {y.dim()}")
    if dims == 0:
        raise RuntimeError(f"{name}(): x and y must have at least 1 axis, got 0-d tensors")
    if not -dims <= feature_dim < dims:
        raise IndexError(
            f"{name}(): feature_dim out of range (expected to be in range of [{-dims}, {dims - 1}], but got "
            f"{feature_dim})"
        )
    if weight.dim() != 3:
        raise RuntimeError(f"{name}(): weight must have 3 axes (L, M, N), got shape {tuple(weight.shape)}")
    axis = feature_dim - dims if feature_dim >= 0 else feature_dim
    if x.shape[:axis] != y.shape[:axis] or (axis != -1 and x.shape[axis + 1 :] != y.shape[axis + 1 :]):
        for dim, (size_x, size_y) in enumerate(zip(x.shape, y.shape, strict=True)):
            if dim != dims + axis and size_x != size_y:
                raise RuntimeError(
                    f"{name}(): input batch dimensions do not match at dim {dim}: got {size_x} and {size_y}"
                )
    outputs, m, n = weight.shape
    if x.shape[axis] != m:
        raise RuntimeError(f"{name}(): input1 size does not match weight size: got {x.shape[axis]} but expected {m}")
    if y.shape[axis] != n:
        raise RuntimeError(f"{name}(): input2 size does not match weight size: got {y.shape[axis]} but expected {n}")
    if bias is not None:
        _check_bias(name, bias, outputs)
    return axis


def _check_bias(name: str, bias: Tensor, outputs: int) -> None:
    if bias.dim() != 1:
        raise RuntimeError(f"{name}(): bias must have 1 axis (L,), got shape {tuple(bias.shape)}")
    if bias.shape[0] != outputs:
        raise RuntimeError(
            f"{name}(): bias size does not match weight size: got {bias.shape[0]} but expected {outputs}"
        )


def _check_pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    name = "pairwise_bilinear"
    if x.dim() < 2 or x.dim() != y.dim():
        raise RuntimeError(
            f"{name}(): x (*, S, M) and y (*, T, N) must have the same number of axes, 2 or more, "
            f"got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.shape[:-2] != y.shape[:-2]:
        raise RuntimeError(f"{name}(): batch axes do not match: got {tuple(x.shape[:-2])} and {tuple(y.shape[:-2])}")
    if weight.dim() not in (2, 3):
        raise RuntimeError(f"{name}(): weight must be (M, N) or (L, M, N), got shape {tuple(weight.shape)}")
    if x.shape[-1] != weight.shape[-2]:
        raise RuntimeError(
            f"{name}(): x size does not match weight size: got {x.shape[-1]} but expected {weight.shape[-2]}"
        )
    if y.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"{name}(): y size does not match weight size: got {y.shape[-1]} but expected {weight.shape[-1]}"
        )
    if bias is None:
        return
    if weight.dim() == 3:
        _check_bias(name, bias, weight.shape[0])
    elif tuple(bias.shape) not in ((), (1,)):
        raise RuntimeError(f"{name}(): bias of a single form must be () or (1,), got shape {tuple(bias.shape)}")
