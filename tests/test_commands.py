"""The commands: the comparison with float64, and the training of the demo."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from triton_bilinear import cpu, use_backend
from triton_bilinear.__main__ import main
from triton_bilinear.commands import check
from triton_bilinear.commands.check.bounds import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Precision, exact, worst_error
from triton_bilinear.commands.check.problems import problems

CPU = torch.device("cpu")


def findings(precision: Precision) -> list[check.Finding]:
    setting = check.Setting("torch", CPU, precision, "small")
    return [finding for problem in problems("small") for finding in check.check_problem(problem, setting)]


@pytest.mark.parametrize("precision", [FLOAT64, FLOAT32, FLOAT16, BFLOAT16], ids=lambda precision: precision.name)
def test_every_result_meets_its_bound(precision: Precision) -> None:
    found = findings(precision)
    assert {finding.problem.operation for finding in found} == {
        "bilinear",
        "bilinear_form",
        "pairwise_bilinear",
        "linear",
    }
    assert [check.line(finding) for finding in found if finding.missed] == []


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], None]) -> None:
    """Have the CPU path's grad_weight go wrong."""
    real = cpu.grad_weight

    def wrong(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
        real(g, x, y, out)
        if out.numel():
            change(out)

    monkeypatch.setattr(cpu, "grad_weight", wrong)


def raising(out: Tensor) -> None:
    raise RuntimeError("planted")


@pytest.mark.parametrize(
    "change", [lambda out: out.mul_(1 + 1e-5), lambda out: out.view(-1)[-1:].fill_(torch.nan)], ids=["wrong", "nan"]
)
def test_a_planted_error_is_seen_where_it_is(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], None]) -> None:
    plant(monkeypatch, change)
    missed = {
        (finding.problem.operation, finding.quantity)
        for finding in findings(FLOAT32)
        if finding.missed and finding.quantity in ("forward", "grad x", "grad y", "grad weight", "grad bias")
    }
    assert missed == {("bilinear", "grad weight"), ("bilinear_form", "grad weight")}


def test_an_exception_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, raising)
    failed = [finding for finding in findings(FLOAT32) if finding.missed]
    assert failed
    assert all("RuntimeError: planted" in check.line(finding) for finding in failed)


def test_a_result_of_another_dtype_is_an_error() -> None:
    reference = exact(lambda x: {"forward": 2 * x}, (torch.ones(3),))["forward"]
    with pytest.raises(ValueError, match="expected"):
        worst_error(torch.full((3,), 2.0, dtype=torch.float64), reference, FLOAT32)


def test_the_exit_status_says_whether_a_bound_was_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "settings", lambda: iter([check.Setting("torch", CPU, FLOAT32, "small")]))
    assert main(["check"]) == 0
    assert "0 missed" in capsys.readouterr().out
    plant(monkeypatch, lambda out: out.mul_(1.001))
    assert main(["check"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_kernels_meet_their_bounds(backend: str, device: torch.device) -> None:
    """One problem of each function; the command checks all of them."""
    first = {problem.operation: problem for problem in reversed(list(problems("small")))}
    setting = check.Setting(backend, device, FLOAT32, "small")
    for problem in first.values():
        assert [check.line(finding) for finding in check.check_problem(problem, setting) if finding.missed] == []


def test_demo_trains_both_layers_alike(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    with use_backend("torch"):
        assert main(["demo", "--epochs", "2"]) == 0
    assert "torch.nn.Bilinear" in capsys.readouterr().out


@pytest.mark.parametrize("epochs", ["0", "-3"])
def test_demo_needs_an_epoch(epochs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--epochs", epochs]) == 2
    assert f"demo: expected --epochs of 1 or more, got {epochs}" in capsys.readouterr().err


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["dance"])
    assert stopped.value.code == 2
