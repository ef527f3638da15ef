"""Several processes give the results of one: sharding rules of the ops, parallel styles, DDP and FSDP2.

Functions named `on_ranks_*` run on every rank of a gloo process group (see ranks.py).
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from oracle import assert_near
from ranks import Ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import triton_bilinear as tb

R, P, S = Replicate(), Partial(), Shard


@pytest.fixture(scope="module")
def pools():
    started = {}
    yield started
    for ranks in started.values():
        ranks.end()


@pytest.fixture(params=[2, 4])
def ranks(request, pools):
    size = request.param
    if size not in pools or not pools[size].alive:
        pools[size] = Ranks(size)
    return pools[size]


def mesh_of(*sizes):
    return init_device_mesh("cpu", sizes or (torch.distributed.get_world_size(),))


def tensor(*shape):
    return torch.randn(shape, dtype=torch.float64)


def placed(whole, placement, mesh):
    """A DTensor with the value `whole`. Nothing is communicated: every rank has drawn the same numbers."""
    if placement != P:
        return distribute_tensor(whole, mesh, [placement], src_data_rank=None)
    shares = tensor(mesh.size(), *whole.shape)
    shares += (whole - shares.sum(0)) / mesh.size()
    return DTensor.from_local(shares[mesh.get_local_rank()], mesh, [P])


def check(actual, expected):
    for got, exact in zip(as_tuple(actual), as_tuple(expected), strict=True):
        assert_near(got.detach().full_tensor(), exact.detach(), factor=64)


def as_tuple(result):
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


class Communication(CommDebugMode):
    """Checks the number of collectives by name: `with Communication(all_reduce=1): ...`."""

    def __init__(self, **expected):
        super().__init__()
        self.expected = expected

    def __exit__(self, kind, *rest):
        super().__exit__(kind, *rest)
        if kind is None:
            counts = {operation.__name__: count for operation, count in self.get_comm_counts().items() if count}
            if counts != self.expected:
                raise AssertionError(f"communicated {counts}, expected {self.expected}")


# Sizes that 2 and 4 do not divide; of 4 ranks, one has nothing of an axis of 5, and an axis of 3 cannot be sharded.
OPS = {
    "contract": ((6, 4), (6, 5), (7, 4, 5), (7,), -1),
    "contract without bias": ((3, 4, 5), (3, 5, 5), (6, 4, 5), None, -2),
    "contract_keep": ((6, 4), (6, 5), (3, 4, 5), (3,), -1),
    "grad_inputs": ((6, 3), (6, 4), (6, 5), (3, 4, 5), -1),
    "grad_weight": ((6, 7), (6, 4), (6, 5), -1),
    "pairwise": ((2, 3, 4), (2, 6, 5), (7, 4, 5), (7,)),
    "pairwise_grad_x": ((2, 7, 3, 6), (2, 6, 5), (7, 4, 5)),
    "pairwise_grad_weight": ((2, 7, 3, 6), (2, 3, 4), (2, 6, 5)),
}


def on_ranks_every_placement(name, shapes, most_not_replicated):
    mesh = mesh_of()
    op = getattr(torch.ops.triton_bilinear, name)
    whole = [tensor(*shape) if isinstance(shape, tuple) else shape for shape in shapes]
    expected = op(*whole)
    choices = [
        [R, P, *map(S, range(arg.dim()))] if isinstance(arg, torch.Tensor) else [None]  #
        for arg in whole
    ]
    for placements in product(*choices):
        if sum(placement not in (R, None) for placement in placements) <= most_not_replicated:
            args = [
                arg if placement is None else placed(arg, placement, mesh)
                for arg, placement in zip(whole, placements, strict=True)
            ]
            check(op(*args), expected)


@pytest.mark.parametrize("ranks", [2], indirect=True)
@pytest.mark.parametrize("case", OPS)
def test_every_op_takes_any_placement_of_any_argument(ranks, case):
    ranks.run(on_ranks_every_placement, case.split()[0], OPS[case], 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", OPS)
def test_every_op_takes_any_placements_of_all_arguments(ranks, case):
    ranks.run(on_ranks_every_placement, case.split()[0], OPS[case], 5)


# Placements of arguments and results that need no communication, by op: R replicated, P partial sums, a digit an axis.
WAYS = {
    # u, v, weight, bias -> result
    "contract": "00RR0 RR001 1R1PP R12PP 1R1RP R12RP PRRPP RPRPP RRPPP",
    # the axes between: batch 0, features 1, batch 2
    "contract without bias": "00R-0 22R-2 RR0-1 1R1-P R12-P PRR-P RPR-P RRP-P",
    # ... -> result, kept
    "contract_keep": "00RR00 RR0011 1R1PPP R12PP2 R12RP2 PRRPPP RPRPPR RRPPPP",
    # g, x, y, weight -> grad x, grad y
    "grad_inputs": "000R00 1RR0PP R1R11P RR12P1 PRRRPP RPRRRP RRPRPR RRRPPP",
    # g, x, y -> grad weight
    "grad_weight": "000P 1RR0 R1R1 RR12 PRRP RPRP RRPP",
    # x, y, weight, bias -> result
    "pairwise": "00RR0 1RRR2 R1RR3 RR001 2R1PP R22PP 2R1RP PRRPP RPRPP RRPPP",
    # g, y, weight -> grad x
    "pairwise_grad_x": "00R0 1R0P 2RR1 31RP RR12 R22P PRRP RPRP RRPP",
    # g, x, y -> grad weight
    "pairwise_grad_weight": "000P 1RR0 21RP 3R1P R2R1 RR22 PRRP RPRP RRPP",
}


def on_ranks_ways(name, shapes, ways):
    mesh = mesh_of()
    op = getattr(torch.ops.triton_bilinear, name)
    # Doubled sizes, so that every axis can be sharded over 4 ranks; some unevenly.
    whole = [tensor(*(2 * size for size in shape)) if isinstance(shape, tuple) else shape for shape in shapes]
    expected = op(*whole)
    for way in ways.split():
        placements = [{"R": R, "P": P, "-": None}.get(letter) or S(int(letter)) if letter != "-" else None for letter in way]
        args = [
            placed(arg, placement, mesh) if isinstance(arg, torch.Tensor) else arg
            for arg, placement in zip(whole, [*placements, None][: len(whole)], strict=True)
        ]
        with Communication():
            results = op(*args)
        check(results, expected)
        got = [result.placements[0] for result in as_tuple(results)]
        wanted = placements[-len(got) :]
        assert got == wanted, f"{way}: result placed as {got}, expected {wanted}"


@pytest.mark.parametrize("case", OPS)
def test_what_needs_no_communication_has_none(ranks, case):
    ranks.run(on_ranks_ways, case.split()[0], OPS[case], WAYS[case])


def on_ranks_gradients(function, shapes, placements, options):
    """First and second order, without communication, equal to those of plain tensors."""
    mesh = mesh_of()
    plain = [tensor(*shape).requires_grad_() for shape in shapes]
    sharded = [placed(leaf.detach(), way, mesh).requires_grad_() for leaf, way in zip(plain, placements, strict=True)]

    def derivatives(leaves, like):
        result = function(*leaves, **options)
        grads = torch.autograd.grad(result, leaves, like(result), create_graph=True)
        # The bias's gradient depends on nothing.
        second = torch.autograd.grad(grads[:3], leaves[:3], [like(grad) for grad in grads[:3]])
        return result, *grads, *second

    def cotangent(result):
        generator = torch.Generator().manual_seed(result.dim())
        whole = torch.randn(result.shape, dtype=torch.float64, generator=generator)
        if not isinstance(result, DTensor):
            return whole
        (way,) = result.placements
        return placed(whole, R if way == P else way, mesh)

    expected = derivatives(plain, cotangent)
    with Communication():
        actual = derivatives(sharded, cotangent)
    check(actual, expected)


@pytest.mark.parametrize(
    ("function", "shapes", "ways", "options"),
    [
        # a wide layer, and one narrow enough to keep a product
        (tb.bilinear, ((6, 5), (6, 7), (9, 5, 7), (9,)), ((S(0), S(0), R, R), (R, R, S(0), S(0)), (S(1), R, S(1), R)), {}),
        (tb.bilinear, ((6, 5), (6, 7), (9, 5, 7), (9,)), ((R, S(1), S(2), R),), {}),
        (tb.bilinear, ((6, 9), (6, 8), (1, 9, 8), (1,)), ((S(0), S(0), R, R), (S(1), R, S(1), R), (R, S(1), S(2), R)), {}),
        # batch axes in front and behind
        (
            tb.bilinear,
            ((6, 5, 4), (6, 7, 4), (9, 5, 7), (9,)),
            ((S(0), S(0), R, R), (S(2), S(2), R, R), (S(1), R, S(1), R)),
            {"feature_dim": 1},
        ),
        (
            tb.bilinear,
            ((6, 4, 9), (6, 4, 8), (1, 9, 8), (1,)),
            ((S(0), S(0), R, R), (S(1), S(1), R, R)),
            {},
        ),
        (
            tb.pairwise_bilinear,
            ((4, 5, 4), (4, 6, 7), (9, 4, 7), (9,)),
            ((S(0), S(0), R, R), (R, R, S(0), S(0)), (S(2), R, S(1), R), (R, S(2), S(2), R)),
            {},
        ),
        (tb.pairwise_bilinear, ((4, 5, 4), (4, 6, 7), (9, 4, 7), (9,)), ((S(1), R, R, R), (R, S(1), R, R)), {}),
    ],
)
def test_gradients_of_any_order_need_no_communication(ranks, function, shapes, ways, options):
    for way in ways:
        ranks.run(on_ranks_gradients, function, shapes, way, options)
