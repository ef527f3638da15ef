"""The README: its Python runs, in order, in one namespace; its commands are ones that there are."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import metadata
from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton_bilinear.__main__ import make_parser

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# Lines of code that are indented, and code within a line.
LINES = re.findall(r"^    (\S.*)", re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
COMMANDS = [
    command.strip()
    for code in (*LINES, *re.findall(r"`([^`\n]+)`", TEXT))
    for command in code.partition("  #")[0].split("&&")
    if command.strip().startswith(("python ", "pip ", "pytest ", "bench/", ".ci/"))
]


def test_the_blocks_run() -> None:
    assert BLOCKS
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, README.name, "exec"), namespace)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_there_is(command: str) -> None:
    """Its words are parsed as they would be: options, extras and scripts exist."""
    words = shlex.split(command)
    match words:
        case ["python", "-m", "triton_bilinear", *arguments]:
            if "--help" in arguments:
                with pytest.raises(SystemExit, match="0"):
                    make_parser().parse_args(arguments)
            else:
                make_parser().parse_args(arguments)
        case ["pip", "install", "-e", target]:
            extras = metadata("triton_bilinear").get_all("Provides-Extra")
            assert set(target.removeprefix(".[").removesuffix("]").split(",")) <= set(extras or ())
        case ["python", "-m", "pytest", *_] | ["pytest", *_]:
            assert all((README.parent / word).exists() for word in words if word.startswith("tests/"))
        case ["python", script, *_] | [script, *_]:
            assert (README.parent / script).is_file()
