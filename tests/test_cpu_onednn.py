"""When the CPU path's products of float32 are oneDNN's, and that it is given no operand on which it is slow."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from test_cpu import LAYOUTS, PRIMITIVES, by_onednn, check, make
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from triton_bilinear import cpu
from triton_bilinear.cpu import matrix_unit, onednn, orders, units, whole

ZEN_5 = {"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": True, "avx512_bf16": True}
ZEN_4 = {"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": False, "avx512_bf16": True}
ZEN_3 = {"cpu_name": "AMD EPYC", "avx512_f": False}
COOPER_LAKE = {"cpu_name": "Intel Xeon", "avx512_f": True, "avx512_bf16": True}
XEON = {"cpu_name": "Intel Xeon", "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """What was found out of the CPU, and planned for it, is forgotten before a test and after it."""
    of_cpu = (onednn.is_there, onednn.by_halves, matrix_unit._unit)
    functions = (*of_cpu, orders.plan_contract, orders.plan_joint, orders.plan_weight)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


class Products(TorchDispatchMode):
    """The right operands that oneDNN was given, as (K, columns)."""

    def __init__(self) -> None:
        super().__init__()
        self.rights: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mkldnn._linear_pointwise.default:
            self.rights.append(args[1].t())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS[:-1], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in pieces"])
def test_it_is_given_dense_matrices(in_pieces, name, layout, monkeypatch):
    """On others it is a thousand times as slow, with the same numbers: of whole numbers, whose sums are exact."""
    by_onednn(monkeypatch)
    inputs, results = make(name, torch.float32, layout, b=150, p=6, q=12, r=10)
    for tensor in inputs:
        tensor.mul_(4).round_()
    with Products() as products, mock.patch.object(whole, "LARGEST", 0 if in_pieces else whole.LARGEST):
        getattr(cpu, name)(*inputs, *results)
    assert products.rights
    assert all(onednn.is_dense(right) for right in products.rights)
    check(name, inputs, results)


@pytest.mark.parametrize(
    ("capabilities", "serves", "kind"),
    [
        (ZEN_5, True, units.BESIDE_AVX2),
        (ZEN_4, True, units.BESIDE_AVX2),
        (ZEN_3, False, None),
        (COOPER_LAKE, False, units.AVX512),
        (XEON, False, units.AMX),
        ({}, False, None),
    ],
    ids=["Zen 5", "Zen 4", "Zen 3", "Cooper Lake", "Xeon", "another"],
)
def test_which_cpus_it_serves(capabilities, serves, kind, monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch is built without oneDNN")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    device = torch.device("cpu")
    assert onednn.serves(torch.float32, device) == serves
    assert matrix_unit._unit() == kind
    assert not onednn.serves(torch.float64, device)
    assert not onednn.serves(torch.float32, torch.device("cuda"))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.serves(torch.float32, device)


def test_what_pays():
    rows = torch.empty(64, 1024)
    assert onednn.pays(rows, torch.empty(1024, 1024))
    assert not onednn.pays(rows[:, :4], torch.empty(4, 1024)), "sums too short for a copy of the result"
    assert not onednn.pays(rows, torch.empty(1024, 8)), "too small"
    strided = torch.empty(1024, 1024)[:, :512]
    assert onednn.pays(rows, strided), "enough rows for a copy of the right operand"
    assert not onednn.pays(rows[:8], strided)
    assert not onednn.pays(rows, torch.empty(1024, 1024)[:, :513]), "a copy of more than a buffer"
    assert not onednn.pays_to_copy(torch.empty(2048, 64), torch.empty(64, 1024)), "a copy of more than a buffer"


@pytest.mark.parametrize(("capabilities", "few_pay"), [(ZEN_5, True), (ZEN_4, False)], ids=["Zen 5", "Zen 4"])
def test_a_copy_of_the_left_operand_pays(capabilities, few_pay, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    few, many = torch.empty(1024, 256), torch.empty(1024, 512)
    assert onednn.pays(torch.empty(64, 1024), few)
    assert onednn.pays(torch.empty(1024, 64).t(), few) == few_pay
    assert onednn.pays(torch.empty(1024, 64).t(), many)


@pytest.mark.parametrize("bias", [torch.randn(64, 2)[:, 0], torch.randn(1).expand(64)], ids=["a column", "expanded"])
def test_a_bias_that_is_not_dense(bias, monkeypatch):
    by_onednn(monkeypatch)
    (u, v, weight, _), results = make("contract", torch.float32, b=128, p=64, q=8, r=8)
    with Products() as products:
        cpu.contract(u, v, weight, bias, *results)
    assert products.rights
    check("contract", [u, v, weight, bias], results)
