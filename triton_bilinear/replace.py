"""Swapping the torch.nn.Bilinear layers of a model for ours, in place, and back.

A layer is not rebuilt, its class changes: parameters, buffers, hooks, device, dtype and mode stay because nothing
touches them, and whoever holds the layer or a parameter of it (another module, an optimizer) holds it still.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.utils import parametrize

from .modules import Bilinear


@dataclass(frozen=True)
class Replacement:
    """What `replace_bilinear` or `restore_bilinear` did.

    replaced: the name of each layer that was replaced, as in `model.named_modules()`: "" is the model itself, and a
        layer that a model holds several times has the first of its names.
    skipped: the name of each layer that was left as it is, and why.
    """

    replaced: tuple[str, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}, skipped {len(self.skipped)}"]
        lines += [f"  replaced {name or '(the model)'}" for name in self.replaced]
        lines += [f"  skipped {name or '(the model)'}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def replace_bilinear(model: torch.nn.Module) -> Replacement:
    """Make every torch.nn.Bilinear of a model, the model itself included, a `triton_bilinear.Bilinear`, in place.

    Layers keep their identity, and with it parameters, parametrisations, names, hooks, device, dtype, mode and sharing.
    Skipped, and reported, are layers whose computation is somebody else's: a subclass of torch.nn.Bilinear (a layer
    wrapped by FSDP too: replace before), and a layer with a `forward` set on the instance. Replace before
    torch.compile, too: a graph that it made already may go on with the layers that it was made of.
    """
    return _swap(model, torch.nn.Bilinear, Bilinear)


def restore_bilinear(model: torch.nn.Module) -> Replacement:
    """Make every `triton_bilinear.Bilinear` of a model a torch.nn.Bilinear again: the reverse of `replace_bilinear`.

    A model that is pickled whole after this can be loaded where this package is not installed.
    """
    return _swap(model, Bilinear, torch.nn.Bilinear)


def _swap(model: torch.nn.Module, old: type[torch.nn.Module], new: type[torch.nn.Module]) -> Replacement:
    replaced, skipped = [], {}
    for name, module in model.named_modules():
        if not isinstance(module, old) or (issubclass(new, old) and isinstance(module, new)):
            continue
        reason = _reason_to_skip(module, old)
        if reason is not None:
            skipped[name] = reason
            continue
        module.__class__ = new if type(module) is old else _parametrized(type(module), new)
        replaced.append(name)
    return Replacement(tuple(replaced), skipped)


def _reason_to_skip(module: torch.nn.Module, old: type[torch.nn.Module]) -> str | None:
    kind = type(module)
    if kind is not old and not (parametrize.is_parametrized(module) and kind.__bases__ == (old,)):
        return f"{kind.__module__}.{kind.__qualname__} is a subclass of {old.__module__}.{old.__qualname__}"
    if "forward" in vars(module):
        return "its forward was set on the instance"
    return None


def _parametrized(kind: type, new: type[torch.nn.Module]) -> type:
    """The class that parametrize made for a layer, with its properties, on top of another layer class.

    A class of its own: copies of the layer, perhaps in other models, share the one that it has.
    """
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (new,), members)
