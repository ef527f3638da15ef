"""Predicted time of a training step over its floor, for named shapes and GPUs, as a Markdown table. None is measured.

    python bench/predicted.py

The floor is the larger of arithmetic and bytes for each op of the step, added up; see `triton_bilinear.explain`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from triton_bilinear import explain
from triton_bilinear.tuning.sweep.problems import NAMED_SHAPES

GPUS = (
    "NVIDIA H100 80GB HBM3",
    "NVIDIA A100-SXM4-80GB",
    "NVIDIA B200",
    "NVIDIA GeForce RTX 4090",
    "AMD Instinct MI300X",
)


def cell(shape: tuple[int, ...], gpu: str) -> str:
    """The ratio, and the predicted time."""
    step = explain(*shape, dtype=torch.bfloat16, gpu=gpu)
    return f"{step.predicted_seconds / step.floor_seconds:.2f} ({1e3 * step.predicted_seconds:.2f} ms)"


def main() -> None:
    print(f"| (B, L, M, N), bfloat16 | {' | '.join(GPUS)} |")
    print("|---" * (len(GPUS) + 1) + "|")
    for shape in NAMED_SHAPES["targets"]:
        print(f"| {shape} | {' | '.join(cell(shape, gpu) for gpu in GPUS)} |", flush=True)


if __name__ == "__main__":
    main()
