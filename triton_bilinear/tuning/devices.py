"""GPUs as plain data: what a planner has to know of one, for the GPUs of the table and for any other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import median_low
from typing import Any

from .device_table import ALIASES, ARCHITECTURES, DEVICES, Product
from .targets import architecture_name, product_precisions


@dataclass(frozen=True)
class DeviceSpec:
    """A GPU.

    name: as torch.cuda.get_device_name gives it. vendor: "nvidia" or "amd". architecture: "sm_90", "gfx942", ...
    sm_count: streaming multiprocessors; compute units on AMD, pairs of them on gfx11, as the runtime counts.
    shared_memory: bytes of shared memory that a block can have, opted in. registers_per_sm: of 32 bits.
    l2_bytes, memory_bandwidth: bytes, and bytes a second.
    matrix_flops: dense FLOP/s of the matrix unit, sums in float32, for "float16", "bfloat16", and for "tf32" and
        "float64" where the device has such instructions.
    fp32_flops: FLOP/s of float32 products at full precision. clock_hz: the clock at which those rates hold.
    source: where the numbers come from.
    """

    name: str
    vendor: str
    architecture: str
    sm_count: int
    shared_memory: int
    registers_per_sm: int
    l2_bytes: int
    memory_bandwidth: float
    matrix_flops: Mapping[str, float] = field(hash=False)
    fp32_flops: float
    clock_hz: float
    source: str


def device_names() -> tuple[str, ...]:
    """The GPUs of the table, by their full names."""
    return tuple(DEVICES)


def normalised(name: str) -> str:
    """The form in which names of GPUs are compared: case, punctuation and the vendor's name do not count."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    return " ".join(words[1:] if words and words[0] in ("nvidia", "amd") else words)


def find_device(name: str) -> DeviceSpec:
    """The spec of a GPU of the table, by its full name or an alias. LookupError for any other name."""
    spec = _table().get(normalised(name))
    if spec is None:
        raise LookupError(f"unknown GPU {name!r}; known are {', '.join(DEVICES)}")
    return spec


def device_from_properties(target: Any, properties: Mapping[str, Any], number: int = 0) -> DeviceSpec:
    """The spec of a device that Triton's driver describes.

    target: the driver's GPUTarget. properties: its `utils.get_device_properties(number)`, plus "name" and
    "l2_cache_size" where the caller knows them; otherwise the active driver is asked. A GPU of the table that has all
    of its SMs (no slice of one) gets the table's spec; any other one a spec from its properties and what GPUs of its
    architecture have in common, which also stands for properties that the driver leaves out: all but
    multiprocessor_count and max_shared_mem.
    """
    name = properties.get("name") or _driver_name(number)
    architecture = architecture_name(target)
    known = _table().get(normalised(name))
    sm_count = properties["multiprocessor_count"]
    if known is not None and (known.architecture, known.sm_count) == (architecture, sm_count):
        return known
    relative = _like(architecture)
    like = ARCHITECTURES[relative]
    clock = properties.get("sm_clock_rate", 0) * 1e3 or _typical_clock(relative)
    tf32 = like.tf32 if "tf32" in product_precisions(architecture) else 0.0  # as Triton's compiler has it
    # GeForce cards sum float16 products in float32 at half the rate.
    share = 0.5 if "geforce" in normalised(name).split() else 1.0
    return DeviceSpec(
        name=name or f"unknown {architecture}",
        vendor=_vendor(architecture),
        architecture=architecture,
        sm_count=sm_count,
        shared_memory=properties["max_shared_mem"],
        registers_per_sm=like.registers,
        l2_bytes=properties.get("l2_cache_size") or _driver_l2(number) or like.l2,
        memory_bandwidth=_bandwidth(target, properties) or like.bandwidth * 1e9,
        matrix_flops=_matrix_flops(sm_count * clock, like.half * share, tf32 * share, like.fp64),
        fp32_flops=like.fp32 * sm_count * clock,
        clock_hz=clock,
        source="the driver's properties, and the rates a clock that GPUs of its architecture share",
    )


@cache
def _table() -> dict[str, DeviceSpec]:
    specs = {normalised(name): _from_row(name, row) for name, row in DEVICES.items()}
    return specs | {normalised(alias): specs[normalised(name)] for alias, name in ALIASES.items()}


def _from_row(name: str, row: Product) -> DeviceSpec:
    common = ARCHITECTURES[row.architecture]
    return DeviceSpec(
        name=name,
        vendor=_vendor(row.architecture),
        architecture=row.architecture,
        sm_count=row.sms,
        shared_memory=common.shared,
        registers_per_sm=common.registers,
        l2_bytes=row.l2,
        memory_bandwidth=row.bandwidth * 1e9,
        matrix_flops=_matrix_flops(1e12, row.half, row.tf32, row.fp64),
        fp32_flops=row.fp32 * 1e12,
        clock_hz=row.clock * 1e6,
        source=row.source,
    )


def _matrix_flops(unit: float, half: float, tf32: float, fp64: float) -> dict[str, float]:
    rates = {"float16": half, "bfloat16": half, "tf32": tf32, "float64": fp64}
    return {dtype: unit * rate for dtype, rate in rates.items() if rate}


def _vendor(architecture: str) -> str:
    return "amd" if architecture.startswith("gfx") else "nvidia"


def _like(architecture: str) -> str:
    """The architecture of the table that stands for one that it may not hold."""
    if architecture in ARCHITECTURES:
        return architecture
    if architecture.startswith("gfx"):
        return (
            "gfx950" if architecture.startswith("gfx95") else "gfx942" if architecture.startswith("gfx9") else "gfx1100"
        )
    number = int(architecture.removeprefix("sm_"))
    below = [known for known in ARCHITECTURES if known.startswith("sm_") and int(known[3:]) <= number]
    return max(below, key=lambda known: int(known[3:]), default="sm_80")


def _typical_clock(architecture: str) -> float:
    """Of the table's GPUs of an architecture, in Hz."""
    return median_low(row.clock for row in DEVICES.values() if row.architecture == architecture) * 1e6


def _bandwidth(target: Any, properties: Mapping[str, Any]) -> float:
    """Bytes a second from the memory's clock (kHz) and bus (bits). On AMD the clock does not tell: 0."""
    if target.backend != "cuda":
        return 0.0
    return 2e3 * properties.get("mem_clock_rate", 0) * properties.get("mem_bus_width", 0) / 8


def _driver_name(number: int) -> str:
    """What the active driver's torch interface calls a device; "" for a driver without one."""
    interface = _interface()
    return "" if interface is None else interface.get_device_name(number)


def _driver_l2(number: int) -> int:
    """Bytes of a device's L2 cache, by the active driver's torch interface; 0 where that does not tell."""
    ask = getattr(_interface(), "get_device_properties", None)
    return 0 if ask is None else getattr(ask(number), "L2_cache_size", 0)


def _interface() -> Any:
    """The active driver's torch interface, torch.cuda or another; None without a driver, or for one that has none."""
    import triton

    try:
        driver = triton.runtime.driver.active
    except RuntimeError:
        return None
    find = getattr(driver, "get_device_interface", None)
    return None if find is None else find()
