"""Device specs: the table against itself, names as people and drivers spell them, and GPUs that nobody listed."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from triton_bilinear.tuning.devices import DeviceSpec, device_from_properties, device_names, find_device, normalised
from triton_bilinear.tuning.targets import gpu_target, product_precisions

# Dense bfloat16 products with float32 sums: FLOP that an SM does in a clock.
PER_CLOCK = {
    "sm_80": 2048,
    "sm_86": 1024,
    "sm_89": 1024,
    "sm_90": 4096,
    "sm_100": 8192,
    "sm_120": 1024,
    "gfx942": 2048,
    "gfx950": 4096,
    "gfx1100": 1024,
}
HALF_RATE = {"NVIDIA A10G", "NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 5090"}
SHARED = {"sm_80": 166912, "sm_86": 101376, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376}


def properties_of(spec: DeviceSpec, **changes: object) -> dict:
    """What Triton's driver would report for a device."""
    return {
        "name": spec.name,
        "multiprocessor_count": spec.sm_count,
        "max_shared_mem": spec.shared_memory,
        "sm_clock_rate": int(spec.clock_hz / 1e3),
        "mem_clock_rate": 1_000_000,
        "mem_bus_width": 4096,
        **changes,
    }


@pytest.mark.parametrize("name", device_names())
def test_rates_agree_with_the_architecture(name):
    spec = find_device(name)
    per_clock = PER_CLOCK[spec.architecture] / (2 if name in HALF_RATE else 1)
    for dtype in ("float16", "bfloat16"):
        assert spec.matrix_flops[dtype] == pytest.approx(per_clock * spec.sm_count * spec.clock_hz, rel=0.01)
    if "tf32" in spec.matrix_flops:
        assert spec.matrix_flops["tf32"] == pytest.approx(spec.matrix_flops["float16"] / 2, rel=0.02)
    assert spec.fp32_flops < spec.matrix_flops["float16"]
    assert 1e11 < spec.memory_bandwidth < 1e13
    assert spec.l2_bytes >= 4 * 2**20
    assert spec.shared_memory == SHARED.get(spec.architecture, spec.shared_memory)
    assert spec.source
    assert spec.vendor == ("amd" if name.startswith("AMD") else "nvidia")


def test_every_device_that_was_promised_is_there():
    promised = """NVIDIA A100-SXM4-40GB, NVIDIA A100-SXM4-80GB, NVIDIA A100-PCIE-40GB, NVIDIA A100 80GB PCIe,
        NVIDIA A10G, NVIDIA GeForce RTX 3090, NVIDIA L4, NVIDIA L40S, NVIDIA GeForce RTX 4090, NVIDIA H100 80GB HBM3,
        NVIDIA H100 PCIe, NVIDIA H200, NVIDIA B200, NVIDIA GeForce RTX 5090, AMD Instinct MI300X, AMD Instinct MI355X,
        AMD Radeon RX 7900 XTX"""
    assert {name.strip() for name in promised.split(",")} == set(device_names())


@pytest.mark.parametrize("name", device_names())
def test_specs_are_keys(name):
    spec = find_device(name)
    assert {spec: 1}[find_device(name)] == 1
    assert replace(spec, sm_count=1) != spec


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"),
        ("A100-SXM-80GB", "NVIDIA A100-SXM4-80GB"),
        ("A100-PCIE-40GB", "NVIDIA A100-PCIE-40GB"),
        ("nvidia h100 pcie", "NVIDIA H100 PCIe"),
        ("h100", "NVIDIA H100 80GB HBM3"),
        ("GeForce RTX 3090", "NVIDIA GeForce RTX 3090"),
        ("rtx-4090", "NVIDIA GeForce RTX 4090"),
        ("Radeon RX 7900 XTX", "AMD Radeon RX 7900 XTX"),
        ("AMD Instinct MI300X OAM", "AMD Instinct MI300X"),
        ("mi300x", "AMD Instinct MI300X"),
    ],
)
def test_other_spellings(alias, name):
    assert find_device(alias) is find_device(name)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",
        "NVIDIA A40",
        "NVIDIA A10",
        "NVIDIA A30",
        "NVIDIA L40",
        "NVIDIA GH200 480GB",
        "NVIDIA H200 NVL",
        "NVIDIA B300",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX 4000 Ada Generation",
        "AMD Instinct MI300A",
        "AMD Radeon RX 7900 XT",
        "Tesla V100-SXM2-16GB",
        "",
    ],
)
def test_a_part_of_a_name_is_not_the_name(name):
    with pytest.raises(LookupError, match="unknown GPU"):
        find_device(name)


