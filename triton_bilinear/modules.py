"""The layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from .functional import bilinear, pairwise_bilinear


class Bilinear(torch.nn.Bilinear):
    """A torch.nn.Bilinear, computed by `triton_bilinear.bilinear` (item 12).

    The parameters, their initialisation, `state_dict` and `extra_repr` are those of torch.nn.Bilinear: either loads the
    other's state.

    Shape: input1 (*, in1_features), input2 (*, in2_features), result (*, out_features). Parameters, inputs and result
    have one dtype: float16, bfloat16, float32 or float64.

    Raises:
        ValueError: `in1_features` of 0 or less.
        RuntimeError: forward, for sizes, dtypes or devices that do not match; see `bilinear`.
    """

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return bilinear(input1, input2, self.weight, self.bias)


class LazyBilinear(LazyModuleMixin, Bilinear):
    """A Bilinear (item 12) that takes in1_features and in2_features from its first inputs, as torch.nn.LazyLinear does.

    weight and bias (if there is one) are torch.nn.parameter.UninitializedParameters until then; from then on the layer
    is a Bilinear.

    Shape, dtypes and errors: as Bilinear's; ValueError for first inputs without features.
    """

    cls_to_become = Bilinear
    weight: UninitializedParameter
    bias: UninitializedParameter | None  # type: ignore[assignment]

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # No parameter is made twice: the empty weight of the base is replaced at once.
        super().__init__(0, 0, 0, bias=False)
        self.out_features = out_features
        self.weight = UninitializedParameter(device=device, dtype=dtype)  # type: ignore[call-arg]
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)  # type: ignore[call-arg]

    def reset_parameters(self) -> None:
        if self.in1_features and not self.has_uninitialized_params():
            super().reset_parameters()

    def initialize_parameters(self, input1: Tensor, input2: Tensor) -> None:
        """Make the parameters for these inputs and draw them, unless a loaded state has made them already."""
        if not self.has_uninitialized_params():
            _, self.in1_features, self.in2_features = self.weight.shape
            return
        self.in1_features, self.in2_features = input1.shape[-1], input2.shape[-1]
        with torch.no_grad():
            self.weight.materialize((self.out_features, self.in1_features, self.in2_features))
            if self.bias is not None:
                self.bias.materialize((self.out_features,))
        super().reset_parameters()


class PairwiseBilinear(torch.nn.Module):
    """The layer of `triton_bilinear.pairwise_bilinear` (item 6): out_features scores for every pair of rows.

    Attributes:
        weight: (out_features, in1_features, in2_features), initialised as that of torch.nn.Bilinear.
        bias: (out_features,), likewise; or None.

    Shape: input1 (*, S, in1_features), input2 (*, T, in2_features), result (*, out_features, S, T). Parameters, inputs
    and result have one dtype: float16, bfloat16, float32 or float64.

    Raises:
        ValueError: `in1_features` of 0 or less.
        RuntimeError: forward, for sizes, dtypes or devices that do not match; see `pairwise_bilinear`.
    """

    __constants__ = ("in1_features", "in2_features", "out_features")
    weight: torch.nn.Parameter
    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = torch.nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly from within 1 / sqrt(in1_features) of 0."""
        if self.in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got (in1_features={self.in1_features})")
        bound = 1 / math.sqrt(self.in1_features)
        torch.nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            torch.nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return pairwise_bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
