"""Times one tree's training steps on request, a process of its own: `regress.py` starts one for each tree.

    python bench/step_worker.py TREE

imports triton_bilinear from the folder TREE and nothing else of this project, so that any revision which has the
public functions can be timed. Reads a JSON request a line from stdin and answers with one on stdout:

    {"prepare": {"function", "keywords", "tensors": {name: {"shape", "order", "width"}}, "gradients", "dtype",
     "device"}} -> {"origin": file of the package}
    {"time": seconds that the runs shall take together at least} -> {"seconds": mean of a run}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def prepare(package: Any, request: dict[str, Any]) -> Callable[[], None]:
    """The step that a request describes."""
    generator = torch.Generator(request["device"]).manual_seed(0)

    def draw(shape: list[int], order: list[int], width: int) -> Tensor:
        """Axes stored in this order, the last of them a slice of one that is `width` times as long."""
        stored = [shape[axis] for axis in order]
        stored[-1] *= width
        values = torch.randn(stored, generator=generator, device=request["device"])
        values = values.to(getattr(torch, request["dtype"]))[..., : shape[order[-1]]]
        return values.permute([order.index(axis) for axis in range(len(order))])

    tensors = {name: draw(**described) for name, described in request["tensors"].items()}
    g = tensors.pop("g")
    wanted = [tensors[name].requires_grad_() for name in request["gradients"]]
    function = getattr(package, request["function"])

    def step() -> None:
        torch.autograd.grad(function(*tensors.values(), **request["keywords"]), wanted, g)

    step()
    return step


def mean_seconds(step: Callable[[], None], least: float, synchronize: Callable[[], None]) -> float:
    """Of a run, after one that is not counted: the other process has had the caches since."""
    step()
    synchronize()
    runs, start = 0, time.perf_counter()
    while True:
        step()
        synchronize()
        runs += 1
        elapsed = time.perf_counter() - start
        if elapsed >= least:
            return elapsed / runs


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import triton_bilinear

    step: Callable[[], None] | None = None
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            step = None  # its tensors make room
            step = prepare(triton_bilinear, request["prepare"])
            answer: dict[str, Any] = {"origin": triton_bilinear.__file__}
        else:
            assert step is not None, "prepare comes first"
            answer = {"seconds": mean_seconds(step, request["time"], synchronize)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
