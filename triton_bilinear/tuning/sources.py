"""What a stored config depends on besides the GPU: the kernel's source, and the compiler."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from .versions import versions

_KERNELS = Path(__file__).parent.parent / "kernels"

# Kernels of one file each, and what plans for the gradients of x and y are a choice between.
_FILES = {"separate": ("grad_inputs", "khatri_rao", "project")}


@cache
def kernel_hash(kernel: str) -> str:
    """Of the source of the kernel that a Config names, with the functions that they share and the second pass."""
    files = (*_FILES.get(kernel, (kernel,)), "helpers", "tiles", "reduce")
    source = "".join((_KERNELS / f"{file}.py").read_text(encoding="utf-8") for file in files)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


@cache
def compiler_versions(architecture: str) -> dict[str, str | None]:
    """Of triton, torch and the ptxas that serves the architecture (None on AMD)."""
    found: dict[str, str | None] = {name: version.partition("+")[0] for name, version in versions().items()}
    ptxas = None
    if architecture.startswith("sm_"):
        ptxas = found["ptxas_blackwell" if int(architecture.removeprefix("sm_")) >= 90 else "ptxas"]
    return {"triton": found["triton"], "torch": found["torch"], "ptxas": ptxas}
