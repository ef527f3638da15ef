"""Several processes give the results of one: sharding rules of the ops, parallel styles, DDP and FSDP2.

Functions named `on_ranks_*` run on every rank of a gloo process group (see ranks.py).
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from conftest import INTERPRETED
from oracle import assert_near
from ranks import Ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

import triton_bilinear as tb
from triton_bilinear import distributed
from triton_bilinear.distributed import In1Parallel, OutputParallel

R, P, S = Replicate(), Partial(), Shard


@pytest.fixture(scope="module")
def pools():
    started = {}
    yield started
    for ranks in started.values():
        ranks.end()


@pytest.fixture(params=[(2, "torch"), (4, "torch"), (2, "triton")], ids=lambda param: f"{param[0]}-{param[1]}")
def ranks(request, pools):
    if request.param[1] == "triton" and not INTERPRETED:
        pytest.skip("CPU tensors take the Triton path in the interpreter only")
    if request.param not in pools or not pools[request.param].alive:
        pools[request.param] = Ranks(*request.param)
    return pools[request.param]


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
    choices = [[R, P, *map(S, range(arg.dim()))] if isinstance(arg, torch.Tensor) else [None] for arg in whole]
    for placements in product(*choices):
        if sum(placement not in (R, None) for placement in placements) <= most_not_replicated:
            args = [
                arg if placement is None else placed(arg, placement, mesh)
                for arg, placement in zip(whole, placements, strict=True)
            ]
            check(op(*args), expected)


@pytest.mark.parametrize("ranks", [(2, "torch")], indirect=True)
@pytest.mark.parametrize("case", OPS)
def test_every_op_takes_any_placement_of_any_argument(ranks, case):
    ranks.run(on_ranks_every_placement, case.split()[0], OPS[case], 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", OPS)
def test_every_op_takes_any_placements_of_all_arguments(ranks, case):
    ranks.run(on_ranks_every_placement, case.split()[0], OPS[case], 5)


PLACEMENTS = {"R": R, "P": P, "-": None, **{str(axis): S(axis) for axis in range(4)}}

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
        placements = [PLACEMENTS[letter] for letter in way]
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


@pytest.mark.parametrize("ranks", [(2, "torch"), (4, "torch")], indirect=True)
@pytest.mark.parametrize("case", OPS)
def test_what_needs_no_communication_has_none(ranks, case):
    """A rule does not look at what computes the parts; on the Triton path gradients of every order are taken below."""
    ranks.run(on_ranks_ways, case.split()[0], OPS[case], WAYS[case])


def on_ranks_gradients(function, shapes, placements, options, second_silent):
    """First and second order, equal to those of plain tensors; without communication, or the first one without."""
    mesh = mesh_of()
    plain = [tensor(*shape).requires_grad_() for shape in shapes]
    sharded = [placed(leaf.detach(), way, mesh).requires_grad_() for leaf, way in zip(plain, placements, strict=True)]

    def first(leaves):
        result = function(*leaves, **options)
        return result, *torch.autograd.grad(result, leaves, cotangent(result), create_graph=True)

    def second(leaves, grads):
        # The bias's gradient depends on nothing.
        return torch.autograd.grad(grads[:3], leaves[:3], [cotangent(grad) for grad in grads[:3]])

    def cotangent(result):
        generator = torch.Generator().manual_seed(result.dim())
        whole = torch.randn(result.shape, dtype=torch.float64, generator=generator)
        if not isinstance(result, DTensor):
            return whole
        (way,) = result.placements
        return placed(whole, R if way == P else way, mesh)

    expected = first(plain)
    with Communication():
        actual = first(sharded)
    check(actual, expected)
    with Communication() if second_silent else nullcontext():
        actual_second = second(sharded, actual[1:])
    check(actual_second, second(plain, expected[1:]))


BATCH, OUTPUTS, IN1, IN2 = (S(0), S(0), R, R), (R, R, S(0), S(0)), (S(1), R, S(1), R), (R, S(1), S(2), R)
LAYERS = {
    "wide": (tb.bilinear, ((6, 5), (6, 7), (9, 5, 7), (9,)), (BATCH, OUTPUTS, IN1, IN2), {}),
    # narrow enough to keep a product, whose own derivatives are torch's products, with torch's rules
    "narrow": (tb.bilinear, ((6, 9), (6, 8), (1, 9, 8), (1,)), (BATCH, IN1, IN2), {}),
    "narrow, several batch axes": (
        tb.bilinear,
        ((6, 5, 9), (6, 5, 8), (1, 9, 8), (1,)),
        (BATCH, (S(1), S(1), R, R), (S(2), R, S(1), R), (R, S(2), S(2), R)),
        {},
    ),
    "features between batch axes": (
        tb.bilinear,
        ((6, 5, 4), (6, 7, 4), (9, 5, 7), (9,)),
        (BATCH, (S(2), S(2), R, R), OUTPUTS, IN1, IN2),
        {"feature_dim": 1},
    ),
    "pairwise": (
        tb.pairwise_bilinear,
        ((4, 5, 4), (4, 6, 7), (5, 4, 7), (5,)),
        (BATCH, OUTPUTS, (S(2), R, S(1), R), (R, S(2), S(2), R), (S(1), R, R, R), (R, S(1), R, R)),
        {},
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_of_any_order_need_no_communication(ranks, layer):
    function, shapes, ways, options = LAYERS[layer]
    for way in ways:
        ranks.run(on_ranks_gradients, function, shapes, way, options, layer != "narrow")


def on_ranks_of_a_2d_mesh(batch, other, placement):
    """Batches over one mesh dimension, and outputs or features over the other."""
    mesh = mesh_of(2, 2)
    leaves = [tensor(*shape).requires_grad_() for shape in ((5, 5), (5, 7), (9, 5, 7), (9,))]
    sharded = [
        distribute_tensor(leaf.detach(), mesh, ways, src_data_rank=None).requires_grad_()
        for leaf, ways in zip(leaves, zip(batch, other, strict=True), strict=True)
    ]
    expected = tb.bilinear(*leaves)
    with Communication():
        result = tb.bilinear(*sharded)
    assert result.placements == (S(0), placement), result.placements
    check(result, expected)
    cotangent = torch.randn_like(expected)
    ways = (S(0), R if placement == P else placement)
    with Communication():
        result.backward(distribute_tensor(cotangent, mesh, ways, src_data_rank=None))
    expected.backward(cotangent)
    check([leaf.grad for leaf in sharded], [leaf.grad for leaf in leaves])


@pytest.mark.parametrize("ranks", [(4, "torch")], indirect=True)
@pytest.mark.parametrize(("other", "placement"), [(OUTPUTS, S(1)), (IN1, P), (IN2, P)])
def test_two_ways_at_once(ranks, other, placement):
    ranks.run(on_ranks_of_a_2d_mesh, BATCH, other, placement)


# Parallel styles. A layer of 7 outputs and 5 in1 features is not divided by any number of ranks.

REDUCE, GATHER, SCATTER = "all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor"


def part(whole, layout):
    """A rank's part of a tensor, as a leaf."""
    return placed(whole.detach(), layout, mesh_of()).to_local().clone().requires_grad_()


