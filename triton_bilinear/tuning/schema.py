"""The files of stored configs: one JSON file per GPU, read strictly, written with an entry to a line.

    {"schema_version": 1,
     "gpu": {"name": as torch reports it, "architecture": "sm_90", "sm_count": 132, "shared_memory": bytes of a block},
     "entries": [entry, ...]}

An entry says which plan serves a range of problems:

    op            "contract", "grad_inputs", "grad_weight" or "chain"
    problem       the fields of the op's problem (planning.problem) for which the plan was found
    serves        for each size of the problem [least, largest], within a factor of 4; the other fields have to be equal
    config        kernel, blocks, num_warps, num_stages (planning.config); kernel "separate" for two contractions
    order, splits, groups    as in planning.plan
    origin        "measured" or "predicted"
    measured      null, or median_seconds, spread_seconds (between the quartiles), ratio (the time of the plan that it
                  replaced, measured next to it, over its own; null where that one did not run)
    versions      of triton, torch and ptxas (null on AMD)
    kernel_hash   of the kernel's source

Every field has to be there and no other may be: what is not understood is not used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from ..planning.config import KERNELS, SEPARATE, Config
from ..planning.problem import ROWS, ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Problem
from .devices import DeviceSpec

SCHEMA_VERSION = 1
MAX_REACH = 4
ORIGINS = ("measured", "predicted")

OPS: dict[str, type[Problem]] = {
    "contract": ContractProblem,
    "grad_inputs": GradInputsProblem,
    "grad_weight": GradWeightProblem,
    "chain": ChainProblem,
}

_Flat = TypeVar("_Flat")


@dataclass(frozen=True)
class Gpu:
    """The GPU that a file is for, as in DeviceSpec."""

    name: str
    architecture: str
    sm_count: int
    shared_memory: int


@dataclass(frozen=True)
class Measured:
    """Seconds of a plan on the GPU. spread_seconds: between the quartiles. ratio: of the replaced plan's time to it, or
    None where that one does not run."""

    median_seconds: float
    spread_seconds: float
    ratio: float | None


@dataclass(frozen=True)
class Entry:
    """An entry of a file; the module's text says what its fields mean."""

    problem: Problem
    serves: Mapping[str, tuple[int, int]]
    config: Config
    order: tuple[str, ...]
    splits: int
    groups: int
    origin: str
    measured: Measured | None
    versions: Mapping[str, str | None]
    kernel_hash: str


def gpu_of(device: DeviceSpec) -> Gpu:
    """What a file says of a device."""
    return Gpu(device.name, device.architecture, device.sm_count, device.shared_memory)


def op_of(problem: Problem) -> str:
    """The name of the op that a problem is one of."""
    return next(name for name, kind in OPS.items() if isinstance(problem, kind))


def sizes_of(problem: Problem) -> dict[str, int]:
    """The sizes of a problem, by name."""
    return {name: getattr(problem, name) for name in _size_names(type(problem))}


def class_of(problem: Problem) -> tuple[Any, ...]:
    """All of a problem but its sizes: what an entry has to share with the problem that it serves."""
    names = _size_names(type(problem))
    return (type(problem), *(getattr(problem, field.name) for field in fields(problem) if field.name not in names))


