"""What vendors say of their GPUs. Data only: `devices.py` reads it.

Rates are dense, products accumulated in float32: GeForce cards and the A10G do those at half their float16 rate. `fp64`
stands only where products of that type have matrix instructions, `tf32` likewise; 0 means none.
"""

from dataclasses import dataclass, replace

MIB = 2**20


@dataclass(frozen=True)
class Architecture:
    """What GPUs of one architecture share.

    shared: bytes of shared memory that a block can have. registers: of an SM. half, tf32, fp32, fp64: FLOP a clock of
    an SM. l2 and bandwidth (1e9 bytes a second) are those of a small member, for GPUs that the table does not hold. On
    AMD a compute unit is the SM, on gfx11 a pair of them, as the runtime counts.
    """

    shared: int
    registers: int
    half: int
    fp32: int
    l2: int
    bandwidth: int
    tf32: int = 0
    fp64: int = 0


@dataclass(frozen=True)
class Product:
    """One GPU. clock: MHz, where the vendor reaches `half`. bandwidth: 1e9 bytes a second. half, ...: 1e12 FLOP/s."""

    architecture: str
    sms: int
    clock: int
    l2: int
    bandwidth: int
    half: float
    fp32: float
    source: str
    tf32: float = 0.0
    fp64: float = 0.0


ARCHITECTURES: dict[str, Architecture] = {
    "sm_80": Architecture(
        shared=166912, registers=65536, half=2048, tf32=1024, fp32=128, fp64=128, l2=24 * MIB, bandwidth=933
    ),
    "sm_86": Architecture(shared=101376, registers=65536, half=1024, tf32=512, fp32=256, l2=4 * MIB, bandwidth=448),
    "sm_89": Architecture(shared=101376, registers=65536, half=1024, tf32=512, fp32=256, l2=32 * MIB, bandwidth=288),
    "sm_90": Architecture(
        shared=232448, registers=65536, half=4096, tf32=2048, fp32=256, fp64=256, l2=50 * MIB, bandwidth=2039
    ),
    "sm_100": Architecture(
        shared=232448, registers=65536, half=8192, tf32=4096, fp32=256, fp64=128, l2=126 * MIB, bandwidth=7672
    ),
    "sm_120": Architecture(shared=101376, registers=65536, half=1024, tf32=512, fp32=256, l2=48 * MIB, bandwidth=672),
    "gfx942": Architecture(
        shared=65536, registers=131072, half=2048, tf32=1024, fp32=256, fp64=256, l2=32 * MIB, bandwidth=5300
    ),
    "gfx950": Architecture(shared=163840, registers=131072, half=4096, fp32=256, fp64=128, l2=32 * MIB, bandwidth=8000),
    "gfx1100": Architecture(shared=65536, registers=196608, half=1024, fp32=512, l2=6 * MIB, bandwidth=800),
}

_A100_SOURCE = "NVIDIA A100 Tensor Core GPU datasheet; NVIDIA Ampere GA100 whitepaper"
_H100_SOURCE = "NVIDIA H100 Tensor Core GPU datasheet; NVIDIA Hopper GH100 whitepaper"
_A100 = Product(
    architecture="sm_80",
    sms=108,
    clock=1410,
    l2=40 * MIB,
    half=312,
    tf32=156,
    fp32=19.5,
    fp64=19.5,
    bandwidth=1555,
    source=_A100_SOURCE,
)
_H100_SXM = Product(
    architecture="sm_90",
    sms=132,
    clock=1830,
    l2=50 * MIB,
    half=989.4,
    tf32=494.7,
    fp32=66.9,
    fp64=66.9,
    bandwidth=3352,
    source=_H100_SOURCE,
)

