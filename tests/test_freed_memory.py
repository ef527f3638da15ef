"""What a call on a CPU frees serves the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
import triton_bilinear as tb

sizes = {sizes}
leaves = [torch.randn(size, requires_grad=True) for size in sizes]
g = torch.randn(sizes[0][0], sizes[2][0])


def steps():
    for _ in range(20):
        torch.autograd.grad(tb.bilinear(*leaves), leaves, g)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


with tb.use_backend("torch"):
    warm = steps()
    print((steps() - warm) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(((4096, 32), (4096, 32), (64, 32, 32)), id="small features"),
        pytest.param(((1024, 128), (1024, 128), (64, 128, 128)), id="square"),
    ],
)
def test_no_memory_is_got_anew_once_a_step_has_been_made(sizes):
    """In a program that has freed nothing large: pages of 4 KiB that the system hands out in a step."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(sizes=sizes)], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(done.stdout) < 200, "a workspace is of 512 pages and more; where one comes to lie may change once"
