"""out[b, l, a, d] = sum_c (sum_e p[b, l, a, e] q[b, l, e, c]) r[b, l, c, d] + bias[l] through Triton."""

from __future__ import annotations

from math import prod

from torch import Tensor

from ..kernels.chain import chain_kernel
from ..planning import ChainProblem, Plan, plan_chain
from ..tuning.devices import DeviceSpec
from .device import float32_precision
from .launch import (
    Launch,
    common_constants,
    distinct_elements,
    evens,
    matrix_vector_bytes,
    plan_launch,
    span,
    stride_arguments,
    vectors,
)
from .reduction import reduce_rows, workspace
from .replay import run_planned
from .rows import MOST_ROWS, batch_rows, row_strides


def chain(p: Tensor, q: Tensor, r: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    if not out.numel():
        return
    if not (p.numel() and q.numel() and r.numel()):
        out.zero_() if bias is None else out.copy_(bias[:, None, None].expand_as(out))
        return
    run_planned(chain_launches, p, q, r, bias, out)


def chain_launches(
    p: Tensor, q: Tensor, r: Tensor, bias: Tensor | None, out: Tensor, device: DeviceSpec, plan: Plan | None = None
) -> list[Launch]:
    """The launches (by the planner's plan or another), their workspace allocated. No size may be 0."""
    problem, summed = _problem(p, q, r, out, device)
    plan = plan or plan_chain(problem, device)
    config = plan.config
    partial = None if plan.splits == 1 else workspace(out, plan.splits, problem.outputs * problem.A, problem.D)
    parts = None if partial is None else partial.view(plan.splits, *out.shape)
    target = (out if parts is None else parts[0]).expand(*p.shape[:-1], problem.D)
    if plan.order[0] == "d":
        p, q, r, target = r.mT, q.mT, p.mT, target.mT
    sizes = {"A": p.shape[-2], "C": r.shape[-2], "D": r.shape[-1], "E": p.shape[-1]}
    steps = problem.K * -(-sizes["C"] // config["C"])
    if steps > MOST_ROWS:
        raise RuntimeError(f"expected sums of at most 2**30 tiles, got {steps}")
    rows = batch_rows((p, q, r, target), axes=3)
    levels = zip("pqro", rows.strides, strict=True)
    arguments = {
        "p_ptr": p,
        "q_ptr": q,
        "r_ptr": r,
        "bias_ptr": out if bias is None else bias,
        "out_ptr": out if parts is None else parts,
        "L": p.shape[-3],
        **sizes,
        **rows.extents(),
        **{name: step for each, strides in levels for name, step in row_strides(each, strides).items()},
        **stride_arguments("p", p, "lae"),
        **stride_arguments("q", q, "lec"),
        **stride_arguments("r", r, "lcd"),
        **stride_arguments("o", target, "lad"),
        "stride_bias": 0 if bias is None else bias.stride(0),
        "stride_os": 0 if parts is None else parts.stride(0),
        "steps_per_split": -(-steps // plan.splits),
        **vectors({"P": p, "Q": q, "R": r, "OUT": out if parts is None else parts}, sizes),
        **evens(sizes, config),
        "SUMMED": summed,
        "ROWS": rows.kind(1),
        "HAS_BIAS": bias is not None,
        **common_constants(plan, problem, device, (span(tensor, 2) for tensor in (p, q, r, target))),
    }
    programs = problem.outputs * -(-sizes["A"] // config["A"]) * -(-sizes["D"] // config["D"])
    launches = [plan_launch(chain_kernel, (programs, plan.splits), arguments, plan, device)]
    if partial is not None:
        launches.append(reduce_rows(partial, None, out, device))
    return launches


def _problem(p: Tensor, q: Tensor, r: Tensor, out: Tensor, device: DeviceSpec) -> tuple[ChainProblem, str]:
    """The problem, and what the result is summed over beside c: "b" for the batch, "l" for the outputs, or nothing."""
    *batch, L, A, E = p.shape
    C, D = r.shape[-2:]
    if out.shape[:-3] != p.shape[:-3]:
        summed, outputs, K = "b", L, prod(batch)
    elif out.shape[-3] != L:
        summed, outputs, K = "l", prod(batch), L
    else:
        summed, outputs, K = "", prod(batch) * L, 1
    dtype = str(p.dtype).removeprefix("torch.")
    vector = min(matrix_vector_bytes(tensor) for tensor in (p, q, r))
    inputs = sum(distinct_elements(tensor) for tensor in (p, q, r))
    return ChainProblem(outputs, K, A, C, D, E, dtype, float32_precision(p, device), vector, inputs), summed
