"""The second pass of a split: partial results in a workspace, added up in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.reduce import reduce_partials_kernel
from ..tuning.devices import DeviceSpec
from .launch import Launch, accumulator, compiler_options
from .rows import Rows, batch_rows, row_strides

_BLOCK_B, _BLOCK_P = 32, 64


def workspace(like: Tensor, splits: int, rows: int, columns: int) -> Tensor:
    """Room for (splits, rows, columns) partial results, in the accumulator's type."""
    return torch.empty((splits, rows, columns), dtype=accumulator(like), device=like.device)


def reduce_rows(partial: Tensor, bias: Tensor | None, out: Tensor, device: DeviceSpec) -> Launch:
    """out[..., column] = sum over splits (+ bias[column]), rows in the order of out's batch."""
    return reduce_partials(partial, bias, out, batch_rows([out]), out.stride(-1), device)


def reduce_partials(
    partial: Tensor,
    bias: Tensor | None,
    out: Tensor,
    result: Rows,
    column_stride: int,
    device: DeviceSpec,
) -> Launch:
    """out[row, column] = sum over splits (+ bias[column]). result: where out's rows lie."""
    splits, rows, columns = partial.shape
    return Launch(
        kernel=reduce_partials_kernel,
        grid=(-(-rows // _BLOCK_B) * -(-columns // _BLOCK_P), 1),
        arguments={
            "partial_ptr": partial,
            "bias_ptr": out if bias is None else bias,
            "out_ptr": out,
            "S": splits,
            "B": rows,
            "P": columns,
            "B_MIDDLE": result.middle,
            "B_INNER": result.inner,
            "stride_ps": rows * columns,
            "stride_bias": 0 if bias is None else bias.stride(0),
            **row_strides("o", result.strides[0]),
            "stride_op": column_stride,
            "BLOCK_B": _BLOCK_B,
            "BLOCK_P": _BLOCK_P,
            "HAS_BIAS": bias is not None,
        },
        num_warps=4,
        num_stages=2,
        options=compiler_options(device),
    )
