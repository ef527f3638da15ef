"""The gradients of x and y together through Triton."""

from __future__ import annotations

from torch import Tensor

from ..kernels.grad_inputs import grad_inputs_kernel
from ..planning import GradInputsProblem, Plan, holds_g, plan_grad_inputs
from ..tuning.devices import DeviceSpec
from .contract import contract_launches
from .device import float32_precision
from .launch import (
    Launch,
    accumulator,
    common_constants,
    even,
    plan_launch,
    run_planned,
    span,
    unit_axis,
    vector_bytes,
    vectors,
)
from .reduction import reduce_partials, workspace
from .rows import Rows, batch_rows


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    if not weight.numel() or not g.numel():
        out_x.zero_()
        out_y.zero_()
        return
    run_planned(lambda device: grad_inputs_launches(g, x, y, weight, out_x, out_y, device), g)


def grad_inputs_launches(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    out_x: Tensor,
    out_y: Tensor,
    device: DeviceSpec,
    plan: Plan | None = None,
) -> list[Launch]:
    """The launches, their workspace allocated: one joint product (by the planner's plan or another), or two
    contractions. No size may be 0.
    """
    rows, (g, x, y) = batch_rows([g, x, y], [out_x, out_y])
    dtype = str(g.dtype).removeprefix("torch.")
    precision = float32_precision(g, device)
    L, M, N = weight.shape
    unit, vector = unit_axis(weight, "lmn")
    row_vector = min(vector_bytes(g), vector_bytes(x), vector_bytes(y))
    problem = GradInputsProblem(rows.count, L, M, N, dtype, precision, unit, vector, row_vector)
    plan = plan or plan_grad_inputs(problem, device)
    if plan is None:
        grad_x = contract_launches(g, y, weight.permute(1, 0, 2), None, out_x, None, device)
        grad_y = contract_launches(g, x, weight.permute(2, 0, 1), None, out_y, None, device)
        return [*grad_x, *grad_y]
    if plan.order == ("l", "m", "n"):
        return _joint(g, x, y, weight, out_x, out_y, rows, plan, precision, device)
    swapped = Rows(rows.count, rows.inner, tuple(rows.strides[i] for i in (0, 2, 1, 4, 3)))
    return _joint(g, y, x, weight.transpose(1, 2), out_y, out_x, swapped, plan, precision, device)


def _joint(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    out_x: Tensor,
    out_y: Tensor,
    rows: Rows,
    plan: Plan,
    precision: str,
    device: DeviceSpec,
) -> list[Launch]:
    config = plan.config
    L, M, N = weight.shape
    n_tiles = -(-N // config["N"])
    tiles_per_group = -(-n_tiles // plan.groups)
    # dx grows from n tile to n tile: in the result itself where its dtype is the accumulator's, else in a workspace.
    direct_x = n_tiles == 1 or (plan.groups == 1 and out_x.dtype == accumulator(out_x))
    dx, dx_strides, reduce_x = _target(out_x, rows, 3, plan.groups, direct_x, device)
    dy, dy_strides, reduce_y = _target(out_y, rows, 4, plan.splits, plan.splits == 1, device)
    m_tiles = -(-M // config["M"])
    spans = [rows.reach(index) + span(tensor, 1) for index, tensor in enumerate((g, x, y, out_x, out_y))]
    arguments = {
        "g_ptr": g,
        "x_ptr": x,
        "y_ptr": y,
        "a_ptr": weight,
        "dx_ptr": dx,
        "dy_ptr": dy,
        "B": rows.count,
        "L": L,
        "M": M,
        "N": N,
        "B_INNER": rows.inner,
        "stride_gb": rows.strides[0][0],
        "stride_gi": rows.strides[0][1],
        "stride_gl": g.stride(-1),
        "stride_xb": rows.strides[1][0],
        "stride_xi": rows.strides[1][1],
        "stride_xm": x.stride(-1),
        "stride_yb": rows.strides[2][0],
        "stride_yi": rows.strides[2][1],
        "stride_yn": y.stride(-1),
        "stride_al": weight.stride(0),
        "stride_am": weight.stride(1),
        "stride_an": weight.stride(2),
        **dict(zip(("stride_dxs", "stride_dxb", "stride_dxi", "stride_dxm"), dx_strides, strict=True)),
        **dict(zip(("stride_dys", "stride_dyb", "stride_dyi", "stride_dyn"), dy_strides, strict=True)),
        "tiles_per_group": tiles_per_group,
        "m_per_split": -(-m_tiles // plan.splits) * config["M"],
        **vectors({"G": g, "X": x, "Y": y, "A": weight, "DX": dx, "DY": dy}, {"L": L, "M": M, "N": N}),
        "EVEN_B": even(rows.count, config["B"]),
        "EVEN_L": even(L, config["L"]),
        "EVEN_M": even(M, config["M"]),
        "EVEN_N": even(N, config["N"]),
        "HOLD_G": holds_g(config, L),
        "ROWS": rows.kind(config["B"]),
        **common_constants(config, g.dtype, precision, [*spans, span(weight, 3)]),
    }
    grid = (-(-rows.count // config["B"]) * plan.groups, plan.splits)
    joint = plan_launch(grad_inputs_kernel, grid, arguments, plan, device)
    return [joint, *reduce_x, *reduce_y]


def _target(
    out: Tensor, rows: Rows, index: int, splits: int, direct: bool, device: DeviceSpec
) -> tuple[Tensor, tuple[int, int, int, int], list[Launch]]:
    """Where the kernel writes a gradient, the strides (split, outer row, inner row, column), and the second pass."""
    outer, inner = rows.strides[index]
    if direct:
        return out, (0, outer, inner, out.stride(-1)), []
    columns = out.shape[-1]
    partial = workspace(out, splits, rows.count, columns)
    strides = (rows.count * columns, rows.inner * columns, columns, 1)
    return partial, strides, [reduce_partials(partial, None, out, rows.inner, (outer, inner), out.stride(-1), device)]
