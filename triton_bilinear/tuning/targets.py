"""Names of GPU architectures, as Triton's compiler knows them and as people write them."""

import re
from typing import Any

_NVIDIA = re.compile(r"sm_(\d+)a?")
_AMD = re.compile(r"gfx[0-9a-f]+")

_MATRIX_CLASSES = (
    (re.compile(r"UTC[A-Z]*MMA\b"), "tcgen05"),
    (re.compile(r"[A-Z]GMMA\b"), "wgmma"),
    (re.compile(r"[HIDQOB]MMA\b"), "mma"),
    (re.compile(r"v_s?mfma"), "mfma"),
    (re.compile(r"v_s?wmma"), "wmma"),
)


def gpu_target(architecture: str) -> Any:
    """Triton's GPUTarget for "sm_90", "gfx942" and so on. ValueError for any other spelling."""
    from triton.backends.compiler import GPUTarget

    if match := _NVIDIA.fullmatch(architecture):
        return GPUTarget("cuda", int(match[1]), 32)
    if _AMD.fullmatch(architecture):
        return GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32)
    raise ValueError(f"expected an architecture such as 'sm_90' or 'gfx942', got {architecture!r}")


def architecture_name(target: Any) -> str:
    """The name that `gpu_target` turns into this GPUTarget."""
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch)


def matrix_class(opcode: str) -> str | None:
    """Which kind of matrix instruction an opcode is: mma, wgmma, tcgen05, mfma, wmma, or None."""
    return next((name for pattern, name in _MATRIX_CLASSES if pattern.match(opcode)), None)
