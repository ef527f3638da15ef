"""Progress bars, on stderr, for whatever takes longer than a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any], what: str, total: int | None = None) -> tqdm:
    """The items with a bar that shows after a second; none where stderr is no terminal."""
    return tqdm(items, desc=what, total=total, delay=1, disable=None, leave=False)


def advance(bar: tqdm, done: int, total: int) -> None:
    """Move a bar whose length is known only as work goes on: `partial(advance, bar)` is a callback of (done, total)."""
    bar.total = total
    bar.update(done - bar.n)
