"""Whether a task's outputs are right: a sample of them, against float64 and element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from ...commands.check.bounds import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    TF32,
    Exact,
    Precision,
    exact,
    worst_error,
)
from ...planning import ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem
from .chains import Chain, chain_of
from .task import Task

_PRECISIONS = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": FLOAT32, "float64": FLOAT64}

# Float64 elements of an intermediate result: 256 MiB.
_ELEMENTS = 2**25


class Verifier:
    """Compares a task's outputs with float64.

    Rows of the batch do not depend on each other, nor do the slices p of a weight's gradient or the rows of a chain's
    matrices: evenly spread ones, the first and the last among them, are computed anew, whole. So each tile of the other
    axes is looked at.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def errors(self) -> list[str]:
        """What is wrong with the outputs as they are now; nothing where they are right."""
        found = []
        for name, expected in self._expected.items():
            actual = self._task.outputs[name]
            error = worst_error(actual.index_select(self._axis, self._sample), expected, self._precision)
            if error.ratio > 1:
                found.append(f"{name}: an error of {error.error:.2g}, {error.ratio:.2g} times what rounding explains")
            if not bool(actual.isfinite().all()):
                found.append(f"{name}: not finite")
        return found

    def clear(self) -> None:
        """Make sure that nothing of the outputs is left from before."""
        for output in self._task.outputs.values():
            output.fill_(torch.nan)

    @property
    def _precision(self) -> Precision:
        problem = self._task.problem
        return TF32 if problem.precision == "tf32" else _PRECISIONS[problem.dtype]

    @property
    def _axis(self) -> int:
        """The axis of the outputs that is sampled."""
        return 2 if isinstance(self._task.problem, ChainProblem) else 0

    @cached_property
    def _sample(self) -> Tensor:
        problem = self._task.problem
        match problem:
            case ContractProblem(B, P, Q, R):
                count, size = _ELEMENTS // (P * max(Q, R)), B
            case GradInputsProblem(B, L, M, N):
                count, size = _ELEMENTS // (L * max(M, N)), B
            case GradWeightProblem(B, P, Q, R):
                count, size = _ELEMENTS // (B * max(Q, R)), P
            case ChainProblem(outputs, K, A, C):
                count, size = _ELEMENTS // (outputs * K * C), A
        count = min(size, 1024, max(2, count))
        return torch.linspace(0, size - 1, count, device=self._task.inputs[0].device).round().long().unique()

    @cached_property
    def _expected(self) -> dict[str, Exact]:
        function: Callable[..., dict[str, Tensor]]
        sample, inputs = self._sample, self._task.inputs
        match self._task.problem:
            case ContractProblem(keep=keep):
                function = _contract_keep if keep else _contract
                inputs = (*(rows[sample] for rows in inputs[:2]), *inputs[2:])
            case GradInputsProblem():
                function = _grad_inputs
                inputs = (*(rows[sample] for rows in inputs[:3]), *inputs[3:])
            case GradWeightProblem():
                function = _grad_weight
                inputs = (inputs[0][:, sample], *inputs[1:])
            case ChainProblem() as problem:
                chain = chain_of(problem)
                function = partial(_chain, chain)
                inputs = (inputs[0].index_select(chain.stored[0].index("a"), sample), *inputs[1:])
        return exact(function, inputs)


def _contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"out": torch.einsum("iq,pqr,ir->ip", u, weight, v) + bias}


def _contract_keep(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {**_contract(u, v, weight, bias), "kept": torch.einsum("iq,pqr->ipr", u, weight)}


def _grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
    return {"dx": torch.einsum("il,lmn,in->im", g, weight, y), "dy": torch.einsum("il,lmn,im->in", g, weight, x)}


def _grad_weight(a: Tensor, b: Tensor, c: Tensor) -> dict[str, Tensor]:
    return {"out": torch.einsum("ip,iq,ir->pqr", a, b, c)}


def _chain(chain: Chain, p: Tensor, q: Tensor, r: Tensor) -> dict[str, Tensor]:
    """By two products, of operands that are not expanded: those would be copied."""
    p, q, r = chain.aligned(p, q, r)
    axes = "".join(axis for axis in "blad" if axis != chain.summed)
    out = torch.einsum(f"blac,blcd->{axes}", torch.einsum("blae,blec->blac", p, q), r)
    return {"out": out.unsqueeze("bl".index(chain.summed)) if chain.summed else out}
