"""Compiles in worker processes: interpreted kernels can be compiled too, a crash costs one result, and cores are used.

The worker is this module run as a program: it reads requests from the connection whose descriptor it is given.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from .compiler import CompiledReport, CompileFailure, CompileRequest, CompileResult, compile_kernel

_SECONDS_PER_COMPILE = 300.0


def compile_many(requests: Iterable[CompileRequest], workers: int | None = None) -> list[CompileResult]:
    """Compile every request and return the results in the same order, failures among them as data.

    Starting the workers costs a few seconds: where several calls follow each other, keep a CompilerPool.
    """
    with CompilerPool(workers) as pool:
        return pool.compile_many(list(requests))


class CompilerPool:
    """Worker processes that compile, started when first needed and ended with the `with` block.

    workers: how many; by default 2, or fewer where the machine has fewer cores.
    """

    def __init__(self, workers: int | None = None, seconds_per_compile: float = _SECONDS_PER_COMPILE) -> None:
        self._count = workers or min(2, os.cpu_count() or 1)
        self._seconds = seconds_per_compile
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(self._count):
            self._idle.put(None)

    def __enter__(self) -> "CompilerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for _ in range(self._count):
            worker = self._idle.get()
            if worker is not None:
                worker.end()
            self._idle.put(None)

    def compile_many(
        self, requests: Sequence[CompileRequest], progress: Callable[[int, int], Any] | None = None
    ) -> list[CompileResult]:
        """Results in the order of the requests; `progress(done, total)` is called as they are handed out."""
        results: list[CompileResult] = []
        with ThreadPoolExecutor(self._count) as threads:
            for result in threads.map(self._compile, requests):
                results.append(result)
                if progress is not None:
                    progress(len(results), len(requests))
        return results

    def _compile(self, request: CompileRequest) -> CompileResult:
        worker = self._idle.get()
        try:
            worker = worker or _Worker()
            result = worker.compile(request, self._seconds)
            if not worker.alive:
                worker = None
            return result
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
        )
        theirs.close()
        self.alive = True

    def compile(self, request: CompileRequest, seconds: float) -> CompileResult:
        try:
            self._connection.send(request)
            if self._connection.poll(seconds):
                return self._connection.recv()
            error = f"no result after {seconds:.0f} s"
        except (EOFError, OSError):
            error = f"the compiler's process died: {self._last_words()}"
        self.end()
        return CompileFailure(request.kernel, request.target, error)

    def end(self) -> None:
        self.alive = False
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 2000))
        return f"exit status {code}. {self._stderr.read().decode(errors='replace').strip()}"


def _serve(connection: Connection) -> None:
    """Answer requests until the other side closes the connection."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(request))


def _attempt(request: CompileRequest) -> CompiledReport | CompileFailure:
    try:
        return compile_kernel(request)
    except Exception as error:
        return CompileFailure(request.kernel, request.target, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
