"""The commands: the comparison with float64, and the training of the demo."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from triton_bilinear import check, cpu, use_backend
from triton_bilinear.__main__ import main

CASES = {case.name: case for case in check.cases(small=True)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_case_meets_its_bound(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    with use_backend("torch"):
        found = check.errors(case, dtype, torch.device("cpu"), second_order=False)
    assert found
    assert max(found.values()) <= check.bound(dtype, case.terms)


def test_a_planted_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cpu.grad_weight

    def slightly_wrong(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
        real(g, x, y, out)
        out *= 1 + 1e-4

    monkeypatch.setattr(cpu, "grad_weight", slightly_wrong)
    case = CASES["bilinear (7, 17, 8, 3)"]
    with use_backend("torch"):
        found = check.errors(case, torch.float32, torch.device("cpu"), second_order=False)
    assert found["grad 2"] > check.bound(torch.float32, case.terms)
    assert found["grad 1"] <= check.bound(torch.float32, case.terms)


def test_demo_trains_both_layers_alike(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert main(["demo", "--epochs", "2"]) == 0
    assert "torch.nn.Bilinear" in capsys.readouterr().out


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["dance"])
    assert stopped.value.code == 2
