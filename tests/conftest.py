"""What every test shares: the device, the backend, and uninitialised memory that shows.

TRITON_INTERPRET is set here and nowhere else. Triton reads it when a kernel is defined, so this must run before
anything imports triton: without a GPU the kernels run in Triton's interpreter, with one they are compiled. A variable
that is already set is respected (TRITON_INTERPRET=0 on a machine without a GPU skips what needs the interpreter). Tests
that compile kernels ahead of time take the variable out of the environment of a process of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# No stored configs of whoever runs the tests.
os.environ["TRITON_BILINEAR_CONFIGS"] = ""
# cuBLAS needs this for the deterministic mode below.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from triton_bilinear import use_backend
from triton_bilinear.backend import triton_installed

# Workers of pytest-xdist share the cores.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    """torch.empty gives NaN, so that an element which nobody wrote is seen."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on either path. Keep sizes tiny: the interpreter takes milliseconds for each step of a kernel."""
    if request.param == "triton":
        if not triton_installed():
            pytest.skip("triton is not installed")
        if not torch.cuda.is_available() and not INTERPRETED:
            pytest.skip("no GPU, and TRITON_INTERPRET is not 1")
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def either_path(backend: str) -> None:
    """As `backend`, for a test that makes its tensors on the CPU."""
    if backend == "triton" and not INTERPRETED:
        pytest.skip("CPU tensors take the Triton path in the interpreter only")


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where the backend's tensors live: the GPU for Triton's kernels if there is one."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")