def on_ranks_style(style, sizes, bias, inputs, output, forward, backward):
    """A layer that gets and gives local tensors."""
    torch.manual_seed(0)
    single = tb.Bilinear(*sizes, bias=bias, dtype=torch.float64)
    layer = tb.Bilinear(*sizes, bias=bias, dtype=torch.float64)
    layer.load_state_dict(single.state_dict())
    mesh = mesh_of()
    parallelize_module(layer, mesh, style)
    whole = [tensor(8, size).requires_grad_() for size in sizes[:2]]
    local = [part(leaf, layout) for leaf, layout in zip(whole, inputs, strict=True)]
    expected = single(*whole)
    with Communication(**forward):
        result = layer(*local)
    assert not isinstance(result, DTensor)
    assert_near(result.detach(), part(expected, output).detach(), factor=64)
    cotangent = torch.randn_like(expected)
    with Communication(**backward):
        result.backward(part(cotangent, output).detach())
    expected.backward(cotangent)
    for leaf, single_leaf, layout in zip(local, whole, inputs, strict=True):
        assert_near(leaf.grad, part(single_leaf.grad, layout).detach(), factor=64)
    for sharded, parameter in zip(layer.parameters(), single.parameters(), strict=True):
        check(sharded.grad, parameter.grad)
        assert sharded.grad.placements == sharded.placements, f"{sharded.grad.placements}, {sharded.placements}"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("style", "sizes", "inputs", "output", "forward", "backward"),
    [
        (OutputParallel(), (5, 6, 7), (R, R), S(1), {}, {REDUCE: 2}),
        (OutputParallel(output_layouts=R), (5, 6, 7), (R, R), R, {GATHER: 1}, {REDUCE: 2}),
        (OutputParallel(input_layouts=(S(0), S(-1))), (5, 6, 7), (S(0), S(1)), S(1), {GATHER: 2}, {SCATTER: 2}),
        (In1Parallel(), (5, 6, 7), (S(1), R), R, {REDUCE: 1}, {REDUCE: 1}),
        (In1Parallel(), (9, 9, 1), (S(1), R), R, {REDUCE: 1}, {REDUCE: 1}),
        (In1Parallel(output_layouts=S(0)), (5, 6, 7), (S(1), R), S(0), {SCATTER: 1}, {GATHER: 1, REDUCE: 1}),
    ],
)
def test_a_parallel_layer_is_the_layer(ranks, style, sizes, bias, inputs, output, forward, backward):
    ranks.run(on_ranks_style, style, sizes, bias, inputs, output, forward, backward)


