"""Ranks for the distributed tests: real processes with a gloo process group, kept from test to test.

They compute on CPU tensors: on the Triton path that takes the interpreter.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from triton_bilinear import use_backend

TIMEOUT = 120  # seconds, for one call

# The ranks are forked from a server that has imported this already. It runs nothing else, so no thread is lost.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "triton_bilinear"])


class Ranks:
    """`size` processes, each of which runs the functions that it is sent, on the path `backend`."""

    def __init__(self, size: int, backend: str) -> None:
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name, "store"))
        self._pipes, self._processes = [], []
        for rank in range(size):
            pipe, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(rank, size, backend, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What `function(*args)`, a function of a module's top level, returns on each rank.

        After an error the ranks are not in step any more, and end.
        """
        try:
            for pipe in self._pipes:
                pipe.send((function, args))
            return [self._result(rank, pipe) for rank, pipe in enumerate(self._pipes)]
        except BaseException:
            self.end()
            raise

    def _result(self, rank: int, pipe: Connection) -> Any:
        if not pipe.poll(TIMEOUT):
            raise TimeoutError(f"rank {rank} did not answer within {TIMEOUT} s")
        error, result = pipe.recv()
        if error is not None:
            raise AssertionError(f"on rank {rank}:\n{error}")
        return result

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._folder.cleanup()


def _serve(rank: int, size: int, backend: str, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    # As in conftest.py: torch.empty gives NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=TIMEOUT)
    )
    while True:
        function, args = pipe.recv()
        torch.manual_seed(0)
        try:
            with use_backend(backend):
                answer = (None, function(*args))
        except Exception:
            answer = (traceback.format_exc(), None)
        pipe.send(answer)
