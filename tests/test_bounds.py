"""No kernel reads or writes outside its tensors: every kernel, order, split and stride, by tilelens' Sanitizer.

The Sanitizer solves for an address that a mask lets through and that no tensor holds; it runs nothing. That it would
find a mask that is missing is shown with the kernels themselves: an EVEN_ constant that is not true drops one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
pytest.importorskip("tilelens", reason="of the test extra")
import small_kernels
import tilelens
import triton
from conftest import INTERPRETED
from test_kernels import AXES, Problem, last_first, make, sliced
from tilelens.clients import Sanitizer

from triton_bilinear.gpu.contract import contract_launches
from triton_bilinear.gpu.device import device_of
from triton_bilinear.gpu.launch import Launch
from triton_bilinear.planning import Config, Plan
from triton_bilinear.planning.config import config

pytestmark = [
    pytest.mark.skipif(not INTERPRETED, reason="the Sanitizer takes kernels that Triton interprets"),
    pytest.mark.skipif(
        triton.__version__.startswith("3.6."), reason="the interpreter of Triton 3.6 makes numbers of symbolic values"
    ),
]


def sanitized(kernel: Any, launch: Callable[[Any], None]) -> set[str]:
    """The names of the pointers through which the launch of the kernel may leave its tensors."""
    sanitizer = Sanitizer(abort_on_error=False)
    with mock.patch.object(Tensor, "data_ptr", _same_addresses()):
        launch(tilelens.trace(client=sanitizer)(kernel))
    return {record.tensor_name for record in sanitizer.records}


def _same_addresses() -> Callable[[Tensor], int]:
    """A `data_ptr` that is the same in every run: at some addresses the solver searches for minutes."""
    storages: dict[int, int] = {}

    def data_ptr(tensor: Tensor) -> int:
        number = storages.setdefault(tensor.untyped_storage().data_ptr(), len(storages))
        return (number + 1 << 32) + tensor.storage_offset() * tensor.element_size()

    return data_ptr


def out_of_bounds(launch: Launch) -> set[str]:
    return sanitized(launch.kernel, lambda kernel: replace(launch, kernel=kernel).run())


def launches_of(problem: Problem, plan: Plan) -> list[Launch]:
    outputs: list[Tensor | None] = [*problem.outputs]
    if problem.primitive.launches is contract_launches and len(outputs) == 1:
        outputs.append(None)
    return problem.primitive.launches(*problem._inputs(), *outputs, device_of(problem.operands[0]), plan)


# Tiles that are partial somewhere along every axis. Their sizes, and those of flattened axes, all differ: the Sanitizer
# takes two `arange` of one length for one and the same index.
KHATRI_RAO = config("khatri_rao", 4, 2, B=16, P=32, Q=2, R=64)
KHATRI_RAO_HELD = config("khatri_rao", 4, 2, B=16, P=32, Q=4, R=64)
PROJECT = config("project", 4, 2, B=16, P=2, Q=32, R=64)
JOINT = config("grad_inputs", 4, 2, B=16, L=32, M=2, N=64)
WEIGHT = config("grad_weight", 4, 2, B=16, P=2, Q=32, R=128)
CHAIN = config("chain", 4, 2, A=16, C=32, D=64, E=128)

# (primitive, tile, sizes along AXES, the axes of the tile)
CASES: dict[str, tuple[str, Config, tuple[int, ...], str]] = {
    "khatri_rao": ("contract", KHATRI_RAO, (19, 27, 3, 67), "BPQR"),
    "khatri_rao, u held": ("contract", KHATRI_RAO_HELD, (19, 27, 3, 67), "BPQR"),
    "project": ("contract", PROJECT, (19, 3, 35, 67), "BPQR"),
    "keep": ("contract_keep", PROJECT, (19, 1, 35, 67), "BPQR"),
    "joint": ("grad_inputs", JOINT, (13, 35, 3, 67), "BLMN"),
    "joint, g held": ("grad_inputs", JOINT, (13, 27, 3, 67), "BLMN"),
    "grad_weight": ("grad_weight", WEIGHT, (19, 1, 27, 131), "BPQR"),
    "pairs": ("pairwise", CHAIN, (1, 1, 131, 35, 19, 59), "ACDE"),
    "pairs, outputs summed": ("pairwise_grad_x", CHAIN, (1, 1, 59, 35, 19, 131), "ACDE"),
    "pairs, batch summed": ("pairwise_grad_weight", CHAIN, (1, 1, 19, 59, 131, 35), "ACDE"),
}
STRAIGHT = {"contract": "pqr", "contract_keep": "pqr", "grad_inputs": "lmn", "grad_weight": "pqr"}
STRAIGHT |= dict.fromkeys(("pairwise", "pairwise_grad_x", "pairwise_grad_weight"), "acde")
TURNED = {"contract": "prq", "grad_inputs": "lnm", "grad_weight": "rqp"}


def case(
    name: str, order: str = "", splits: int = 1, groups: int = 1, dtype: torch.dtype = torch.float16
) -> tuple[Problem, Plan]:
    """In float16 the operands, whose sizes are odd, are loaded a step ahead; in float32 they are not."""
    primitive, tile, sizes, _ = CASES[name]
    problem = make(primitive, dict(zip(AXES[primitive], sizes, strict=True)), dtype)
    return problem, Plan(tile, tuple(order or STRAIGHT[primitive]), splits, None, groups)


def check(problem: Problem, plan: Plan) -> None:
    for launch in launches_of(problem, plan):
        assert out_of_bounds(launch) == set(), launch.kernel.__name__


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_kernel(name: str, dtype: torch.dtype) -> None:
    problem, plan = case(name, dtype=dtype)
    launch, *_ = launches_of(problem, plan)
    ahead = {value for argument, value in launch.arguments.items() if argument.startswith("AHEAD_")}
    assert ahead == {dtype is torch.float16}
    check(problem, plan)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["khatri_rao", "grad_weight", "joint, g held"])
def test_loads_ahead_without_masks(name: str, splits: int) -> None:
    """Sizes that tiles cover, of rows an element further apart: nothing but the end of a walk keeps a load inside.

    Of three shares of four steps the last is empty, of two steps too.
    """
    primitive, tile, _, axes = CASES[name]
    sizes = {"khatri_rao": (32, 32, 8, 64), "grad_weight": (64, 2, 32, 128), "joint, g held": (16, 32, 4, 64)}[name]
    problem = make(primitive, dict(zip(AXES[primitive], sizes, strict=True)), torch.float16)
    problem.operands = [_spaced(operand) for operand in problem.operands]
    plan = Plan(tile, tuple(STRAIGHT[primitive]), splits, None)
    launch, *_ = launches_of(problem, plan)
    assert all(launch.arguments[f"EVEN_{axis}"] for axis in axes)
    assert any(value for argument, value in launch.arguments.items() if argument.startswith("AHEAD_"))
    for launch in launches_of(problem, plan):
        arguments = {name: _flat(value) for name, value in launch.arguments.items()}
        assert out_of_bounds(replace(launch, arguments=arguments)) == set(), launch.kernel.__name__


def _spaced(tensor: Tensor) -> Tensor:
    """The last axis with an element to be skipped behind it, but for the very last."""
    rows = tensor.shape[:-1].numel()
    last = tensor.shape[-1]
    storage = tensor.new_empty(rows * (last + 1) - 1)
    strides = [stride // last * (last + 1) for stride in tensor.stride()[:-1]]
    return storage.as_strided(tensor.shape, (*strides, 1))


def _flat(value: Any) -> Any:
    """All from a tensor's first element to its last, gaps too: of hundreds of ranges the solver makes minutes."""
    if not isinstance(value, Tensor):
        return value
    reach = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.as_strided((reach + 1,), (1,))