def on_ranks_example():
    lines = [line.strip() for line in distributed.__doc__.splitlines() if line.startswith("    ")]
    code = "\n".join(lines).replace('"cuda", (8,)', '"cpu", (torch.distributed.get_world_size(),)')
    assert '"cpu"' in code
    model = torch.nn.ModuleDict({"score": tb.Bilinear(4, 5, 6), "mix": tb.Bilinear(4, 5, 6)})
    exec(code, globals() | {"model": model})
    return [layer.weight.placements for layer in model.values()]


def test_the_docstrings_example(ranks):
    """On as many CPUs as there are ranks."""
    assert ranks.run(on_ranks_example) == [[(S(0),), (S(1),)]] * ranks.size


class Net(torch.nn.Module):
    """Three layers, of which the second takes the outputs of the first as its in1 features."""

    def __init__(self):
        super().__init__()
        self.first = tb.Bilinear(4, 5, 7)
        self.second = tb.Bilinear(7, 5, 3)
        self.last = tb.Bilinear(3, 5, 1)

    def forward(self, x, y):
        return self.last(self.second(self.first(x, y).tanh(), y), y)


def train(wrap, share=slice(None)):
    """Three steps of AdamW on this rank's share of each batch; the parameters after that."""
    torch.manual_seed(0)
    model = Net().double()
    batches = [(tensor(8, 4), tensor(8, 5), tensor(8, 1)) for _ in range(3)]
    wrapped = wrap(model)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.1)
    for batch in batches:
        x, y, target = (whole[share] for whole in batch)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(wrapped(x, y), target).backward()
        optimizer.step()
    return {
        name: parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        for name, parameter in model.named_parameters()
    }


def tensor_parallel(model, mesh):
    return parallelize_module(model, mesh, {"first": OutputParallel(), "second": In1Parallel()})


def fully_sharded(model, mesh):
    for layer in (model.first, model.second):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def on_ranks_train(kind):
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    share = slice(rank * 8 // size, (rank + 1) * 8 // size)
    if kind == "DDP":
        trained = train(DistributedDataParallel, share)
    elif kind == "FSDP2":
        trained = train(lambda model: fully_sharded(model, mesh_of()), share)
    elif kind == "tensor parallel":
        trained = train(lambda model: tensor_parallel(model, mesh_of()))
    else:
        mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "tensor"))
        index, count = mesh["data"].get_local_rank(), size // 2
        share = slice(index * 8 // count, (index + 1) * 8 // count)
        trained = train(lambda model: fully_sharded(tensor_parallel(model, mesh["tensor"]), mesh["data"]), share)
    single = train(lambda model: model)
    for name, parameter in single.items():
        assert_near(trained[name].detach(), parameter.detach(), factor=1e5)  # roundings, of sqrt(variance) near 0 too


@pytest.mark.parametrize("kind", ["DDP", "FSDP2", "tensor parallel", "FSDP2 of tensor parallel"])
def test_training_is_that_of_one_process(ranks, kind):
    ranks.run(on_ranks_train, kind)


def on_ranks_refused():
    mesh = mesh_of()
    lazy = tb.LazyBilinear(3)
    normed = torch.nn.utils.parametrizations.weight_norm(tb.Bilinear(4, 5, 3))
    for layer, error, words in (
        (torch.nn.Bilinear(4, 5, 3), TypeError, "expected a triton_bilinear.Bilinear, got torch.nn"),
        (lazy, ValueError, "not initialised"),
        (normed, ValueError, "parametrised"),
    ):
        with pytest.raises(error, match=words):
            parallelize_module(layer, mesh, In1Parallel())
    layer = parallelize_module(tb.Bilinear(4, 5, 3), mesh, In1Parallel())
    with pytest.raises(ValueError, match="expected 2 of 4 features on rank"):
        layer(torch.randn(6, 4), torch.randn(6, 5))
    with pytest.raises(TypeError, match="by position"):
        layer(torch.randn(6, 2), input2=torch.randn(6, 5))


@pytest.mark.parametrize("ranks", [(2, "torch")], indirect=True)
def test_what_a_style_does_not_take_is_refused(ranks):
    ranks.run(on_ranks_refused)


@pytest.mark.parametrize(
    "imports", [("triton_bilinear", "torch.distributed.tensor"), ("torch.distributed.fsdp", "triton_bilinear")]
)
def test_rules_wait_for_the_import_of_dtensor(imports):
    """Whoever does not use DTensor does not pay for its import; whoever does, has the rules in either order."""
    code = f"""
import sys, torch
first, second = {imports}
__import__(first)
assert first != "triton_bilinear" or "torch.distributed.tensor" not in sys.modules
__import__(second)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
x, y = (DTensor.from_local(torch.ones(3, 4), init_device_mesh("cpu", (1,)), [Shard(0)]) for _ in "xy")
result = torch.ops.triton_bilinear.grad_weight(x, x, y, -1)
assert result.placements[0].is_partial(), result.placements
"""
    subprocess.run([sys.executable, "-c", code], check=True)
