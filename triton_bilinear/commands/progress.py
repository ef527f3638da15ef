"""Progress bars, on stderr, for whatever takes longer than a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any], what: str, total: int | None = None) -> tqdm:
    """The items with a bar that shows after a second; none where stderr is no terminal."""
    return tqdm(items, desc=what, total=total, delay=1, disable=None, leave=False)
