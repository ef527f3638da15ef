"""The sizes that CPU benchmarks run, named after who uses them; the batch is scaled to what a CPU does in a second."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One bilinear layer: x (batch, m), y (batch, n), weight (l, m, n).

    `full_batch` is the batch that its user has, `quick` says whether the short run takes it.
    """

    name: str
    batch: int
    l: int  # noqa: E741
    m: int
    n: int
    full_batch: int
    quick: bool = False

    @property
    def unit(self) -> int:
        """Multiply-adds of one contraction."""
        return self.batch * self.l * self.m * self.n

    @property
    def sizes(self) -> str:
        return f"({self.batch}, {self.l}, {self.m}, {self.n})"


CASES = (
    Case("square 256", 256, 256, 256, 256, 256, quick=True),
    Case("square 128", 1024, 64, 128, 128, 1024, quick=True),
    Case("small features", 4096, 64, 32, 32, 4096, quick=True),
    Case("DimeNet", 20000, 128, 8, 128, 200000, quick=True),
    Case("xDeepFM first layer", 4096, 256, 39, 39, 65536),
    Case("xDeepFM later layer", 2048, 128, 39, 128, 65536),
    Case("BLOCK VQA", 1024, 180, 180, 180, 18432),
    Case("e3nn / MACE", 2000, 128, 128, 89, 5000),
    Case("TuckER", 128, 200, 200, 200, 128),
    Case("stanza tagger", 5000, 10, 101, 51, 5000, quick=True),
    Case("stanza parser", 100, 800, 800, 800, 1000),
    Case("spaCy arc labels", 5000, 45, 256, 256, 5000),
    Case("RESCAL", 512, 1, 256, 256, 512, quick=True),
    Case("NTN", 512, 4, 100, 100, 512, quick=True),
    Case("FlagGems 1", 256, 128, 64, 64, 256),
    Case("FlagGems 2", 512, 256, 128, 128, 512),
    Case("FlagGems 3", 1024, 96, 64, 48, 1024),
    Case("FlagGems 4", 128, 128, 256, 256, 128),
    Case("FlagGems 5", 2048, 64, 32, 32, 2048, quick=True),
    Case("one form", 2048, 1, 512, 512, 2048, quick=True),
    Case("one sample", 1, 256, 256, 256, 1),
    Case("tiny", 32, 2, 20, 20, 32, quick=True),
)
