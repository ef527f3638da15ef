"""The command `compile`: what it writes, what it says of it, and how it fails."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from triton_bilinear.__main__ import main
from triton_bilinear.backend import triton_installed
from triton_bilinear.commands import compile as command

if not triton_installed():
    pytest.skip("needs triton", allow_module_level=True)

from triton_bilinear.inspection import compiled
from triton_bilinear.inspection.compiled import step_launches
from triton_bilinear.inspection.problem import StepProblem
from triton_bilinear.inspection.work import launch_work
from triton_bilinear.tuning.devices import find_device

GPUS = ("NVIDIA H100 80GB HBM3", "AMD Instinct MI300X")
SHAPES = ((4096, 256, 256, 256), (2048, 64, 32, 32))
FIELDS = """
    name op file grid num_warps num_stages shared_bytes registers stack_bytes config origin mma_flops useful_flops
    bytes_min matrix_instructions
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and kernels of one call for all GPUs and shapes."""
    folder = tmp_path_factory.mktemp("compiled") / "made" / "by the command"
    options = [part for gpu in GPUS for part in ("--gpu", gpu)]
    options += [part for shape in SHAPES for part in ("--shape", ",".join(map(str, shape)))]
    assert main(["compile", *options, "--dtype", "bf16", "--out", str(folder)]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["failures"] == []
    assert manifest["versions"]["triton"]
    return folder, manifest["kernels"]


def test_every_launch_of_every_step_is_in_the_manifest(written):
    _, kernels = written
    expected = [
        (gpu, list(shape), each.op.name, each.launch.kernel.__name__, [*each.launch.grid, 1])
        for gpu in GPUS
        for shape in SHAPES
        for each in step_launches(StepProblem(shape, torch.bfloat16), find_device(gpu))
    ]
    assert [(k["gpu"], k["shape"], k["op"], k["name"], k["grid"]) for k in kernels] == expected
    assert {"forward", "grad_weight"} <= {kernel["op"] for kernel in kernels}


def test_every_kernel_is_fully_described(written):
    _, kernels = written
    for kernel in kernels:
        assert [name for name in FIELDS.split() if name not in kernel] == []
        assert kernel["stack_bytes"] == kernel["spills"] == 0
        assert kernel["origin"] in ("measured", "predicted", "safe")
        assert kernel["shared_bytes"] <= find_device(kernel["gpu"]).shared_memory
        B, L, M, N = kernel["shape"]
        if kernel["name"] == "reduce_partials_kernel":
            assert kernel["mma_flops"] == kernel["useful_flops"] == kernel["bytes_min"] == 0
            assert kernel["matrix_instructions"] == {}
        else:
            assert kernel["mma_flops"] >= kernel["useful_flops"] == 2 * B * L * M * N
            assert kernel["bytes_moved"] > 0.99 * kernel["bytes_min"] > 0
            assert all(count > 0 for count in kernel["matrix_instructions"].values())
            assert kernel["matrix_instructions"]


def test_files_are_there_and_do_not_collide(written):
    folder, kernels = written
    files = [kernel[key] for kernel in kernels for key in ("file", "text_file")]
    assert len(set(files)) == len(files)
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.json"}
    for kernel in kernels:
        amd = kernel["target"].startswith("gfx")
        assert (folder / kernel["file"]).read_bytes()[:4] == b"\x7fELF"
        assert Path(kernel["file"]).suffix == (".hsaco" if amd else ".cubin")
        text = (folder / kernel["text_file"]).read_text()
        assert kernel["name"] in text


def test_parameters_are_those_of_the_ptx(written):
    """So that a cubin can be launched by hand: ours in their order, then two pointers to scratch memory."""
    folder, kernels = written
    nvidia = [kernel for kernel in kernels if kernel["text_file"].endswith(".ptx")]
    for kernel in nvidia:
        text = (folder / kernel["text_file"]).read_text()
        declared = re.search(r"\.entry \w+\((.*?)\)", text, re.DOTALL)
        assert declared is not None
        kinds = re.findall(r"\.param \.(u64|u32|b64|b32)", declared[1])
        expected = ["64" if p["type"].startswith(("*", "i64")) else "32" for p in kernel["parameters"]]
        assert [kind[1:] for kind in kinds] == [*expected, "64", "64"]
        assert not {p["name"] for p in kernel["parameters"]} & kernel["constants"].keys()


def test_issue_ratios_are_given_for_nvidia(written):
    _, kernels = written
    for kernel in kernels:
        issue = kernel["issue"]
        counts = issue["warp_instructions"]
        per_warp = counts["prologue"] + sum(counts["loops"]) + counts["epilogue"]
        assert issue["instructions_per_tile"] == per_warp * kernel["num_warps"]
        assert (issue["ratio"] is not None) == (bool(kernel["mma_flops"]) and not kernel["target"].startswith("gfx"))


def test_mma_flops_are_those_of_the_launch(written):
    _, kernels = written
    steps = [
        each
        for gpu in GPUS
        for shape in SHAPES
        for each in step_launches(StepProblem(shape, torch.bfloat16), find_device(gpu))
    ]
    assert [k["mma_flops"] for k in kernels] == [launch_work(each.launch).mma_flops for each in steps]


def test_equal_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch):
    """Two batches of the same layer differ in nothing that is compiled in."""
    asked = []

    class Pool:
        def compile_many(self, requests, progress):
            asked.extend(requests)
            return [str(request.arguments["B"]) for request in requests]

    gpu = find_device("H100")
    launches = [
        each
        for batch in (65536, 131072, 65537)
        for each in step_launches(StepProblem((batch, 64, 64, 64), torch.bfloat16), gpu)
        if each.op.name == "forward" and each.first
    ]
    results = compiled.compile_launches(launches, Pool())  # type: ignore[arg-type]
    assert results[0] == results[1] == "131072"
    assert results[2] == "65537"
    assert len(asked) == 2


def fail(options: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a call with these options fails with."""
    given = {"--gpu": "H100", "--dtype": "bf16", "--shape": "64,64,64,64"} | options
    assert main(["compile", *(part for option in given.items() for part in option)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"--gpu": "NVIDIA Foo"}, "NVIDIA H100 80GB HBM3"),
        ({"--shape": "64,64,64"}, "B,L,M,N"),
        ({"--dtype": "int3"}, "bf16"),
    ],
)
def test_errors_take_one_line(tmp_path, capsys, options, expected):
    assert expected in fail({"--out": str(tmp_path / "new"), **options}, capsys)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in fail({"--out": str(tmp_path / "file")}, capsys)


def test_a_kernel_that_does_not_compile_fails_the_command(tmp_path, capsys, monkeypatch):
    real = compiled.compile_request

    def broken(launch, device):
        request = real(launch, device)
        if launch.kernel.__name__ == "grad_weight_kernel":
            object.__setattr__(request, "kernel", "triton_bilinear.kernels.grad_weight:no_such_kernel")
        return request

    monkeypatch.setattr(compiled, "compile_request", broken)
    options = ["--gpu", "A100", "--dtype", "fp16", "--shape", "64,64,64,64", "--out", str(tmp_path), "--json"]
    assert main(["compile", *options]) == 1
    captured = capsys.readouterr()
    manifest = json.loads(captured.out)
    assert [failure["op"] for failure in manifest["failures"]] == ["grad_weight"]
    assert "forward" in {kernel["op"] for kernel in manifest["kernels"]}
    (line,) = captured.err.splitlines()
    assert "no_such_kernel" in line
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest


def test_without_triton_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "triton_installed", lambda: False)
    assert "pip install triton" in fail({"--out": str(tmp_path)}, capsys)
