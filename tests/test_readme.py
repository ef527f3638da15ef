"""Every block of Python in the README runs, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("triton")

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_blocks_run() -> None:
    assert BLOCKS
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, README.name, "exec"), namespace)
