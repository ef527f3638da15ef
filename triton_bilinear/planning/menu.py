"""The tiles that a plan may choose from, one table per kernel.

Each table is keyed by what decides a tile's registers: "half" (16-bit operands on matrix units), "tf32" (also tf32x3),
"scalar" (float32 at full precision and float64), each with operands read in vectors of 8 bytes or more. "unaligned"
holds the tiles that serve narrower ones too, of any dtype, "unaligned half" those of 16-bit operands alone. A kernel
without a table has no tiles of that kind of its own. `limits.py` says which of them a device takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from .config import Config, config
from .problem import itemsize


def _tiles(kernel: str, axes: str, rows: Sequence[tuple[int, ...]]) -> tuple[Config, ...]:
    """Rows of (block sizes..., num_warps, num_stages)."""
    return tuple(config(kernel, row[-2], row[-1], **dict(zip(axes, row[:-2], strict=True))) for row in rows)


def _with_depth(rows: Sequence[tuple[int, ...]], depths: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """(b, p, warps, stages) times (q, r): every output tile with every shape of the contracted tile."""
    return [(*row[:2], *depth, *row[2:]) for row in rows for depth in depths]


KHATRI_RAO = {
    "half": _tiles(
        "khatri_rao",
        "BPQR",
        _with_depth(
            [(128, 256, 8, 3), (128, 128, 8, 3), (64, 128, 4, 3), (64, 64, 4, 3), (64, 32, 4, 3), (128, 16, 4, 3)]
            + [(16, 128, 4, 3), (16, 64, 4, 3)],
            [(4, 16), (1, 64)],
        )
        + _with_depth([(256, 128, 8, 3), (256, 64, 8, 3), (128, 64, 4, 3)], [(8, 8)]),
    ),
    "tf32": _tiles(
        "khatri_rao",
        "BPQR",
        [(256, 64, 4, 8, 8, 3)]
        + _with_depth([(64, 64, 8, 3), (64, 32, 4, 3), (16, 64, 4, 3), (16, 32, 4, 3)], [(4, 8), (1, 32)]),
    ),
    "scalar": _tiles(
        "khatri_rao",
        "BPQR",
        [
            *_with_depth([(64, 64, 8, 2), (32, 32, 4, 2), (16, 64, 4, 2), (16, 16, 4, 2)], [(4, 4)]),
            (32, 32, 1, 16, 4, 2),
        ],
    ),
    "unaligned": _tiles(
        "khatri_rao",
        "BPQR",
        _with_depth(
            [(128, 64, 8, 2), (64, 64, 8, 2), (64, 32, 4, 2), (16, 64, 4, 2), (16, 16, 4, 2)], [(2, 16), (1, 16)]
        ),
    ),
    "unaligned half": _tiles("khatri_rao", "BPQR", [(128, 64, 8, 8, 8, 2)]),
}

PROJECT = {
    "half": _tiles(
        "project",
        "BPQR",
        [(128, 1, 64, 128, 8, 3), (128, 1, 32, 128, 8, 3), (128, 2, 64, 64, 8, 3), (128, 8, 64, 16, 8, 3)]
        + [(128, 1, 64, 64, 8, 3), (128, 4, 32, 32, 8, 3)]
        + [(64, 1, 64, 64, 8, 3), (64, 1, 64, 64, 4, 3), (64, 4, 64, 16, 4, 3), (64, 4, 32, 16, 4, 3)]
        + [(16, 1, 64, 128, 4, 3), (16, 1, 64, 64, 4, 3)],
    ),
    "tf32": _tiles(
        "project",
        "BPQR",
        [(128, 4, 16, 32, 8, 3)]
        + [(64, 1, 32, 64, 8, 3), (64, 4, 32, 16, 8, 3), (16, 1, 32, 64, 4, 3), (16, 4, 32, 16, 4, 3)],
    ),
    "scalar": _tiles("project", "BPQR", [(64, 1, 16, 64, 8, 2), (64, 4, 16, 16, 8, 2), (16, 1, 16, 64, 4, 2)]),
    "unaligned": _tiles(
        "project",
        "BPQR",
        [(64, 1, 32, 64, 8, 2), (64, 4, 32, 16, 8, 2), (16, 1, 32, 64, 4, 2), (16, 4, 16, 16, 4, 2)]
        + [(64, 1, 16, 16, 8, 2), (16, 1, 16, 32, 4, 2)],
    ),
}

# L is the depth of the product; a tile whose L covers all of g's columns holds them on chip (limits.holds_g).
GRAD_INPUTS = {
    "half": _tiles(
        "grad_inputs",
        "BLMN",
        [(128, depth, m, n, 8, 2) for depth in (256, 128, 64) for m, n in ((4, 32), (8, 16), (2, 32), (4, 16))]
        + [(128, 64, 8, 16, 8, 3), (128, 64, 2, 32, 8, 3), (128, 64, 4, 16, 8, 3), (64, 64, 4, 16, 4, 3)]
        + [(128, 32, 8, 16, 8, 2), (64, 256, 4, 16, 4, 2), (64, 128, 4, 16, 4, 2)]
        + [(128, 32, 4, 16, 8, 3), (128, 16, 4, 16, 8, 3), (64, 32, 4, 16, 4, 3), (64, 16, 4, 16, 4, 3)]
        + [(16, 64, 4, 16, 4, 3), (16, 16, 4, 16, 4, 3)],
    ),
    "tf32": _tiles(
        "grad_inputs",
        "BLMN",
        [(128, 16, 8, 16, 8, 2), (64, 32, 2, 32, 8, 3), (64, 32, 4, 16, 8, 3), (16, 32, 2, 16, 4, 3)],
    ),
    "unaligned": _tiles(
        "grad_inputs",
        "BLMN",
        [(128, 32, 8, 8, 8, 2), (128, 32, 4, 16, 8, 2), (64, 16, 2, 32, 8, 2), (64, 16, 4, 16, 8, 2)]
        + [(64, 16, 2, 16, 8, 2), (16, 16, 2, 16, 4, 2)],
    ),
    "unaligned half": _tiles(
        "grad_inputs", "BLMN", [(128, 16, 8, 16, 8, 2), (128, 16, 8, 8, 8, 2), (64, 16, 8, 16, 8, 2)]
    ),
}

GRAD_WEIGHT = {
    "half": _tiles(
        "grad_weight",
        "BPQR",
        [(64, 1, 128, 256, 8, 3), (64, 8, 32, 128, 8, 3), (64, 16, 16, 128, 8, 3), (64, 1, 128, 128, 8, 3)]
        + [(64, 2, 64, 128, 8, 3), (64, 8, 16, 64, 4, 3)]
        + [(32, 2, 64, 64, 4, 3), (32, 8, 16, 64, 4, 3), (32, 1, 64, 32, 4, 3)]
        + [(32, 4, 16, 16, 4, 3), (32, 1, 16, 64, 4, 3)],
    ),
    "tf32": _tiles(
        "grad_weight",
        "BPQR",
        [(32, 16, 16, 128, 8, 3), (32, 8, 16, 128, 8, 3), (32, 8, 16, 64, 4, 3)]
        + [(32, 1, 64, 64, 8, 3), (32, 4, 16, 64, 8, 3), (32, 1, 32, 32, 4, 3), (32, 2, 16, 32, 4, 3)],
    ),
    "scalar": _tiles(
        "grad_weight",
        "BPQR",
        [(16, 1, 64, 64, 8, 2), (16, 4, 16, 64, 8, 2), (16, 1, 32, 32, 4, 2), (16, 1, 16, 16, 4, 2)],
    ),
    "unaligned": _tiles(
        "grad_weight",
        "BPQR",
        [(32, 8, 8, 64, 8, 2), (32, 1, 64, 64, 8, 2), (32, 4, 16, 64, 8, 2), (32, 1, 64, 16, 4, 2)]
        + [(32, 1, 32, 32, 4, 2), (32, 1, 16, 16, 4, 2)],
    ),
    "unaligned half": _tiles(
        "grad_weight",
        "BPQR",
        [(32, 16, 16, 64, 8, 2), (32, 8, 16, 128, 8, 3), (64, 8, 16, 32, 4, 2)],
    ),
}

CHAIN = {
    "half": _tiles(
        "chain",
        "ACDE",
        [(128, 64, 256, 32, 8, 3), (64, 64, 256, 32, 8, 3), (128, 64, 128, 64, 8, 3), (128, 64, 128, 32, 8, 3)]
        + [(64, 64, 128, 64, 8, 3), (64, 64, 64, 32, 4, 3), (64, 32, 64, 32, 4, 3), (16, 32, 64, 32, 4, 3)],
    ),
    "tf32": _tiles("chain", "ACDE", [(64, 32, 128, 32, 8, 2), (16, 32, 32, 32, 4, 2)]),
    "scalar": _tiles("chain", "ACDE", [(32, 16, 32, 16, 4, 2)]),
    "unaligned": _tiles(
        "chain",
        "ACDE",
        [(64, 64, 128, 16, 8, 2), (64, 64, 64, 32, 8, 2), (64, 32, 64, 32, 8, 2), (64, 16, 64, 16, 8, 2)]
        + [(16, 32, 32, 16, 4, 2), (16, 16, 16, 16, 4, 2)],
    ),
}

MENU = {
    "khatri_rao": KHATRI_RAO,
    "project": PROJECT,
    "grad_inputs": GRAD_INPUTS,
    "grad_weight": GRAD_WEIGHT,
    "chain": CHAIN,
}


def choices(kernel: str, dtype: str, precision: str, vector: int) -> tuple[Config, ...]:
    """The tiles for a dtype and precision; vector: the bytes in which the product's right operand is read."""
    tables, half = MENU[kernel], itemsize(dtype) == 2
    narrow = tables["unaligned"] + (tables.get("unaligned half", ()) if half else ())
    if vector < 8:
        return narrow
    kind = "half" if half else "tf32" if precision in ("tf32", "tf32x3") else "scalar"
    return tables.get(kind, ()) + narrow
