"""out[b, o, a, d] = sum_{k, c} (sum_e p[b, o, k, a, e] q[b, o, k, e, c]) r[b, o, k, c, d] + bias[o] through Triton."""

from __future__ import annotations

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
    plan_launch,
    span,
    stride_arguments,
    unit_axis,
    vectors,
)
from .reduction import reduce_rows, workspace
from .replay import run_planned


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
    batch, outer, K, A, E = p.shape
    C, D = r.shape[-2:]
    sizes = {"A": A, "C": C, "D": D, "E": E}
    dtype = str(p.dtype).removeprefix("torch.")
    precision = float32_precision(p, device)
    vector = min(unit_axis(tensor, "bokij")[1] for tensor in (p, q, r))
    inputs = sum(distinct_elements(tensor) for tensor in (p, q, r))
    problem = ChainProblem(batch * outer, K, A, C, D, E, dtype, precision, vector, inputs)
    plan = plan or plan_chain(problem, device)
    config = plan.config
    steps = K * -(-C // config["C"])
    partial = None if plan.splits == 1 else workspace(out, plan.splits, batch * outer * A, D)
    target = out if partial is None else partial.view(plan.splits, batch, outer, A, D)
    arguments = {
        "p_ptr": p,
        "q_ptr": q,
        "r_ptr": r,
        "bias_ptr": out if bias is None else bias,
        "out_ptr": target,
        "OUTER": outer,
        "K": K,
        **sizes,
        **stride_arguments("p", p, "bokae"),
        **stride_arguments("q", q, "bokec"),
        **stride_arguments("r", r, "bokcd"),
        "stride_bias": 0 if bias is None else bias.stride(0),
        "stride_os": 0 if partial is None else partial.stride(0),
        **stride_arguments("o", out if partial is None else target[0], "boad"),
        "steps_per_split": -(-steps // plan.splits),
        **vectors({"P": p, "Q": q, "R": r, "OUT": target}, sizes),
        **evens(sizes, config),
        "HAS_BIAS": bias is not None,
        **common_constants(plan, problem, device, (span(tensor, 2) for tensor in (p, q, r, out))),
    }
    grid = (batch * outer * -(-A // config["A"]) * -(-D // config["D"]), plan.splits)
    launches = [plan_launch(chain_kernel, grid, arguments, plan, device)]
    if partial is not None:
        launches.append(reduce_rows(partial, None, out, device))
    return launches
