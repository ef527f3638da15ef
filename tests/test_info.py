"""The command `info`, with a GPU, without one, and without triton."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from triton_bilinear.__main__ import main
from triton_bilinear.backend import triton_installed
from triton_bilinear.commands import info
from triton_bilinear.tuning.devices import find_device

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def with_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: H100)
    monkeypatch.setattr(info, "_spec", lambda device: find_device(H100))


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["info", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_and_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    known = as_json(capsys)
    assert known["versions"]["torch"] == torch.__version__
    assert (known["versions"]["triton"] is not None) == triton_installed()
    assert known["devices"][0]["device"] == "cpu"
    assert len(known["devices"]) == 1 + torch.cuda.device_count()


@pytest.mark.usefixtures("with_h100")
@pytest.mark.skipif(not triton_installed(), reason="needs triton")
def test_a_gpu_and_what_serves_it(capsys: pytest.CaptureFixture[str]) -> None:
    gpu = as_json(capsys)["devices"][1]
    assert (gpu["device"], gpu["name"], gpu["architecture"], gpu["sm_count"]) == ("cuda:0", H100, "sm_90", 132)
    assert gpu["configs"][-1] == {"source": "cost model", "origins": {"predicted": None}}
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert H100 in printed
    assert "configs from cost model: predicted" in printed


@pytest.mark.usefixtures("with_h100")
def test_without_triton_torch_serves_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(info, "triton_installed", lambda: False)
    known = as_json(capsys)
    assert known["versions"]["triton"] is None
    assert "triton is not installed" in known["devices"][1]["served_by"]
    assert main(["info"]) == 0
    assert "triton not installed" in capsys.readouterr().out


@pytest.mark.usefixtures("with_h100")
@pytest.mark.skipif(not triton_installed(), reason="needs triton")
def test_files_of_stored_configs_come_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from triton_bilinear.inspection.problem import StepProblem
    from triton_bilinear.inspection.step import step_ops
    from triton_bilinear.tuning import store
    from triton_bilinear.tuning.schema import Entry, bucket, gpu_of, write_file
    from triton_bilinear.tuning.sources import compiler_versions, kernel_hash

    device = find_device(H100)
    plan = step_ops(StepProblem((512, 64, 64, 64), torch.bfloat16), device)[0].plan
    usable = Entry(
        plan.problem, bucket(plan.problem), plan.config, plan.order, plan.splits, plan.groups, "predicted", None,
        compiler_versions("sm_90"), kernel_hash(plan.config.kernel),
    )  # fmt: skip
    text = write_file(gpu_of(device), [usable, replace(usable, kernel_hash="0" * len(usable.kernel_hash))])
    (tmp_path / "h100.json").write_text(text)
    monkeypatch.setenv(store.FOLDER_VARIABLE, str(tmp_path))
    store.forget()
    try:
        first = as_json(capsys)["devices"][1]["configs"][0]
    finally:
        store.forget()
    assert first == {"source": str(tmp_path / "h100.json"), "origins": {"predicted": 1}}
