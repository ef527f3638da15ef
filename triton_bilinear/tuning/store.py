"""Stored configs: what the files of the user's folder and of the package say of a problem on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..planning.config import Config
from ..planning.problem import Problem
from .devices import DeviceSpec


@dataclass(frozen=True)
class Stored:
    """A stored plan. problem: the one it was made for. source: its file. The rest as in planning.Plan."""

    problem: Problem
    config: Config
    order: tuple[str, ...]
    splits: int
    groups: int
    origin: str
    source: str


def lookup(problem: Problem, device: DeviceSpec) -> Iterator[Stored]:
    """The entries that serve the problem on the device, best first."""
    yield from ()


def forget() -> None:
    """Read the files again when next asked."""
