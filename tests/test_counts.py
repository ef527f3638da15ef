"""The guard against regressions: what makes a kernel worse is seen, and nothing else is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import counts
from bench.counts import Counts, compare
from triton_bilinear.inspection.compiled import compile_request, step_launches
from triton_bilinear.inspection.problem import StepProblem
from triton_bilinear.planning import ContractProblem, Plan, plan_contract
from triton_bilinear.tuning.devices import DeviceSpec, find_device
from triton_bilinear.tuning.pool import CompilerPool

CONTRACT = import_module("triton_bilinear.gpu.contract")
CASE = (counts.A100, StepProblem((2048, 64, 64, 64), torch.bfloat16, gradients=()))
STEP = "NVIDIA A100-SXM4-80GB, bfloat16 2048,64,64,64"


@pytest.fixture(scope="module")
def measured() -> dict[str, Counts]:
    return counts.measure([CASE])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command, with a file of its own and one case."""
    monkeypatch.setattr(counts, "FILE", tmp_path / "counts.json")
    monkeypatch.setattr(counts, "CASES", [CASE])
    monkeypatch.setattr(sys, "argv", ["counts.py"])
    return tmp_path / "counts.json"


def worse(before: dict[str, Counts], now: dict[str, Counts]) -> dict[str, tuple[Any, Any]]:
    return {change.count: (change.before, change.now) for change in compare(before, now) if change.worse}


def changed(measured: dict[str, Counts], **counts: Any) -> dict[str, Counts]:
    """The measured step with other counts for its first kernel."""
    step = measured[STEP]
    name = next(iter(step["kernels"]))
    return {STEP: step | {"kernels": step["kernels"] | {name: step["kernels"][name] | counts}}}


def small_tile(problem: ContractProblem, device: DeviceSpec) -> Plan:
    """The planner's plan with a quarter of the rows in a tile: each reads the weight for fewer of them."""
    plan = plan_contract(problem, device)
    blocks = tuple((axis, size // 4 if axis == "B" else size) for axis, size in plan.config.blocks)
    return replace(plan, config=replace(plan.config, blocks=blocks))


def test_a_planted_spill_is_caught(measured: dict[str, Counts]) -> None:
    launches = step_launches(CASE[1], find_device(CASE[0]))
    requests = [
        replace(request, options={**request.options, "maxnreg": 64})
        for request in (compile_request(each.launch, each.device) for each in launches)
    ]
    with CompilerPool() as pool:
        spilling = {STEP: counts.step_counts(launches, pool.compile_many(requests))}
    found = worse(measured, spilling)
    assert found["stack_bytes"][0] == 0 < found["stack_bytes"][1]
    assert found["spills"][0] == 0 < found["spills"][1]
    assert not found.keys() & {"mma_over_useful", "tile_bytes_over_minimum"}


def test_a_planted_tile_that_doubles_the_traffic_is_caught(
    measured: dict[str, Counts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTRACT, "plan_contract", small_tile)
    before, now = worse(measured, counts.measure([CASE]))["tile_bytes_over_minimum"]
    assert now > 1.9 * before


def test_the_command_compares_with_what_it_wrote(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert counts.main() == 1, "nothing to compare with"
    assert "--update" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["counts.py", "--update"])
    assert counts.main() == 0
    monkeypatch.setattr(sys, "argv", ["counts.py"])
    assert counts.main() == 0
    assert "0 counts worse" in capsys.readouterr().out
    monkeypatch.setattr(CONTRACT, "plan_contract", small_tile)
    assert counts.main() == 1
    assert "WORSE" in capsys.readouterr().out


def test_other_compilers_counts_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "measure", lambda cases: {})
    monkeypatch.setattr(sys, "argv", ["counts.py", "--update"])
    for compiler in ("one", "another"):
        monkeypatch.setattr(counts, "compiler", lambda compiler=compiler: compiler)
        assert counts.main() == 0
    assert file.read_text().count('"one"') == file.read_text().count('"another"') == 1


def test_the_same_tree_has_no_changes(measured: dict[str, Counts]) -> None:
    assert compare(measured, measured) == []


@pytest.mark.parametrize("count", ["registers", "shared_bytes", "loop_instructions", "issue_ratio", "stack_bytes"])
def test_more_is_worse_and_less_is_better(measured: dict[str, Counts], count: str) -> None:
    more = changed(measured, **{count: 10**9})
    assert worse(measured, more).keys() == {count}
    (better,) = compare(more, measured)
    assert (better.count, better.worse) == (count, False)


def test_fewer_matrix_instructions_in_the_loop_are_worse(measured: dict[str, Counts]) -> None:
    assert worse(measured, changed(measured, loop_matrix_instructions=0)).keys() == {"loop_matrix_instructions"}


def test_another_tile_may_have_other_registers_but_not_spill(measured: dict[str, Counts]) -> None:
    other = changed(measured, config="another", registers=10**9, loop_instructions=10**9, stack_bytes=8)
    assert worse(measured, other).keys() == {"stack_bytes"}
    assert {change.count for change in compare(measured, other) if change.worse is None} == {
        "config",
        "registers",
        "loop_instructions",
    }


def test_what_is_gone_or_broken_is_worse(measured: dict[str, Counts]) -> None:
    assert worse(measured, {}).keys() == {"step"}
    step = measured[STEP]
    name = next(iter(step["kernels"]))
    broken = {STEP: step | {"kernels": step["kernels"] | {name: {"error": "out of everything"}}}}
    assert worse(measured, broken) == {"error": (None, "out of everything")}
    assert worse(broken, measured) == {}


def test_every_case_is_in_the_file() -> None:
    """Whatever the compiler was, so that a case that is added is also counted."""
    for stored in json.loads(counts.FILE.read_text()).values():
        assert set(stored) == {counts.case_name(gpu, problem) for gpu, problem in counts.CASES}
