"""A bilinear layer for the price of a linear one, behind torch.nn.Bilinear's interface.

    z[i, l] = sum over m, n of  x[i, m] * weight[l, m, n] * y[i, n]  + bias[l]

Importing this touches no GPU and does not import triton.
"""

from . import reference
from .backend import use_backend
from .explain import explain
from .functional import bilinear, bilinear_form, linear, pairwise_bilinear
from .modules import Bilinear, LazyBilinear, PairwiseBilinear
from .replace import Replacement, replace_bilinear, restore_bilinear

__version__ = "0.1.0"

__all__ = [
    "Bilinear",
    "LazyBilinear",
    "PairwiseBilinear",
    "Replacement",
    "bilinear",
    "bilinear_form",
    "explain",
    "linear",
    "pairwise_bilinear",
    "reference",
    "replace_bilinear",
    "restore_bilinear",
    "use_backend",
]
