"""What plans must reach without a GPU: little padding, few bytes, one product for two gradients, few instructions.

Shapes are (B, L, M, N), dtypes bfloat16 unless said otherwise. A unit is 2*B*L*M*N floating-point operations.
"""

from __future__ import annotations

import json
from itertools import product
from math import prod
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from triton_bilinear import explain
from triton_bilinear.inspection.problem import StepProblem
from triton_bilinear.inspection.step import step_ops
from triton_bilinear.planning import SEPARATE, GradInputsProblem
from triton_bilinear.planning.grad_inputs import legal_tiles
from triton_bilinear.planning.problem import itemsize
from triton_bilinear.tuning.devices import device_names, find_device
from triton_bilinear.tuning.sweep.problems import NAMED_SHAPES
from triton_bilinear.tuning.targets import product_precisions

A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"
GPUS = [A100, H100, "NVIDIA B200", "NVIDIA GeForce RTX 4090", "AMD Instinct MI300X"]
COUNTS = Path(__file__).resolve().parent.parent / "bench" / "counts.json"


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", NAMED_SHAPES["targets"], ids=str)
def test_a_step_executes_little_more_than_three_units(shape: tuple[int, ...], gpu: str) -> None:
    """On the matrix unit, padding included; but for ops that are bound by bytes, and say so."""
    ops = [op for op in step_ops(StepProblem(shape, torch.bfloat16), find_device(gpu)) if op.launches]
    assert len(ops) == 3
    limits = {op.name: op.limit for op in explain(*shape, dtype=torch.bfloat16, gpu=gpu).ops}
    executed = [op.plan.estimate.matrix_flops for op in ops if limits[op.name] != "dram"]
    most = 1.15 if all(size % 16 == 0 for size in shape) else 1.6
    assert sum(executed) <= most * len(executed) * 2 * prod(shape)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("shape", NAMED_SHAPES["targets"], ids=str)
def test_little_is_moved_twice(shape: tuple[int, ...], gpu: str) -> None:
    problem = StepProblem(shape, torch.bfloat16)
    for op in step_ops(problem, find_device(gpu)):
        if op.launches:
            assert op.plan.estimate.dram_bytes <= 2 * problem.minimum_bytes(op.name, op.keeps)


@pytest.mark.parametrize("gpu", device_names())
def test_one_product_gives_both_gradients_however_operands_are_read(gpu: str) -> None:
    """From 16 outputs on a tile of the joint kernel fits, in every dtype and precision, whatever can be vectors."""
    device = find_device(gpu)
    singles = [("float32", precision) for precision in product_precisions(device.architecture)]
    for dtype, precision in [("bfloat16", "ieee"), ("float64", "ieee"), *singles]:
        widths = [width for width in (2, 4, 8, 16) if width >= itemsize(dtype)]
        for unit, vector, rows, L in product(("l", "m", "n", ""), widths, widths, (16, 17, 256)):
            if unit or vector == itemsize(dtype):
                problem = GradInputsProblem(1000, L, 160, 129, dtype, precision, unit, vector, rows)
                assert legal_tiles(problem, device)[0].config != SEPARATE, problem


@pytest.mark.parametrize("gpu", [A100, H100])
@pytest.mark.parametrize("shape", NAMED_SHAPES["targets"][:2], ids=str)
def test_the_matrix_unit_and_not_the_issue_slots_is_the_limit(shape: tuple[int, ...], gpu: str) -> None:
    """By the counts in git, which `bench/counts.py` compares with what the compiler makes of the kernels."""
    (counts,) = json.loads(COUNTS.read_text()).values()
    kernels = counts[f"{gpu}, bfloat16 {','.join(map(str, shape))}"]["kernels"]
    ratios = {name: kernel["issue_ratio"] for name, kernel in kernels.items() if "issue_ratio" in kernel}
    assert set(ratios) == {"forward 1", "grad_inputs 1", "grad_weight 1"}
    for name, ratio in ratios.items():
        assert ratio <= (0.95 if name == "grad_inputs 1" else 0.70), name
