"""out[..., p] = sum_qr u[..., q] v[..., r] T[p, q, r] + bias[p] through Triton."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..kernels.khatri_rao import contract_khatri_rao_kernel
from ..kernels.project import contract_project_kernel
from ..planning import ContractProblem, Plan, plan_contract
from ..tuning.devices import DeviceSpec
from .device import float32_precision
from .launch import (
    BEYOND_32_BITS,
    Launch,
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
from .rows import Rows, batch_rows, row_strides, walkable


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    if not out.numel():
        return
    if not weight.numel():
        out.zero_() if bias is None else out.copy_(bias.expand_as(out))
        return
    u, v = walkable([u, v], [out])
    run_planned(contract_launches, u, v, weight, _within_reach(bias), out, None)


def contract_keep(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    if not out.numel() or not weight.numel():
        kept.zero_()
        contract(u, v, weight, bias, out)
        return
    u, v = walkable([u, v], [out])
    run_planned(contract_launches, u, v, weight, _within_reach(bias), out, kept)


def _within_reach(bias: Tensor | None) -> Tensor | None:
    """The bias as it is, but for one whose elements lie so far apart that the kernels' 32 bits would not do."""
    return bias.contiguous() if bias is not None and span(bias, 1) >= BEYOND_32_BITS else bias


def contract_launches(
    u: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    kept: Tensor | None,
    device: DeviceSpec,
    plan: Plan | None = None,
) -> list[Launch]:
    """The launches of one contraction (by the planner's plan or another), its workspace allocated. No size may be 0."""
    # kept (..., p, r) is walked by the same rows as (..., p * r): it is allocated contiguous.
    outputs = [out] if kept is None else [out, kept.flatten(-2)]
    rows = batch_rows([u, v, *outputs])
    precision = float32_precision(u, device)
    dtype = str(u.dtype).removeprefix("torch.")
    P, Q, R = weight.shape
    unit, vector = unit_axis(weight, "pqr")
    row_vector = min(vector_bytes(u), vector_bytes(v))
    problem = ContractProblem(rows.count, P, Q, R, dtype, precision, unit, vector, row_vector, kept is not None)
    plan = plan or plan_contract(problem, device)
    if plan.order == ("p", "r", "q"):
        u, v, weight = v, u, weight.transpose(1, 2)
        rows = replace(rows, strides=(rows.strides[1], rows.strides[0], *rows.strides[2:]))
    if plan.splits == 1:
        out_arguments = {
            "bias_ptr": out if bias is None else bias,
            "out_ptr": out,
            "stride_bias": 0 if bias is None else bias.stride(0),
            "stride_os": 0,
            **row_strides("o", rows.strides[2]),
            "stride_op": out.stride(-1),
            "HAS_BIAS": bias is not None,
        }
        return [_first_pass(u, v, weight, kept, rows, plan, problem, device, out_arguments)]
    partial = workspace(out, plan.splits, rows.count, P)
    levels = rows.levels_of(partial)
    partial_arguments = {
        "bias_ptr": partial,
        "out_ptr": levels,
        "stride_bias": 0,
        **stride_arguments("o", levels, "sbjip"),
        "HAS_BIAS": False,
    }
    return [
        _first_pass(u, v, weight, kept, rows, plan, problem, device, partial_arguments),
        reduce_rows(partial, bias, out, device),
    ]


def _first_pass(
    u: Tensor,
    v: Tensor,
    weight: Tensor,
    kept: Tensor | None,
    rows: Rows,
    plan: Plan,
    problem: ContractProblem,
    device: DeviceSpec,
    out_arguments: dict[str, Any],
) -> Launch:
    config = plan.config
    P, Q, R = weight.shape
    sizes = {"P": P, "Q": Q, "R": R}
    operands = [u, v, out_arguments["out_ptr"]] + ([] if kept is None else [kept.flatten(-2)])
    spans = [rows.reach(index) + span(tensor, 1) for index, tensor in enumerate(operands)]
    steps = -(-R // config["R"])
    if config.kernel == "khatri_rao":
        steps *= -(-Q // config["Q"])
    arguments = {
        "u_ptr": u,
        "v_ptr": v,
        "t_ptr": weight,
        **sizes,
        **rows.arguments(config["B"]),
        **row_strides("u", rows.strides[0]),
        **row_strides("v", rows.strides[1]),
        **stride_arguments("u", u, "q"),
        **stride_arguments("v", v, "r"),
        **stride_arguments("t", weight, "pqr"),
        "steps_per_split": -(-steps // plan.splits),
        **vectors({"U": u, "V": v, "T": weight, "OUT": out_arguments["out_ptr"]}, {**sizes, "RUN": rows.run}),
        **evens(sizes, config),
        **common_constants(plan, problem, device, [*spans, span(weight, 3)]),
        **out_arguments,
    }
    if config.kernel == "khatri_rao":
        kernel = contract_khatri_rao_kernel
        arguments["HOLD_U"] = config["Q"] >= Q
    else:
        kernel = contract_project_kernel
        arguments |= {
            "kept_ptr": u if kept is None else kept,
            **row_strides("k", (0, 0, 0) if kept is None else rows.strides[3]),
            **({"stride_kp": 0, "stride_kr": 0} if kept is None else stride_arguments("k", kept, "pr")),
            "KEEP": kept is not None,
        }
    grid = (-(-rows.count // config["B"]) * -(-P // config["P"]), plan.splits)
    return plan_launch(kernel, grid, arguments, plan, device)
