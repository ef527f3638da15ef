"""The torch ops under triton_bilinear: opaque, and closed under differentiation of any order.

`library` defines and runs them; `derivatives`, `batching` and `flops` teach torch their gradients and tangents, their
vmap rules, and their cost.
"""

from . import batching, derivatives, flops
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
    "contract",
    "contract_keep",
    "derivatives",
    "flops",
    "grad_inputs",
    "grad_weight",
    "pairwise",
    "pairwise_grad_weight",
    "pairwise_grad_x",
]
