"""Counts what kernels do while Triton's interpreter runs them: work of the matrix unit, and bytes loaded and stored.

Everything is taken from what is executed, element by element of each mask, and nothing from a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from triton.runtime import interpreter


@dataclass
class LaunchCount:
    """One launch of a kernel.

    dot_flops: 2*M*N*K of every product of tiles, padding included. dots: how many products.
    loaded_bytes, stored_bytes: of the elements that masks let through; an element read twice counts twice.
    atomics: atomic operations.
    """

    kernel: str
    grid: tuple[int, ...] = ()
    dot_flops: int = 0
    dots: int = 0
    loaded_bytes: int = 0
    stored_bytes: int = 0
    atomics: int = 0


@dataclass
class Counts:
    """What was launched, in order, and the sums over all launches."""

    launches: list[LaunchCount] = field(default_factory=list)

    @property
    def dot_flops(self) -> int:
        return sum(launch.dot_flops for launch in self.launches)

    @property
    def loaded_bytes(self) -> int:
        return sum(launch.loaded_bytes for launch in self.launches)

    @property
    def stored_bytes(self) -> int:
        return sum(launch.stored_bytes for launch in self.launches)

    @property
    def atomics(self) -> int:
        return sum(launch.atomics for launch in self.launches)

    def of(self, kernel: str) -> Counts:
        """The launches of one kernel."""
        return Counts([launch for launch in self.launches if launch.kernel == kernel])


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts every interpreted launch inside the block. Kernels have to be defined under TRITON_INTERPRET=1."""
    counts = Counts()
    patches = {name: _counting(counts, name, note) for name, note in _NOTES.items()}
    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", _noting_launches(counts)),
        mock.patch.multiple(interpreter.interpreter_builder, **patches),
    ):
        yield counts


def _noting_launches(counts: Counts) -> Callable[..., Any]:
    run = interpreter.GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts.launches.append(LaunchCount(self.fn.__name__))
        result = run(self, *args, **kwargs)
        counts.launches[-1].grid = tuple(interpreter.interpreter_builder.grid_dim)
        return result

    return call


def _counting(counts: Counts, name: str, note: Callable[..., None]) -> Callable[..., Any]:
    # Of the one instance, not of its class: other instruments (tilelens) put attributes there, which hide the class's.
    run = getattr(interpreter.interpreter_builder, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        note(counts.launches[-1], *args, **kwargs)
        return run(*args, **kwargs)

    return call


def _note_dot(launch: LaunchCount, a: Any, b: Any, *_: Any) -> None:
    launch.dots += 1
    launch.dot_flops += 2 * a.data.size * b.data.shape[-1]


def _note_load(launch: LaunchCount, pointers: Any, mask: Any, *_: Any) -> None:
    launch.loaded_bytes += _bytes_behind(pointers, mask)


def _note_store(launch: LaunchCount, pointers: Any, _value: Any, mask: Any, *_: Any) -> None:
    launch.stored_bytes += _bytes_behind(pointers, mask)


def _note_atomic(launch: LaunchCount, *_: Any) -> None:
    launch.atomics += 1


def _bytes_behind(pointers: Any, mask: Any) -> int:
    return int(np.count_nonzero(mask.data)) * pointers.get_element_ty().primitive_bitwidth // 8


# Unmasked loads and stores, and those of tensor descriptors, come through the masked ones.
_NOTES = {
    "create_dot": _note_dot,
    "create_masked_load": _note_load,
    "create_masked_store": _note_store,
    "create_atomic_rmw": _note_atomic,
    "create_atomic_cas": _note_atomic,
}