def bucket(problem: Problem) -> dict[str, tuple[int, int]]:
    """The sizes that a plan found for this problem may serve: half to twice the batch, other sizes an eighth off."""
    return {
        name: (max(1, size // 2), 2 * size) if name in ROWS else (size - size // 8, size + size // 8)
        for name, size in sizes_of(problem).items()
    }


def read_file(text: str) -> tuple[Gpu, list[Any]]:
    """The GPU and the entries, each yet to be read by `read_entry`. ValueError where the text is no such file."""
    data = _fields(json.loads(text), ("schema_version", "gpu", "entries"))
    if type(data["schema_version"]) is not int or data["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"expected schema_version {SCHEMA_VERSION}, got {data['schema_version']!r}")
    return _flat(Gpu, data["gpu"]), _typed("entries", data["entries"], list)


def write_file(gpu: Gpu, entries: Iterable[Entry]) -> str:
    """The text of a file."""
    lines = ",\n  ".join(json.dumps(entry_record(entry)) for entry in entries)
    return (
        f'{{"schema_version": {SCHEMA_VERSION},\n "gpu": {json.dumps(asdict(gpu))},\n "entries": [\n  {lines}\n ]}}\n'
    )


def read_entry(data: Any) -> Entry:
    """ValueError where it is not an entry, and why."""
    data = _fields(data, ("op", *(field.name for field in fields(Entry))))
    if data["op"] not in tuple(OPS):  # a tuple: what is not hashable can be asked for too
        raise ValueError(f"expected an op of {', '.join(OPS)}, got {data['op']!r}")
    problem = _flat(OPS[data["op"]], data["problem"])
    if data["origin"] not in ORIGINS or (data["origin"] == "measured") != (data["measured"] is not None):
        raise ValueError(f"origin {data['origin']!r} with measured {data['measured']!r}")
    return Entry(
        problem=problem,
        serves=_serves(problem, data["serves"]),
        config=_config(data["config"]),
        order=tuple(_typed("order", data["order"], str)),
        splits=_typed("splits", data["splits"], int),
        groups=_typed("groups", data["groups"], int),
        origin=data["origin"],
        measured=None if data["measured"] is None else _flat(Measured, data["measured"]),
        versions=_versions(data["versions"]),
        kernel_hash=_typed("kernel_hash", data["kernel_hash"], str),
    )


def entry_record(entry: Entry) -> dict[str, Any]:
    """An entry as JSON takes it."""
    config = {**asdict(entry.config), "blocks": dict(entry.config.blocks)}
    return {"op": op_of(entry.problem), **asdict(entry), "config": config, "order": "".join(entry.order)}


def _size_names(kind: type[Problem]) -> tuple[str, ...]:
    # Annotations are strings in planning.problem.
    return tuple(field.name for field in fields(kind) if field.type == "int" and not field.name.endswith("vector"))


def _serves(problem: Problem, data: Any) -> dict[str, tuple[int, int]]:
    sizes = sizes_of(problem)
    served = {}
    for name, reach in _fields(data, tuple(sizes)).items():
        least, largest = _typed(name, reach, tuple[int, int])
        size = sizes[name]
        if not (least <= size <= largest and largest <= MAX_REACH * size and size <= MAX_REACH * least):
            raise ValueError(f"expected a range of {name} around {size} and within a factor of 4, got {reach}")
        served[name] = (least, largest)
    return served


def _config(data: Any) -> Config:
    data = _fields(data, ("kernel", "blocks", "num_warps", "num_stages"))
    if data["kernel"] not in (*KERNELS, SEPARATE.kernel):
        raise ValueError(f"expected a kernel of {', '.join(KERNELS)} or {SEPARATE.kernel}, got {data['kernel']!r}")
    blocks = _typed("blocks", data["blocks"], dict)
    return Config(
        kernel=data["kernel"],
        blocks=tuple((axis, _typed(axis, size, int)) for axis, size in blocks.items()),
        num_warps=_typed("num_warps", data["num_warps"], int, least=0),
        num_stages=_typed("num_stages", data["num_stages"], int, least=0),
    )


def _versions(data: Any) -> dict[str, str | None]:
    data = _fields(data, ("triton", "torch", "ptxas"))
    return {name: None if value is None else _typed(name, value, str) for name, value in data.items()}


def _flat(kind: type[_Flat], data: Any) -> _Flat:
    """A dataclass of plain fields, every one of them given."""
    hints = get_type_hints(kind)
    return kind(**{name: _typed(name, value, hints[name]) for name, value in _fields(data, tuple(hints)).items()})


def _fields(data: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The object, which has these fields and no others."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an object with {', '.join(names)}, got {type(data).__name__}")
    if data.keys() != set(names):
        unknown, missing = sorted(data.keys() - set(names)), sorted(set(names) - data.keys())
        raise ValueError("; ".join(f"{what} field {', '.join(which)}" for what, which in
                                   (("unknown", unknown), ("missing", missing)) if which))  # fmt: skip
    return data


def _typed(name: str, value: Any, kind: Any, least: int = 1) -> Any:
    """The value, if it is of the kind. A bool is no number; ints are positive and fit 63 bits, floats are finite."""
    parts: tuple[Any, ...] = getattr(kind, "__args__", ())
    if type(None) in parts:
        return None if value is None else _typed(name, value, parts[0])
    if parts and type(value) in (list, tuple) and len(value) == len(parts):
        return tuple(_typed(name, *each) for each in zip(value, parts, strict=True))
    if kind is float and type(value) in (int, float) and 0 <= value <= sys.float_info.max:
        return float(value)
    if parts or kind is float or type(value) is not kind or (kind is int and not least <= value < 2**63):
        raise ValueError(f"{name}: expected {getattr(kind, '__name__', kind)}, got {value!r}")
    return value
