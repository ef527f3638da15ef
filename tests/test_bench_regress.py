"""Performance-regression tests: what is slower is found, what is not is left alone. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import regress, step_worker
from bench.paired import LEAST_BAND, Pair, judge, median_ratio, noise_band
from triton_bilinear.benchmark.cases import CASES, draw
from triton_bilinear.benchmark.measure import Entry, Record
from triton_bilinear.benchmark.report import cpu_name


def synthetic(ratio: float, count: int = 25) -> list[Pair]:
    """Pairs around a ratio, whose times drift by a factor of three meanwhile."""
    return [(ratio * (1 + turn / 8) * (1 + 0.02 * (turn % 5 - 2)), 1 + turn / 8) for turn in range(count)]


def test_a_drift_of_both_is_no_difference() -> None:
    assert median_ratio(synthetic(1.0)).middle == pytest.approx(1.0)
    assert not judge(synthetic(1.0), synthetic(1.0)).slower


@pytest.mark.parametrize("ratio", [1.15, 1.5])
def test_a_slow_down_is_found(ratio: float) -> None:
    verdict = judge(synthetic(ratio), synthetic(1.0))
    assert verdict.slower
    assert verdict.resolution < 0.15


@pytest.mark.parametrize("ratio", [0.5, 0.85, 1.01])
def test_faster_or_hardly_slower_is_fine(ratio: float) -> None:
    assert not judge(synthetic(ratio), synthetic(1.0)).slower


def test_a_tree_that_differs_from_itself_widens_the_band() -> None:
    assert noise_band([(1.0, 1.0)] * 9) == LEAST_BAND
    assert noise_band([(1.2, 1.0)] * 9) == pytest.approx(0.2)
    assert noise_band([(1.0, 1.2)] * 9) == pytest.approx(0.2)
    assert not judge(synthetic(1.15), synthetic(1.2)).slower
    with pytest.raises(ValueError, match="got none"):
        median_ratio([])


class FakeWorker:
    def __init__(self, name: str, calls: list[str]) -> None:
        self._name, self._calls = name, calls

    def seconds(self) -> float:
        self._calls.append(self._name)
        return 1.0


def test_who_goes_first_changes() -> None:
    calls: list[str] = []
    pairs = regress.take_pairs(FakeWorker("a", calls), FakeWorker("b", calls))  # type: ignore[arg-type]
    assert len(pairs) == regress.PAIRS
    assert "".join(calls[:6]) == "abbaab"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_worker_gets_the_tensors_of_the_case(case: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shapes and strides as `draw` gives, through JSON, and the same function."""
    from dataclasses import replace

    case = replace(case, sizes={axis: min(count, 5) for axis, count in case.sizes.items()})  # type: ignore[type-var, attr-defined]
    request = json.loads(json.dumps(regress.request_of(case, "cpu")))
    seen = []

    class Package:
        @staticmethod
        def called(*tensors: torch.Tensor, **keywords: object) -> torch.Tensor:
            seen.append((tensors, keywords))
            return real(*tensors, **keywords)

    import triton_bilinear

    real = getattr(triton_bilinear, request["function"])
    setattr(Package, request["function"], staticmethod(Package.called))
    step_worker.prepare(Package, request)()
    (tensors, keywords), _ = seen
    expected = draw(case, torch.device("cpu")).arguments()
    assert [(t.shape, t.stride()) for t in tensors] == [(t.shape, t.stride()) for t in expected.values()]
    function = case.form.function
    assert keywords == (function.keywords if isinstance(function, partial) else {})


def test_ratios_that_fell_are_named_and_no_others() -> None:
    expected = {
        "a": {"F.bilinear": [10.0, 12.0, 11.0], "linear price": [1.0]},
        "b": {"F.bilinear": [4.0]},
        "gone": {"F.bilinear": [9.0]},
    }
    now = {"a": {"F.bilinear": 8.0, "linear price": 0.9}, "b": {}}
    assert regress.shortfalls(expected, now) == [
        "a: F.bilinear takes 8.00 times as long as ours, expected 10.00 to 12.00"
    ]


def test_runs_are_gathered_where_one_lacks_a_rival_or_a_case() -> None:
    runs = [{"a": {"F.bilinear": 3.0}}, {"a": {"F.bilinear": 4.0, "linear price": 1.0}, "b": {"linear price": 2.0}}]
    assert regress.gathered(runs) == {
        "a": {"F.bilinear": [3.0, 4.0], "linear price": [1.0]},
        "b": {"linear price": [2.0]},
    }


def test_a_device_without_expectations_is_skipped_out_loud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regress, "FILE", tmp_path / "expectations.json")
    monkeypatch.setattr(regress, "measured", lambda *_: pytest.fail("nothing is to be timed"))
    assert regress.main(["--expected", "--case", "tiny"]) == 0
    assert "SKIPPED: no expectations for" in capsys.readouterr().out


def test_expectations_are_written_and_held_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regress, "FILE", tmp_path / "expectations.json")
    measured = iter([10.0, 12.0, 11.0, 9.0, 8.0])
    monkeypatch.setattr(regress, "timed", lambda *_: {"tiny, float32": {"F.bilinear": next(measured)}})
    assert regress.main(["--update"]) == 0
    assert regress.main(["--expected"]) == 0
    assert regress.main(["--expected"]) == 1
    assert "takes 8.00 times as long as ours, expected 10.00 to 12.00" in capsys.readouterr().out


@pytest.mark.parametrize("found", ["wrong numbers", "did not fit"])
def test_a_case_without_a_time_of_ours_fails(
    found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written for it."""
    file = tmp_path / "expectations.json"
    monkeypatch.setattr(regress, "FILE", file)
    case = next(case for case in CASES if case.name == "tiny")
    wrong = Record(case, None, {}, [Entry("ours", skipped="wrong: error 1e+00")])
    monkeypatch.setattr(regress, "measured", lambda *_: [wrong] if found == "wrong numbers" else [])
    assert regress.main(["--update", "--case", "tiny"]) == 2
    assert not file.exists()
    file.write_text(json.dumps({regress.device_key(regress.machine(torch.device("cpu"))): {}}))
    monkeypatch.setattr(regress, "default_device", lambda: torch.device("cpu"))
    assert regress.main(["--expected", "--case", "tiny"]) == 1
    assert capsys.readouterr().err.count("no time of ours for tiny") == 2


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "AMD EPYC, family 25"),
        ("processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n", "AMD EPYC, family 26"),
        ("processor\t: 0\nCPU architecture: 8\n", "CPU"),
        (None, "CPU"),
    ],
    ids=["a Zen 4", "a Zen 5", "not told", "no such file"],
)
def test_cpus_of_one_name_are_told_apart(told: str | None, name: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    if told is not None:
        file.write_text(told)
    assert cpu_name(file) == name


def test_an_unknown_revision_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert regress.main(["--base", "no-such-revision", "--case", "tiny"]) == 2
    assert "no worktree of no-such-revision" in capsys.readouterr().err
