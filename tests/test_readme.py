"""The README: its Python runs, in order, in one namespace; its commands are ones that there are, and its lines run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from triton_bilinear.__main__ import make_parser

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# Lines of code that are indented, and code within a line.
LINES = re.findall(r"^    (\S.*)", re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def commands(codes: Iterable[str]) -> list[str]:
    """What is called in pieces of code, some of which are something else."""
    return [
        command.strip()
        for code in codes
        for command in code.partition("  #")[0].split("&&")
        if command.strip().startswith(("python ", "pip ", "pytest ", "bench/", ".ci/"))
    ]


COMMANDS = commands([*LINES, *re.findall(r"`([^`\n]+)`", TEXT)])
# Lines of commands in other texts: docstrings, and the README of the stored configs.
ELSEWHERE = [
    match
    for path in [*README.parent.glob("triton_bilinear/**/*.py"), README.parent / "tune_configs" / "README.md"]
    for match in re.findall(r"^    (?:\w+=\w+ )?(python -m triton_bilinear .*)", path.read_text(), re.MULTILINE)
]
# Those that stand alone and are neither the tests nor run by .ci/run.
RUN = [command for command in commands(LINES) if command.startswith("python -m triton_bilinear ")]


def test_the_blocks_run() -> None:
    assert BLOCKS
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, README.name, "exec"), namespace)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
    assert len(ELSEWHERE) > 3


@pytest.mark.parametrize("command", [*COMMANDS, *ELSEWHERE])
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


@pytest.mark.parametrize("command", RUN)
def test_a_line_runs(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.replace("DIR", str(tmp_path)))
    needs_gpu = words[3:5] == ["tune", "--shape"]
    if needs_gpu and torch.cuda.is_available():
        pytest.skip("a sweep takes minutes")
    environment = os.environ | {"TRITON_BILINEAR_CONFIGS": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    if needs_gpu:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "GPU" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
