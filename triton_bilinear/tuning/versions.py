"""The versions that decide what the compiler makes of a kernel."""

import importlib.metadata


def versions() -> dict[str, str]:
    """Of torch, of triton, and of the two ptxas that triton brings (the newer one serves sm_90 and later)."""
    from triton import knobs

    return {
        "torch": importlib.metadata.version("torch"),
        "triton": importlib.metadata.version("triton"),
        "ptxas": knobs.nvidia.ptxas.version,
        "ptxas_blackwell": knobs.nvidia.ptxas_blackwell.version,
    }
