"""The torch ops under triton_bilinear: opaque, and closed under differentiation of any order.

`library` defines and runs them, and `direct` calls them; `derivatives` with its `formulas`, `batching`, `sharding` and
`flops` teach torch their gradients and tangents, their vmap rules, their sharding over several devices, and their cost;
`tiny` does without them.
"""

from . import batching, derivatives, direct, flops, sharding, tiny
from .direct import call
from .library import (
    contract,
    contract_keep,
    grad_inputs,
    grad_weight,
    pairwise,
    pairwise_grad_weight,
    pairwise_grad_x,
)

__all__ = [
    "batching",
    "call",
    "contract",
    "contract_keep",
    "derivatives",
    "direct",
    "flops",
    "grad_inputs",
    "grad_weight",
    "pairwise",
    "pairwise_grad_weight",
    "pairwise_grad_x",
    "sharding",
    "tiny",
]