@pytest.mark.parametrize("name", ["khatri_rao", "project", "joint, g held", "grad_weight"])
def test_the_other_order(name: str) -> None:
    check(*case(name, TURNED[CASES[name][0]]))


@pytest.mark.parametrize("name", CASES)
def test_splits_and_groups(name: str) -> None:
    """The second pass too. A share of the contraction may be empty."""
    problem, plan = case(name, splits=2, groups=2 if CASES[name][0] == "grad_inputs" else 1)
    check(problem, plan)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [sliced, last_first])
@pytest.mark.parametrize("name", CASES)
def test_strides(name: str, layout: Callable[[Tensor], Tensor]) -> None:
    problem, plan = case(name)
    problem.operands = [layout(operand) for operand in problem.operands]
    if name != "keep":
        problem.outputs = [layout(output) for output in problem.outputs]
    check(problem, plan)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_levels_of_rows(name: str) -> None:
    """Batch axes that do not merge: tiles cross a middle step."""
    problem, plan = case(name)
    primitive = problem.primitive
    problem.operands = [
        _apart(operand) if axes[0] == "b" else operand
        for operand, axes in zip(problem.operands, primitive.operands, strict=True)
    ]
    problem.outputs = [
        output.new_empty(3, 7, *output.shape[1:]) if axes[0] == "b" else output
        for output, (axes, _) in zip(problem.outputs, primitive.results, strict=True)
    ]
    check(problem, plan)


def _apart(tensor: Tensor) -> Tensor:
    """(3, 7, features) with seven rows to be skipped after each seven; of pairs, so with matrices for features."""
    return tensor.new_empty(6, 7, *tensor.shape[1:])[::2]


_SLOW = ("project", "keep", "joint")
LIES = [
    pytest.param(name, axis, marks=[pytest.mark.slow] if name in _SLOW else [])
    for name, (_, _, _, axes) in CASES.items()
    for axis in axes
]


@pytest.mark.parametrize(("name", "axis"), LIES)
def test_a_missing_mask_of_a_kernel_is_found(name: str, axis: str) -> None:
    """Through each operand that has the axis: those with a stride for it ("stride_uq": u along q)."""
    launch, *_ = launches_of(*case(name))
    assert launch.arguments[f"EVEN_{axis}"] is False
    operands = {"khatri_rao": "uvt", "project": "uvt", "grad_inputs": "gxya", "grad_weight": "abc", "chain": "pqr"}
    expected = {
        f"{operand}_ptr"
        for operand in operands[CASES[name][1].kernel]
        if f"stride_{operand}{axis.lower()}" in launch.arguments
    }
    assert out_of_bounds(replace(launch, arguments=launch.arguments | {f"EVEN_{axis}": True})) == expected


@pytest.mark.parametrize("masked", [True, False])
def test_a_store_without_a_mask_is_found(masked: bool) -> None:
    out = torch.zeros(19)
    found = sanitized(small_kernels.filling_kernel, lambda kernel: kernel[(2,)](out, len(out), BLOCK=16, MASKED=masked))
    assert found == (set() if masked else {"out_ptr"})
