"""What a launch does, counted from its grid, its tile and its sizes: products of tiles, trips of loops, traffic.

Tiles count whole, padding included: that is what the matrix unit multiplies and what is asked of the caches.
tests/test_inspection.py holds these counts against an interpreted run of the same launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from ..gpu.launch import Launch


@dataclass(frozen=True)
class LaunchWork:
    """Work of a launch, all programs together unless said otherwise.

    programs: of the grid. trips: of a full program's loops, outermost first. products: matrix products of tiles in the
    innermost loop. product_flops: of one of them. closing_flops: of one more product at the end of each trip of the
    loop around it, where there is one. loaded_bytes, stored_bytes: tiles of global memory read and written, through
    every cache, padding included. precision: of float32 products.
    """

    programs: int
    trips: tuple[int, ...]
    products: int
    product_flops: int
    loaded_bytes: int
    stored_bytes: int
    closing_flops: int = 0
    precision: str = "ieee"

    @property
    def mma_flops(self) -> int:
        """FLOPs of all products. A tf32x3 product, which the matrix unit makes of three, counts once."""
        return self._flops(self.products)

    @property
    def mma_flops_per_program(self) -> int:
        """FLOPs of a full program's products."""
        return self._flops(prod(self.trips)) if self.products else 0

    def _flops(self, products: int) -> int:
        return products * self.product_flops + products // self.trips[-1] * self.closing_flops


def launch_work(launch: Launch) -> LaunchWork:
    """Counts of one launch. KeyError for a kernel that no step launches."""
    work = _COUNTS[launch.kernel.__name__](launch)
    return replace(work, precision=launch.arguments.get("PRECISION", "ieee"))


def _tiles(size: int, block: int) -> int:
    return -(-size // block)


def _item(tensor: Tensor) -> int:
    return tensor.element_size()


def _blocks(launch: Launch, axes: str) -> tuple[int, ...]:
    return tuple(launch.arguments[f"BLOCK_{axis}"] for axis in axes)


def _khatri_rao(launch: Launch) -> LaunchWork:
    a, (outer, splits) = launch.arguments, launch.grid
    b, p, q, r = _blocks(launch, "BPQR")
    products = outer * _tiles(a["Q"], q) * _tiles(a["R"], r)
    u_tiles = outer * splits if a["HOLD_U"] else products
    elements = u_tiles * b * q + products * (b * r + q * r * p)
    return LaunchWork(
        programs=outer * splits,
        trips=(a["steps_per_split"],),
        products=products,
        product_flops=2 * b * p * q * r,
        loaded_bytes=elements * _item(a["u_ptr"]) + _bias_bytes(launch, p),
        stored_bytes=outer * splits * b * p * _item(a["out_ptr"]),
    )


def _project(launch: Launch) -> LaunchWork:
    a, (outer, splits) = launch.arguments, launch.grid
    b, p, q, r = _blocks(launch, "BPQR")
    dots, depth = outer * _tiles(a["R"], r), _tiles(a["Q"], q)
    kept = dots * b * p * r * _item(a["kept_ptr"]) if a["KEEP"] else 0
    return LaunchWork(
        programs=outer * splits,
        trips=(a["steps_per_split"], depth),
        products=dots * depth,
        product_flops=2 * b * p * r * q,
        loaded_bytes=dots * (depth * q * (b + p * r) + b * r) * _item(a["u_ptr"]) + _bias_bytes(launch, p),
        stored_bytes=outer * splits * b * p * _item(a["out_ptr"]) + kept,
    )


def _bias_bytes(launch: Launch, block: int) -> int:
    a = launch.arguments
    return launch.grid[0] * launch.grid[1] * block * _item(a["bias_ptr"]) if a["HAS_BIAS"] else 0


def _grad_inputs(launch: Launch) -> LaunchWork:
    a, (outer, splits) = launch.arguments, launch.grid
    b, depth, m, n = _blocks(launch, "BLMN")
    n_tiles, m_tiles = _tiles(a["N"], n), _tiles(a["M"], m)
    groups = _tiles(n_tiles, a["tiles_per_group"])
    rows, depths = outer // groups, 1 if a["HOLD_G"] else _tiles(a["L"], depth)
    pairs = rows * n_tiles * m_tiles
    item, dx_item = _item(a["g_ptr"]), _item(a["dx_ptr"])
    g_tiles = outer * splits if a["HOLD_G"] else pairs * depths
    elements = g_tiles * b * depth + pairs * (depths * depth * m * n + b * m) + rows * splits * n_tiles * b * n
    grown = rows * m_tiles * (n_tiles - groups)  # dx tiles that are read back: all but those of a group's first n tile
    return LaunchWork(
        programs=outer * splits,
        trips=(a["tiles_per_group"], a["m_per_split"] // m) + (() if a["HOLD_G"] else (depths,)),
        products=pairs * depths,
        product_flops=2 * b * depth * m * n,
        loaded_bytes=elements * item + grown * b * m * dx_item,
        stored_bytes=pairs * b * m * dx_item + rows * splits * n_tiles * b * n * _item(a["dy_ptr"]),
    )


def _grad_weight(launch: Launch) -> LaunchWork:
    a, (outer, splits) = launch.arguments, launch.grid
    b, p, q, r = _blocks(launch, "BPQR")
    products = outer * _tiles(a["B"], b)
    return LaunchWork(
        programs=outer * splits,
        trips=(a["rows_per_split"] // b,),
        products=products,
        product_flops=2 * b * p * q * r,
        loaded_bytes=products * b * (p + q + r) * _item(a["a_ptr"]),
        stored_bytes=outer * splits * p * q * r * _item(a["out_ptr"]),
    )


def _chain(launch: Launch) -> LaunchWork:
    a, (outer, splits) = launch.arguments, launch.grid
    rows, middle, columns, depth = _blocks(launch, "ACDE")
    summed = {"b": a["B"], "l": a["L"], "": 1}[a["SUMMED"]]
    steps, depths = outer * summed * _tiles(a["C"], middle), _tiles(a["E"], depth)
    elements = steps * (depths * depth * (rows + middle) + middle * columns)
    return LaunchWork(
        programs=outer * splits,
        trips=(a["steps_per_split"], depths),
        products=steps * depths,
        product_flops=2 * rows * middle * depth,
        closing_flops=2 * rows * middle * columns,
        loaded_bytes=elements * _item(a["p_ptr"]) + (outer * _item(a["bias_ptr"]) if a["HAS_BIAS"] else 0),
        stored_bytes=outer * splits * rows * columns * _item(a["out_ptr"]),
    )


def _reduce(launch: Launch) -> LaunchWork:
    a, (programs, _) = launch.arguments, launch.grid
    b, p = _blocks(launch, "BP")
    bias = p * _item(a["bias_ptr"]) if a["HAS_BIAS"] else 0
    return LaunchWork(
        programs=programs,
        trips=(a["S"],),
        products=0,
        product_flops=0,
        loaded_bytes=programs * (a["S"] * b * p * _item(a["partial_ptr"]) + bias),
        stored_bytes=programs * b * p * _item(a["out_ptr"]),
    )


_COUNTS: dict[str, Callable[[Any], LaunchWork]] = {
    "contract_khatri_rao_kernel": _khatri_rao,
    "contract_project_kernel": _project,
    "grad_inputs_kernel": _grad_inputs,
    "grad_weight_kernel": _grad_weight,
    "chain_kernel": _chain,
    "reduce_partials_kernel": _reduce,
}
