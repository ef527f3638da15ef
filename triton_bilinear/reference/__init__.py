"""Closed forms of every item of the derivations (2 to 12), forward and backward, in plain torch.

This package is read beside the derivations and is what the fast code is compared with. Nothing here is fast, and
nothing uses autograd: each backward is the item's own formula.

* Letters are the derivations': batch B, outputs L, features M and N; lower case for vectors, upper case for matrices
  and 3-tensors; `g` is the gradient of a scalar loss with respect to the result and has the result's shape.
* Arguments come in the order x, y, A, b, as in the library's public functions, and a backward returns the gradients
  in that same order.
* Any floating-point dtype and any device. Nothing is checked: sizes that do not match fail inside torch.

| item | what | function (each with its `_backward`) |
|---|---|---|
| 2 | bias | `add_bias` |
| 3 | linear, samples as rows, and as columns | `linear`, `linear_columns` |
| 4 | a matrix product below any scalar | `product` |
| 5 | bilinear form | `form` |
| 6 | every pair of columns | `pairwise` |
| 7 | the dot | `multiply`, `scale_columns`, `scale_rows`, `dot_columns`, `dot_rows` |
| 8 | a batch of one form | `batch_form` |
| 9 | vector . 3-tensor | `combine` |
| 10 | one sample, L forms | `forms` |
| 11 | batch, features first | `batch_forms_method1`, `batch_forms_method2` |
| 12 | batch, samples first, with bias | `bilinear` |
"""

from .batch import (
    batch_forms_method1,
    batch_forms_method1_backward,
    batch_forms_method2,
    batch_forms_method2_backward,
    bilinear,
    bilinear_backward,
)
from .dots import (
    combine,
    combine_backward,
    dot_columns,
    dot_columns_backward,
    dot_rows,
    dot_rows_backward,
    multiply,
    multiply_backward,
    scale_columns,
    scale_columns_backward,
    scale_rows,
    scale_rows_backward,
)
from .forms import (
    batch_form,
    batch_form_backward,
    form,
    form_backward,
    forms,
    forms_backward,
    pairwise,
    pairwise_backward,
)
from .linear import (
    add_bias,
    add_bias_backward,
    linear,
    linear_backward,
    linear_columns,
    linear_columns_backward,
    product,
    product_backward,
)

__all__ = [
    "add_bias",
    "add_bias_backward",
    "batch_form",
    "batch_form_backward",
    "batch_forms_method1",
    "batch_forms_method1_backward",
    "batch_forms_method2",
    "batch_forms_method2_backward",
    "bilinear",
    "bilinear_backward",
    "combine",
    "combine_backward",
    "dot_columns",
    "dot_columns_backward",
    "dot_rows",
    "dot_rows_backward",
    "form",
    "form_backward",
    "forms",
    "forms_backward",
    "linear",
    "linear_backward",
    "linear_columns",
    "linear_columns_backward",
    "multiply",
    "multiply_backward",
    "pairwise",
    "pairwise_backward",
    "product",
    "product_backward",
    "scale_columns",
    "scale_columns_backward",
    "scale_rows",
    "scale_rows_backward",
]
