"""A kernel's configuration: which kernel, its tile, and how it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

KERNELS = ("khatri_rao", "project", "grad_inputs", "grad_weight", "chain")


@dataclass(frozen=True)
class Config:
    """A tile of a kernel.

    kernel: one of KERNELS, or "separate".
    blocks: the tile's size along each axis, (axis, size) pairs named as the kernel's BLOCK_ constants.
    """

    kernel: str
    blocks: tuple[tuple[str, int], ...]
    num_warps: int
    num_stages: int

    def __getitem__(self, axis: str) -> int:
        return self._size_of[axis]

    @cached_property
    def _size_of(self) -> dict[str, int]:
        return dict(self.blocks)

    def constants(self) -> dict[str, int]:
        """The kernel's BLOCK_ arguments."""
        return {f"BLOCK_{axis}": size for axis, size in self.blocks}


# Not a kernel: the gradients of x and y by two contractions, each with a plan of its own.
SEPARATE = Config("separate", (), 0, 0)


def config(kernel: str, num_warps: int, num_stages: int, **blocks: int) -> Config:
    """A Config from keywords: config("khatri_rao", 8, 3, B=128, P=128, Q=2, R=32)."""
    return Config(kernel, tuple(blocks.items()), num_warps, num_stages)


def product_shape(config: Config) -> tuple[int, int, int]:
    """(rows, columns, depth) of the tile's matrix product."""
    size = dict(config.blocks)
    match config.kernel:
        case "khatri_rao":
            return size["B"], size["P"], size["Q"] * size["R"]
        case "project":
            return size["B"], size["P"] * size["R"], size["Q"]
        case "grad_inputs":
            return size["B"], size["M"] * size["N"], size["L"]
        case "grad_weight":
            return size["P"] * size["Q"], size["R"], size["B"]
        case _:
            return size["A"], max(size["D"], size["C"]), max(size["C"], size["E"])