# By the name that torch.cuda.get_device_name gives.
DEVICES: dict[str, Product] = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": replace(_A100, bandwidth=2039),
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": replace(_A100, bandwidth=1935),
    "NVIDIA A10G": Product(
        architecture="sm_86",
        sms=80,
        clock=1710,
        l2=6 * MIB,
        bandwidth=600,
        half=70,
        tf32=35,
        fp32=35,
        source="NVIDIA A10G datasheet; Amazon EC2 G5 instance description",
    ),
    "NVIDIA GeForce RTX 3090": Product(
        architecture="sm_86",
        sms=82,
        clock=1695,
        l2=6 * MIB,
        bandwidth=936,
        half=71.2,
        tf32=35.6,
        fp32=35.6,
        source="NVIDIA Ampere GA102 GPU architecture whitepaper",
    ),
    "NVIDIA L4": Product(
        architecture="sm_89",
        sms=58,
        clock=2040,
        l2=48 * MIB,
        bandwidth=300,
        half=121,
        tf32=60,
        fp32=30.3,
        source="NVIDIA L4 Tensor Core GPU datasheet; NVIDIA Ada GPU architecture whitepaper",
    ),
    "NVIDIA L40S": Product(
        architecture="sm_89",
        sms=142,
        clock=2490,
        l2=96 * MIB,
        bandwidth=864,
        half=362,
        tf32=183,
        fp32=91.6,
        source="NVIDIA L40S datasheet; NVIDIA Ada GPU architecture whitepaper",
    ),
    "NVIDIA GeForce RTX 4090": Product(
        architecture="sm_89",
        sms=128,
        clock=2520,
        l2=72 * MIB,
        bandwidth=1008,
        half=165.2,
        tf32=82.6,
        fp32=82.6,
        source="NVIDIA Ada GPU architecture whitepaper",
    ),
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": Product(
        architecture="sm_90",
        sms=114,
        clock=1620,
        l2=50 * MIB,
        bandwidth=2039,
        half=756,
        tf32=378,
        fp32=51.2,
        fp64=51.2,
        source=_H100_SOURCE,
    ),
    "NVIDIA H200": replace(_H100_SXM, bandwidth=4800, source="NVIDIA H200 Tensor Core GPU datasheet"),
    "NVIDIA B200": Product(
        architecture="sm_100",
        sms=148,
        clock=1856,
        l2=126 * MIB,
        bandwidth=7672,
        half=2250,
        tf32=1125,
        fp32=75,
        fp64=37,
        source="NVIDIA HGX B200 datasheet; NVIDIA Blackwell tuning guide; memory clock and bus as drivers report them",
    ),
    "NVIDIA GeForce RTX 5090": Product(
        architecture="sm_120",
        sms=170,
        clock=2407,
        l2=96 * MIB,
        bandwidth=1792,
        half=209.5,
        tf32=104.8,
        fp32=104.8,
        source="NVIDIA RTX Blackwell GPU architecture whitepaper",
    ),
    "AMD Instinct MI300X": Product(
        architecture="gfx942",
        sms=304,
        clock=2100,
        l2=32 * MIB,
        bandwidth=5300,
        half=1307.4,
        tf32=653.7,
        fp32=163.4,
        fp64=163.4,
        source="AMD Instinct MI300X accelerator data sheet; AMD CDNA 3 whitepaper",
    ),
    "AMD Instinct MI355X": Product(
        architecture="gfx950",
        sms=256,
        clock=2400,
        l2=32 * MIB,
        bandwidth=8000,
        half=2516.6,
        fp32=157.3,
        fp64=78.6,
        source="AMD Instinct MI355X GPU data sheet; AMD CDNA 4 whitepaper",
    ),
    "AMD Radeon RX 7900 XTX": Product(
        architecture="gfx1100",
        sms=48,
        clock=2500,
        l2=6 * MIB,
        bandwidth=960,
        half=122.8,
        fp32=61.4,
        source="AMD Radeon RX 7900 XTX product page; RDNA 3 instruction set architecture guide",
    ),
}

# Other spellings: older drivers, other releases of ROCm, and what people write on a command line.
ALIASES: dict[str, str] = {
    "A100-SXM-40GB": "NVIDIA A100-SXM4-40GB",
    "A100-SXM-80GB": "NVIDIA A100-SXM4-80GB",
    "A100": "NVIDIA A100-SXM4-80GB",
    "A100-PCIE-80GB": "NVIDIA A100 80GB PCIe",
    "RTX 3090": "NVIDIA GeForce RTX 3090",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "RTX 5090": "NVIDIA GeForce RTX 5090",
    "H100": "NVIDIA H100 80GB HBM3",
    "H100 SXM": "NVIDIA H100 80GB HBM3",
    "AMD Instinct MI300X OAM": "AMD Instinct MI300X",
    "AMD Instinct MI300X VF": "AMD Instinct MI300X",
    "MI300X": "AMD Instinct MI300X",
    "AMD Instinct MI355X OAM": "AMD Instinct MI355X",
    "MI355X": "AMD Instinct MI355X",
    "Radeon RX 7900 XTX": "AMD Radeon RX 7900 XTX",
    "RX 7900 XTX": "AMD Radeon RX 7900 XTX",
}