def test_names_are_compared_without_case_punctuation_and_vendor():
    assert normalised("NVIDIA A100-SXM4-40GB") == normalised("a100 sxm4 40gb") == "a100 sxm4 40gb"
    assert normalised("NVIDIA") == ""
    assert normalised("NVIDIA A40") != normalised("NVIDIA RTX A4000")


@pytest.mark.parametrize("name", device_names())
def test_the_driver_of_a_known_device_gets_the_tables_spec(name):
    spec = find_device(name)
    assert device_from_properties(gpu_target(spec.architecture), properties_of(spec)) is spec


@pytest.mark.parametrize("name", device_names())
def test_what_the_properties_give_is_near_what_the_table_says(name):
    spec = find_device(name)
    family = "GeForce " if name in HALF_RATE else ""
    built = device_from_properties(gpu_target(spec.architecture), properties_of(spec, name=f"{family}Unheard Of"))
    assert built.name == f"{family}Unheard Of"
    assert (built.architecture, built.vendor) == (spec.architecture, spec.vendor)
    assert (built.shared_memory, built.registers_per_sm) == (spec.shared_memory, spec.registers_per_sm)
    assert built.matrix_flops == pytest.approx(dict(spec.matrix_flops), rel=0.1)
    assert built.fp32_flops == pytest.approx(spec.fp32_flops, rel=0.1)
    assert built.source != spec.source


@pytest.mark.parametrize("name", device_names())
def test_a_driver_that_gives_no_clock_gets_a_typical_one(name):
    spec = find_device(name)
    properties = {key: properties_of(spec)[key] for key in ("multiprocessor_count", "max_shared_mem")}
    built = device_from_properties(gpu_target(spec.architecture), {"name": "Some Card", **properties})
    assert (built.sm_count, built.shared_memory) == (spec.sm_count, spec.shared_memory)
    assert built.clock_hz == pytest.approx(spec.clock_hz, rel=0.35)
    assert built.memory_bandwidth > 1e11


def test_a_slice_of_a_known_device_is_another_device():
    whole = find_device("NVIDIA H100 80GB HBM3")
    part = device_from_properties(gpu_target("sm_90"), properties_of(whole, multiprocessor_count=16))
    assert part.sm_count == 16
    assert part.matrix_flops["bfloat16"] == pytest.approx(whole.matrix_flops["bfloat16"] * 16 / 132, rel=0.01)


def test_l2_cache_from_the_properties():
    spec = find_device("NVIDIA B200")
    small = device_from_properties(
        gpu_target("sm_110"), properties_of(spec, name="NVIDIA Thor", l2_cache_size=32 << 20)
    )
    assert small.l2_bytes == 32 << 20
    assert (
        device_from_properties(gpu_target("sm_110"), properties_of(spec, name="NVIDIA Thor")).l2_bytes == spec.l2_bytes
    )


def test_bandwidth_from_clock_and_bus():
    spec = find_device("NVIDIA A100-SXM4-40GB")
    changes = {"name": "NVIDIA A900", "mem_clock_rate": 1_215_000, "mem_bus_width": 5120}
    built = device_from_properties(gpu_target("sm_80"), properties_of(spec, **changes))
    assert built.memory_bandwidth == pytest.approx(spec.memory_bandwidth, rel=0.001)


@pytest.mark.parametrize(
    ("architecture", "like"),
    [("sm_75", "sm_80"), ("sm_87", "sm_86"), ("sm_103", "sm_100"), ("sm_121", "sm_120"), ("gfx90a", "gfx942"),
     ("gfx1201", "gfx1100")],
)  # fmt: skip
def test_an_architecture_that_nobody_listed_is_like_its_neighbour(architecture, like):
    spec = next(find_device(name) for name in device_names() if find_device(name).architecture == like)
    target = gpu_target(architecture)
    built = device_from_properties(target, properties_of(spec, name="Some Card"))
    assert built.architecture == architecture
    assert built.registers_per_sm == spec.registers_per_sm
    assert ("tf32" in built.matrix_flops) == ("tf32" in product_precisions(architecture)), "else it does not compile"


def test_a_device_that_is_not_the_current_one(monkeypatch):
    """The driver tells the properties of any device, but the architecture of the current one alone."""
    pytest.importorskip("triton")
    from triton_bilinear.gpu import device

    specs = [find_device("NVIDIA H100 80GB HBM3"), find_device("NVIDIA GeForce RTX 4090")]
    current = [0]

    @contextmanager
    def on_device(wanted):
        current[0] = wanted.index
        yield
        current[0] = 0

    class Driver:
        utils = SimpleNamespace(get_device_properties=lambda number: properties_of(specs[number]))

        def get_current_target(self):
            return gpu_target(specs[current[0]].architecture)

    monkeypatch.setattr(device, "on_device", on_device)
    assert device._device_of_driver(Driver(), torch.device("cuda", 1)) == specs[1]
