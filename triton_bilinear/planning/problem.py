"""What is to be computed, as plain data: all that a plan may depend on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

_ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return _ITEMSIZE[dtype]


def sum_bytes(dtype: str) -> int:
    """Bytes of a sum over elements: float32 is the least that sums are kept in."""
    return max(4, _ITEMSIZE[dtype])


@dataclass(frozen=True)
class ContractProblem:
    """out[i, p] = sum_qr u[i, q] v[i, r] T[p, q, r] over B rows.

    dtype: torch's name without the prefix. precision: "ieee", "tf32" or "tf32x3" (float32 alone knows the last two).
    unit: the axis of T along which it is read in vectors ("p", "q" or "r"); "" where it is read element by element.
    vector, row_vector: the bytes in which T, and the rows of u and v, are read at a time.
    keep: the projection sum_q u[i, q] T[p, q, r] is wanted too.
    """

    B: int
    P: int
    Q: int
    R: int
    dtype: str
    precision: str
    unit: str
    vector: int
    row_vector: int
    keep: bool = False


@dataclass(frozen=True)
class GradInputsProblem:
    """dx[i, m] and dy[i, n] from g[i, l], x, y and A[l, m, n] over B rows; the rest as in ContractProblem."""

    B: int
    L: int
    M: int
    N: int
    dtype: str
    precision: str
    unit: str
    vector: int
    row_vector: int


@dataclass(frozen=True)
class GradWeightProblem:
    """out[p, q, r] = sum_i a[i, p] b[i, q] c[i, r] over B rows; vectors: the bytes in which each operand is read."""

    B: int
    P: int
    Q: int
    R: int
    dtype: str
    precision: str
    vectors: tuple[int, int, int]


@dataclass(frozen=True)
class ChainProblem:
    """out[a, d] = sum_{k, c} (sum_e P Q) R: `outputs` matrices (A, D), each with sums over K, C and E of its own.

    Forward `outputs` counts samples times forms, and K is 1; of a gradient each is one of these two.

    inputs: the elements of P, Q and R, expanded axes counted once. vector: the bytes in which they are read at a time.
    """

    outputs: int
    K: int
    A: int
    C: int
    D: int
    E: int
    dtype: str
    precision: str
    vector: int
    inputs: int


Problem = ContractProblem | GradInputsProblem | GradWeightProblem | ChainProblem
_Problem = TypeVar("_Problem", bound=Problem)

# The sizes that may change with every call of a layer: of batches, and of pairs the lengths of sequences.
ROWS = ("B", "outputs", "K", "inputs")
_LENGTHS = ("A", "C", "D", "E")


def of_one_row(problem: _Problem) -> _Problem:
    """The problem with each of those 1: what all calls of a layer have in common, and legal tiles depend on."""
    ones: dict[str, Any] = {field.name: 1 for field in fields(problem) if field.name in (*ROWS, *_LENGTHS)}
    return replace(problem, **ones)
