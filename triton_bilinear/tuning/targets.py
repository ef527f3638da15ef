"""Names of GPU architectures, as Triton's compiler knows them and as people write them."""

import re
from functools import cache
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


@cache
def asynchronous_unit(architecture: str) -> str | None:
    """The matrix unit that works beside the warps, on tiles of 64 rows or more: "wgmma", "tcgen05", or None."""
    match = _NVIDIA.fullmatch(architecture)
    return {9: "wgmma", 10: "tcgen05", 11: "tcgen05"}.get(int(match[1]) // 10) if match else None


def matrix_class(opcode: str) -> str | None:
    """Which kind of matrix instruction an opcode is: mma, wgmma, tcgen05, mfma, wmma, or None."""
    return next((name for pattern, name in _MATRIX_CLASSES if pattern.match(opcode)), None)


def expected_matrix_class(
    architecture: str, dtype: str, precision: str = "ieee", block_m: int = 64, num_warps: int = 4
) -> str | None:
    """The matrix instruction that a product of `dtype` tiles should become, or None where plain arithmetic must do.

    dtype: "float16", "bfloat16", "float32" or "float64". precision: `input_precision` of a float32 product. block_m:
    rows of the product's tile; fewer than 64 rows, or fewer than four warps, leave sm_90 and sm_100 with mma.
    """
    exact = dtype == "float64" or (dtype == "float32" and precision == "ieee")
    if architecture.startswith("gfx9"):
        return "mfma"
    if architecture.startswith("gfx"):
        return None if exact else "wmma"
    if dtype == "float64":
        return "mma" if architecture in ("sm_80", "sm_90", "sm_100") else None
    if exact:
        return None
    asynchronous = asynchronous_unit(architecture)
    return asynchronous if asynchronous and block_m >= 64 and num_warps >= 4 else "mma"


def product_precisions(architecture: str) -> tuple[str, ...]:
    """The `input_precision` values that a float32 product can have on an architecture."""
    if architecture.startswith("sm_"):
        return ("ieee", "tf32", "tf32x3")
    return ("ieee", "tf32") if architecture == "gfx942" else ("ieee",)
