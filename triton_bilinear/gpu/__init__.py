"""The primitives through Triton kernels: tensors to views, views to a problem, a problem to a plan, a plan to launches.

    contract(u, v, weight, bias, out)             out[..., p] = sum_qr u[..., q] v[..., r] weight[p, q, r] + bias[p]
    contract_keep(u, v, weight, bias, out, kept)  the same, and kept[..., p, r] = sum_q u[..., q] weight[p, q, r]
    grad_inputs(g, x, y, weight, out_x, out_y)    both input gradients of the layer
    grad_weight(g, x, y, out)                     out[l, m, n] = sum over the batch of g[..., l] x[..., m] y[..., n]
    pairwise(x, y, weight, bias, out)             out[..., l, s, t] = x[..., s] weight[l] y[..., t] + bias[l]
    pairwise_grad_x(g, y, weight, out)            out[..., s] = sum over l and t of g[..., l, s, t] weight[l] y[..., t]
    pairwise_grad_weight(g, x, y, out)            out[l] = sum over all else of g[..., l, s, t] x[..., s] y[..., t]^T
    chain(p, q, r, bias, out)                     out[..., l] = p[..., l] q[..., l] r[..., l] + bias[l], or a sum of
                                                  these products over l or the batch

Inputs have any strides, features on their last axis. Outputs are written completely; three strides have to do for their
rows, as they do for whatever is allocated dense. Kernels run on whatever driver Triton has active.
"""

from .chain import chain
from .contract import contract, contract_keep
from .grad_inputs import grad_inputs
from .grad_weight import grad_weight
from .pairwise import pairwise, pairwise_grad_weight, pairwise_grad_x

__all__ = [
    "chain",
    "contract",
    "contract_keep",
    "grad_inputs",
    "grad_weight",
    "pairwise",
    "pairwise_grad_weight",
    "pairwise_grad_x",
]
