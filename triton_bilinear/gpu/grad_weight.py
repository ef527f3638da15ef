"""out[l, m, n] = sum over the batch of g[..., l] x[..., m] y[..., n] through Triton."""

from __future__ import annotations

from torch import Tensor

from ..kernels.grad_weight import grad_weight_kernel
from ..planning import GradWeightProblem, Plan, plan_grad_weight
from ..tuning.devices import DeviceSpec
from .device import float32_precision
from .launch import Launch, common_constants, evens, plan_launch, span, stride_arguments, vector_bytes, vectors
from .reduction import reduce_partials, workspace
from .replay import run_planned
from .rows import Rows, batch_rows, row_strides, walkable


def grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    if not out.numel():
        return
    if not g.numel():
        out.zero_()
        return
    run_planned(grad_weight_launches, *walkable([g, x, y]), out)


def grad_weight_launches(
    g: Tensor, x: Tensor, y: Tensor, out: Tensor, device: DeviceSpec, plan: Plan | None = None
) -> list[Launch]:
    """The launches (by the planner's plan or another), their workspace allocated. No size may be 0."""
    operands = (g, x, y)
    rows = batch_rows(operands)
    dtype = str(g.dtype).removeprefix("torch.")
    precision = float32_precision(g, device)
    L, M, N = out.shape
    widths = (vector_bytes(g), vector_bytes(x), vector_bytes(y))
    problem = GradWeightProblem(rows.count, L, M, N, dtype, precision, widths)
    plan = plan or plan_grad_weight(problem, device)
    # The kernel's axes p, q, r take the result's axes in the plan's order.
    axes = ["pqr".index(name) for name in plan.order]
    a, b, c = (operands[axis] for axis in axes)
    strides_a, strides_b, strides_c = (rows.strides[axis] for axis in axes)
    target = out.permute(axes)
    P, Q, R = target.shape
    sizes = {"P": P, "Q": Q, "R": R}
    config = plan.config
    spans = [rows.reach(index) + span(tensor, 1) for index, tensor in enumerate(operands)]
    row_tiles = -(-rows.count // config["B"])
    rows_per_split = -(-row_tiles // plan.splits) * config["B"]
    partial = None if plan.splits == 1 else workspace(out, plan.splits, P * Q, R)
    parts = None if partial is None else partial.unflatten(1, (P, Q))
    arguments = {
        "a_ptr": a,
        "b_ptr": b,
        "c_ptr": c,
        "out_ptr": out if parts is None else parts,
        **sizes,
        **rows.arguments(config["B"]),
        **row_strides("a", strides_a),
        **row_strides("b", strides_b),
        **row_strides("c", strides_c),
        **stride_arguments("a", a, "p"),
        **stride_arguments("b", b, "q"),
        **stride_arguments("c", c, "r"),
        "stride_os": 0 if parts is None else parts.stride(0),
        **stride_arguments("o", target if parts is None else parts, "pqr"),
        "rows_per_split": rows_per_split,
        **vectors(
            {"A": a, "B": b, "C": c, "OUT": out if parts is None else parts},
            {**sizes, "RUN": rows.run},
        ),
        **evens(sizes, config),
        **common_constants(plan, problem, device, [*spans, span(out, 3)]),
    }
    grid = (-(-P // config["P"]) * -(-Q // config["Q"]) * -(-R // config["R"]), plan.splits)
    launches = [plan_launch(grad_weight_kernel, grid, arguments, plan, device)]
    if partial is not None:
        result = Rows(P * Q, P, Q, ((0, target.stride(0), target.stride(1)),))  # q within p
        launches.append(reduce_partials(partial, None, out, result, target.stride(2), device))
    return launches
