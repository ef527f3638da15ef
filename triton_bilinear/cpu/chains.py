"""Products of three matrices, batched and summed: all of the pairwise form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .orders import CPU_PIECE, DEVICE_PIECE
from .pieces import spans
from .workspace import Workspace, fuse, fusible

# Slices of the batch, of what is summed over, and of the rows of the result.
Piece = tuple[slice, slice, slice]


def chain(p: Tensor, q: Tensor, r: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[b, o] = sum_k p[b, o, k] q[b, o, k] r[b, o, k] + bias[o], products of matrices.

    Shapes: p (B, O, K, A, E), q (B, O, K, E, C), r (B, O, K, C, D), bias (O,) or None, out (B, O, A, D). Operands that
    do not depend on a batch axis are expanded along it.
    """
    if p.numel() == 0 or q.numel() == 0 or r.numel() == 0:
        out.zero_() if bias is None else out.copy_(bias[:, None, None].expand_as(out))
        return
    a, e, c, d = *p.shape[-2:], *r.shape[-2:]
    if e * d * (c + a) < a * c * (e + d):
        # (q r) first takes less work than (p q): as the first two of the transposed factors.
        p, q, r, out = r.mT, q.mT, p.mT, out.mT
    workspace = Workspace(out)
    pieces = list(_pieces(p, q, r, CPU_PIECE if out.device.type == "cpu" else DEVICE_PIECE))
    for o in range(out.shape[1]):
        factors = [t[:, o] for t in (p, q, r)]
        for samples, terms, rows in pieces:
            total = workspace.take("total", samples.stop - samples.start, rows.stop - rows.start, out.shape[-1])
            left, middle, right = (t[samples, terms] for t in factors)
            _add(workspace, total, left[:, :, rows], middle, right, first=terms.start == 0)
            if terms.stop == p.shape[2]:
                out[samples, o, rows].copy_(total if bias is None else total.add_(bias[o]))


def _pieces(p: Tensor, q: Tensor, r: Tensor, budget: int) -> Iterator[Piece]:
    """Pieces of which no operand or product has more than `budget` elements, or one matrix of q and of r.

    Of several terms in one piece the sum is a longer product, but only where the batch is a single sample.
    """
    (batch, _, terms, a, e), (c, d) = p.shape, r.shape[-2:]
    together = max(1, budget // max(e * c, c * d, a * max(e, c, d)))
    rows = max(1, budget // max(e, c, d))
    for samples in spans(batch, together):
        for row_span in spans(a, rows):
            for term_span in spans(terms, together if batch == 1 else 1):
                yield samples, term_span, row_span


def _add(workspace: Workspace, total: Tensor, p: Tensor, q: Tensor, r: Tensor, first: bool) -> None:
    """total[b] (+)= sum_k p[b, k] q[b, k] r[b, k], for one b or one k."""
    if len(p) > 1 or p.shape[1] == 1:
        left, middle, right = (_operand(workspace, name, t[:, 0]) for name, t in (("p", p), ("q", q), ("r", r)))
        product = workspace.take("product", *left.shape[:2], middle.shape[2])
        _multiply(product, left, middle, first=True)
        _multiply(total, product, right, first)
        return
    left, middle, right = (_operand(workspace, name, t[0]) for name, t in (("p", p), ("q", q), ("r", r)))
    # Terms and columns of the first product are one axis of the second, so that the sum over both is one product.
    product = workspace.take("product", len(left), middle.shape[2], left.shape[1])
    torch.bmm(middle.mT, left.mT, out=product)
    total[0].addmm_(product.flatten(0, 1).t(), right.reshape(-1, right.shape[2]), beta=0 if first else 1)


def _multiply(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """total[i] (+)= left[i] right[i]; as a single product where all share the right factor."""
    beta = 0 if first else 1
    if right.stride(0) == 0 and fusible(left, 0):
        total.flatten(0, 1).addmm_(fuse(left, 0), right[0], beta=beta)
    else:
        total.baddbmm_(left, right, beta=beta)


def _operand(workspace: Workspace, name: str, matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) in the accumulation dtype; shared ones stay shared."""
    if matrices.dtype == workspace.dtype:
        return matrices
    if matrices.stride(0) == 0:
        return workspace.copy(name, matrices[:1]).expand(matrices.shape)
    return workspace.copy(name, matrices)
