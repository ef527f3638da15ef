"""The command line: `python -m triton_bilinear <command>`; see `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import bench, check, compile, demo, info, tune

COMMANDS = (demo, info, check, compile, tune, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = make_parser().parse_args(arguments)
    return args.run(args)


def make_parser() -> argparse.ArgumentParser:
    """What every command takes."""
    parser = argparse.ArgumentParser(
        prog="python -m triton_bilinear", description="A bilinear layer for the price of a linear one."
    )
    parser.add_argument("--version", action="version", version=f"triton_bilinear {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
