"""Tensor parallelism of a `Bilinear`: styles for torch.distributed.tensor.parallel.parallelize_module.

    mesh = init_device_mesh("cuda", (8,))
    parallelize_module(model, mesh, {"score": OutputParallel(), "mix": In1Parallel()})

Both give the results of one process. With n ranks each holds and computes an n-th of the weight; what they communicate
with their default layouts is

| style          | forward                          | backward                                               |
|----------------|----------------------------------|--------------------------------------------------------|
| OutputParallel | nothing                          | an all-reduce of each input's gradient that is needed  |
| In1Parallel    | an all-reduce of the result      | an all-reduce of the gradient of input2 if it is needed |

(A layer of fewer outputs than ranks, some of which then have none, gathers more under OutputParallel if its inputs have
more than one batch axis.)

DistributedDataParallel, fully_shard and DTensor arguments need nothing of this module: the ops bring their own sharding
rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle
from torch.nn.parameter import is_lazy

from .modules import Bilinear

__all__ = ["In1Parallel", "OutputParallel"]


class _BilinearParallel(ParallelStyle):
    # How the parameters are placed, how the layer wants its inputs, and what its result then is.
    _parameters: ClassVar[dict[str, Placement]]
    _inputs: ClassVar[tuple[Placement, Placement]]
    _output: ClassVar[Placement]

    def __init__(
        self,
        *,
        input_layouts: tuple[Placement, Placement] | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self.input_layouts = input_layouts or self._inputs
        self.output_layouts = output_layouts or self._output
        self.use_local_output = use_local_output

    def _apply(self, module: torch.nn.Module, device_mesh: DeviceMesh) -> torch.nn.Module:
        if not isinstance(module, Bilinear):
            raise TypeError(
                f"{type(self).__name__}: expected a triton_bilinear.Bilinear, got {type(module).__module__}."
                f"{type(module).__qualname__} (replace_bilinear makes one of a torch.nn.Bilinear)"
            )
        weight = module._parameters.get("weight")
        if weight is None or is_lazy(weight):
            found = "parametrised" if weight is None else "not initialised"
            raise ValueError(f"{type(self).__name__}: expected a layer whose weight is a parameter, but it is {found}")
        return distribute_module(module, device_mesh, self._partition, self._prepare, self._finish)

    def _partition(self, name: str, module: torch.nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in module.named_parameters(recurse=False):
            shards = distribute_tensor(parameter, mesh, [self._parameters[key]], src_data_rank=self.src_data_rank)
            module.register_parameter(key, torch.nn.Parameter(shards, requires_grad=parameter.requires_grad))

    def _prepare(self, module: Any, inputs: Sequence[Tensor], mesh: DeviceMesh) -> Any:
        if len(inputs) != 2:
            raise TypeError(f"{type(self).__name__}: expected both inputs by position, got {len(inputs)}")
        sizes = (module.in1_features, module.in2_features)
        return tuple(
            _distributed(tensor, mesh, layout, size).redistribute(placements=[wanted], async_op=True)
            for tensor, layout, size, wanted in zip(inputs, self.input_layouts, sizes, self._inputs, strict=True)
        )

    def _finish(self, module: torch.nn.Module, output: DTensor, mesh: DeviceMesh) -> Any:
        output = output.redistribute(placements=[self.output_layouts], async_op=True)
        return output.to_local() if self.use_local_output else output


def _distributed(tensor: Tensor, mesh: DeviceMesh, layout: Placement, features: int) -> DTensor:
    """A rank's part of an input of `features` features, as a DTensor."""
    if isinstance(tensor, DTensor):
        return tensor
    if layout not in (Shard(-1), Shard(tensor.dim() - 1)):
        return DTensor.from_local(tensor, mesh, [layout], run_check=False)
    # The parts may differ in size, so that the whole size does not follow from this one.
    chunk = -(-features // mesh.size())
    expected = min(chunk, max(0, features - chunk * mesh.get_local_rank()))
    if tensor.shape[-1] != expected:
        raise ValueError(
            f"expected {expected} of {features} features on rank {mesh.get_local_rank()} of {mesh.size()}, "
            f"got an input of shape {tuple(tensor.shape)}"
        )
    whole = torch.empty((*tensor.shape[:-1], features), device="meta")
    return DTensor.from_local(tensor, mesh, [layout], run_check=False, shape=whole.shape, stride=whole.stride())


class OutputParallel(_BilinearParallel):
    """Shards a `triton_bilinear.Bilinear` by its outputs: a rank has the weights of some of them, and their bias.

    Keyword args:
        input_layouts: how the two inputs are placed that the layer gets; an input that is no DTensor is taken as the
            rank's part of one that is placed so. Replicated, both of them, by default.
        output_layouts: how the result shall be placed: sharded along its features by default.
        use_local_output: whether the result is the rank's part of it, a plain tensor (the default), or a DTensor.

    Inputs go to the layer by position. Sizes need not be multiples of the number of ranks: parts are those of
    torch.chunk, and ranks that are left over have an empty one.

    Raises (from parallelize_module):
        TypeError: a module that is no `triton_bilinear.Bilinear`.
        ValueError: a layer whose weight is parametrised or not yet initialised.
    """

    _parameters = {"weight": Shard(0), "bias": Shard(0)}  # noqa: RUF012
    _inputs = (Replicate(), Replicate())
    _output = Shard(-1)


class In1Parallel(_BilinearParallel):
    """Shards a `triton_bilinear.Bilinear` by the features of its first input: a rank has the weights for some of them.

    The ranks' results are partial sums, to which the bias, whole on every rank, adds once.

    Keyword args:
        input_layouts: as for OutputParallel; by default the first input is sharded along its features, as an
            OutputParallel layer leaves it, and the second replicated.
        output_layouts: how the result shall be placed: replicated by default. Shard(0) has it reduced and scattered
            over the samples instead.
        use_local_output: as for OutputParallel.

    Inputs, sizes and errors are as for OutputParallel.
    """

    _parameters = {"weight": Shard(1), "bias": Replicate()}  # noqa: RUF012
    _inputs = (Shard(-1), Replicate())
    _output = Replicate()
