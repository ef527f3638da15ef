"""Products of three matrices, batched and summed: all of the pairwise form."""

from __future__ import annotations

import torch
from torch import Tensor


def chain(p: Tensor, q: Tensor, r: Tensor, bias: Tensor | None, out: Tensor) -> None:
    acc = torch.einsum(
        "bokae,bokec,bokcd->boad", *(t.double() if t.dtype == torch.float64 else t.float() for t in (p, q, r))
    )
    if bias is not None:
        acc = acc + bias[:, None, None]
    out.copy_(acc)
