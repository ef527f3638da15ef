"""Launches planned once for tensors of one layout, and run again with other tensors that lie the same way.

All that a launch passes but pointers follows from the shapes, strides, dtypes and alignment of a call's tensors. To
work it out anew, and to have Triton bind sixty arguments, would take longer than the kernels of a small layer. What
Triton does around a launch is done, but for what its binding asks in each call (debug settings, hooks before a run).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from triton import OutOfResources
from triton.compiler import CompiledKernel

from ..planning import fall_back, when_forgotten
from ..tuning.devices import DeviceSpec
from .device import device_of, float32_precision, on_device
from .launch import Launch

# Layouts that are remembered; a model has a few for each of its layers and batch sizes.
_MOST = 4096

# What a launch on AMD is compiled for: whether offsets in bytes fit 32 bits.
_TWO_GB = 2**31

_Planner = Callable[..., list[Launch]]


@dataclass
class _Replay:
    """A launch without its tensors.

    values: every argument in the kernel's order, tensors left out. slots: where they go, and which of the call's
    tensors and workspaces it is. runner: the compiled kernel, once it has run (not in the interpreter, nor while it
    compiles in another thread).
    """

    launch: Launch
    values: list[Any]
    slots: list[tuple[int, int]]
    runner: Callable[..., None] | None = None

    def run(self, tensors: Sequence[Tensor | None]) -> None:
        values = self.values.copy()
        for position, index in self.slots:
            values[position] = tensors[index]
        if self.runner is not None:
            self.runner(*values)
            return
        names = self.launch.kernel.arg_names
        compiled = replace(self.launch, arguments=dict(zip(names, values, strict=True))).run()
        if isinstance(compiled, CompiledKernel):
            self.runner = compiled[self.launch.grid + (1,)]


class _Recipe:
    """The launches of a call, for any tensors that lie as those it was made with."""

    def __init__(self, launches: Sequence[Launch], tensors: Sequence[Tensor | None]) -> None:
        # Views of a call's tensors begin where these do; what begins elsewhere is a workspace.
        index_of: dict[int, int] = {}
        for index, tensor in enumerate(tensors):
            if tensor is not None:
                index_of.setdefault(tensor.data_ptr(), index)
        self._workspaces: list[tuple[tuple[int, ...], torch.dtype, torch.device]] = []
        self.replays: list[_Replay] = []
        for launch in launches:
            values = [launch.arguments[name] for name in launch.kernel.arg_names]
            slots = []
            for position, value in enumerate(values):
                if isinstance(value, Tensor):
                    if value.data_ptr() not in index_of:
                        index_of[value.data_ptr()] = len(tensors) + len(self._workspaces)
                        self._workspaces.append((tuple(value.shape), value.dtype, value.device))
                    slots.append((position, index_of[value.data_ptr()]))
                    values[position] = None
            self.replays.append(_Replay(replace(launch, arguments={}), values, slots))

    def run(self, tensors: Sequence[Tensor | None]) -> None:
        workspaces = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in self._workspaces]
        for replay in self.replays:
            replay.run([*tensors, *workspaces])


_recipes: dict[tuple[Any, ...], _Recipe] = {}
when_forgotten(_recipes.clear)


def run_planned(planner: _Planner, *tensors: Tensor | None) -> None:
    """Runs the launches that `planner(*tensors, device)` makes for the first tensor's device.

    Where the device has not got what a launch needs, in spite of the planner's model, all are planned and run once
    more, with the safe plans that their problems have from then on.
    """
    where = tensors[0]
    assert where is not None
    device = device_of(where)
    key = (planner, device, where.device, float32_precision(where, device), _layout(tensors, device))
    with on_device(where.device):
        recipe = _recipes.get(key) or _remember(key, planner, tensors, device)
        try:
            recipe.run(tensors)
        except OutOfResources:
            for replay in recipe.replays:
                if replay.launch.plan is not None:
                    fall_back(replay.launch.plan, device)
            _remember(key, planner, tensors, device).run(tensors)


def _remember(key: tuple[Any, ...], planner: _Planner, tensors: Sequence[Tensor | None], device: DeviceSpec) -> _Recipe:
    recipe = _Recipe(planner(*tensors, device), tensors)
    if len(_recipes) >= _MOST:
        _recipes.clear()
    _recipes[key] = recipe
    return recipe


def _layout(tensors: Sequence[Tensor | None], device: DeviceSpec) -> tuple[Any, ...]:
    """All that launches depend on of the tensors, and which of them begin at one place."""
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    layout: tuple[Any, ...] = tuple(
        tensor is not None and (tensor.shape, tensor.stride(), tensor.dtype, pointer % 16 == 0, pointers.index(pointer))
        for tensor, pointer in zip(tensors, pointers, strict=True)
    )
    if device.vendor == "amd":
        layout += tuple(tensor is None or tensor.untyped_storage().nbytes() < _TWO_GB for tensor in tensors)
    return layout
