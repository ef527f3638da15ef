"""The gradients of x and y together through Triton."""

from __future__ import annotations

from dataclasses import replace

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
    evens,
    plan_launch,
    span,
    stride_arguments,
    unit_axis,
    vector_bytes,
    vectors,
)
from .reduction import reduce_rows, workspace
from .replay import run_planned
from .rows import Rows, RowStrides, batch_rows, row_strides, walkable


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    if not weight.numel() or not g.numel():
        out_x.zero_()
        out_y.zero_()
        return
    g, x, y = walkable([g, x, y], [out_x, out_y])
    run_planned(grad_inputs_launches, g, x, y, weight, out_x, out_y)


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
    rows = batch_rows([g, x, y, out_x, out_y])
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
        return _joint(g, x, y, weight, out_x, out_y, rows, plan, problem, device)
    swapped = replace(rows, strides=tuple(rows.strides[i] for i in (0, 2, 1, 4, 3)))
    return _joint(g, y, x, weight.transpose(1, 2), out_y, out_x, swapped, plan, problem, device)


def _joint(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    out_x: Tensor,
    out_y: Tensor,
    rows: Rows,
    plan: Plan,
    problem: GradInputsProblem,
    device: DeviceSpec,
) -> list[Launch]:
    config = plan.config
    L, M, N = weight.shape
    sizes = {"L": L, "M": M, "N": N}
    n_tiles = -(-N // config["N"])
    tiles_per_group = -(-n_tiles // plan.groups)
    # dx grows from n tile to n tile: in the result itself where its dtype is the accumulator's, else in a workspace.
    direct_x = n_tiles == 1 or (plan.groups == 1 and out_x.dtype == accumulator(out_x))
    dx, dx_rows, reduce_x = _target(out_x, rows, 3, plan.groups, direct_x, device)
    dy, dy_rows, reduce_y = _target(out_y, rows, 4, plan.splits, plan.splits == 1, device)
    m_tiles = -(-M // config["M"])
    spans = [rows.reach(index) + span(tensor, 1) for index, tensor in enumerate((g, x, y, out_x, out_y))]
    arguments = {
        "g_ptr": g,
        "x_ptr": x,
        "y_ptr": y,
        "a_ptr": weight,
        "dx_ptr": dx,
        "dy_ptr": dy,
        **sizes,
        **rows.arguments(config["B"]),
        **row_strides("g", rows.strides[0]),
        **row_strides("x", rows.strides[1]),
        **row_strides("y", rows.strides[2]),
        **row_strides("dx", dx_rows),
        **row_strides("dy", dy_rows),
        **stride_arguments("g", g, "l"),
        **stride_arguments("x", x, "m"),
        **stride_arguments("y", y, "n"),
        **stride_arguments("a", weight, "lmn"),
        **stride_arguments("dx", dx, "m"),
        **stride_arguments("dy", dy, "n"),
        "stride_dxs": 0 if dx is out_x else dx.stride(0),
        "stride_dys": 0 if dy is out_y else dy.stride(0),
        "tiles_per_group": tiles_per_group,
        "m_per_split": -(-m_tiles // plan.splits) * config["M"],
        **vectors({"G": g, "X": x, "Y": y, "A": weight, "DX": dx, "DY": dy}, {**sizes, "RUN": rows.run}),
        **evens(sizes, config),
        "HOLD_G": holds_g(config, L),
        **common_constants(plan, problem, device, [*spans, span(weight, 3)]),
    }
    grid = (-(-rows.count // config["B"]) * plan.groups, plan.splits)
    joint = plan_launch(grad_inputs_kernel, grid, arguments, plan, device)
    return [joint, *reduce_x, *reduce_y]


def _target(
    out: Tensor, rows: Rows, index: int, splits: int, direct: bool, device: DeviceSpec
) -> tuple[Tensor, RowStrides, list[Launch]]:
    """Where the kernel writes a gradient, the strides of its rows, and the second pass."""
    if direct:
        return out, rows.strides[index], []
    partial = workspace(out, splits, rows.count, out.shape[-1])
    levels = rows.levels_of(partial)
    outer, middle, inner = levels.stride()[1:4]
    return levels, (outer, middle, inner), [reduce_rows(partial, None, out, device)]
