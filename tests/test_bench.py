"""Benchmarks: every rival computes what it claims, wrong ones get no time, and what is skipped says why."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from triton_bilinear import bilinear, cpu, use_backend
from triton_bilinear.__main__ import main
from triton_bilinear.benchmark import measure, memory, rivals, suite
from triton_bilinear.benchmark.cases import CASES, FIELDS, PAIRS, ROWS, Case, batch_sweep, draw, output_sweep
from triton_bilinear.benchmark.measure import Bench, Entry, Record, Settings
from triton_bilinear.benchmark.report import BEST_EINSUM, as_json, duration, size, speedup, summary, table
from triton_bilinear.benchmark.rivals import F_BILINEAR, OURS, Rival, Step
from triton_bilinear.benchmark.roof import Roof, work
from triton_bilinear.benchmark.timing import Sample, time_on_cpu
from triton_bilinear.benchmark.truth import BOUNDS, step_results, truth, worst_error

CPU = torch.device("cpu")
SHORT = Settings(rounds=2, budget=0.5, compile_seconds=0.0)
SMALL = {"b": 3, "l": 5, "m": 7, "n": 6, "d": 2, "s": 4, "t": 3}


def small(case: Case) -> Case:
    return replace(case, sizes={axis: min(count, SMALL[axis]) for axis, count in case.sizes.items()}, cpu_batch=3)


ROW_CASE = small(next(case for case in CASES if case.name == "square 256"))


@pytest.fixture(autouse=True)
def _cpu_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "probes", lambda dtype: {"copy": probe(), "square product": probe()})
    with use_backend("torch"):
        yield


def probe() -> Step:
    tensor = torch.zeros(1)
    return Step(lambda: tensor.add(1), (), tensor, ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_rival_of_every_case_is_right(case: Case) -> None:
    case = replace(small(case), dtype="float64")
    inputs = draw(case, CPU)
    expected = truth(case, inputs)
    for rival in rivals.rivals(case, CPU):
        if rival.compiles:
            continue
        step = rival.build(case, inputs)
        out = step.forward()
        results = step_results(out, step.gradients, step.backward(out))
        assert worst_error(results, expected) <= BOUNDS["float64"], rival.name
        assert results.keys() & expected.keys() >= {"out", "weight"}, rival.name


def test_truth_is_the_definition() -> None:
    """Against autograd over one einsum, in pieces of one sample."""
    for case in (ROW_CASE, replace(ROW_CASE, form=PAIRS, sizes=SMALL), replace(ROW_CASE, form=FIELDS, sizes=SMALL)):
        inputs = draw(replace(case, dtype="float64"), CPU)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.arguments().items()}
        form = case.form
        out = torch.einsum(f"{form.x},lmn,{form.y}->{form.out}", leaves["x"], leaves["weight"], leaves["y"])
        out = out + leaves["bias"].view(-1, *[1] * (len(form.out) - 2))
        expected = step_results(out, case.gradients, torch.autograd.grad(out, list(leaves.values()), inputs.g))
        assert worst_error(truth(case, inputs), expected) < 1e-13


@pytest.mark.parametrize("name", ["out", "x", "y", "weight", "bias"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_result_is_an_error(name: str, dtype: str) -> None:
    """A missing term, or nan, anywhere."""
    expected = truth(ROW_CASE, draw(ROW_CASE, CPU))
    for change in (lambda t: t * 0.8, lambda t: torch.full_like(t, torch.nan)):
        assert not worst_error({**expected, name: change(expected[name])}, expected) <= BOUNDS[dtype]


def test_a_missing_bias_is_seen_in_half_precision() -> None:
    case = replace(next(case for case in CASES if case.name == "square 256"), dtype="bfloat16").resized(b=64, l=8)
    inputs = draw(case, CPU)
    without = bilinear(inputs.x.float(), inputs.y.float(), inputs.weight.float())
    assert worst_error({"out": without}, truth(case, inputs)) > BOUNDS["bfloat16"]


def test_inputs_have_the_strides_of_their_users() -> None:
    by_name = {case.name: small(case) for case in CASES}
    assert draw(by_name["BLOCK VQA"], CPU).x.stride() == (70, 1)
    assert draw(by_name["e3nn / MACE"], CPU).weight.stride() == (1, 30, 5)
    assert draw(by_name["stanza pairwise"], CPU).g.stride() == (60, 1, 15, 5)
    assert draw(by_name["xDeepFM first layer"], CPU).x.shape == (3, 7, 2)


def entry_of(record: Record, name: str) -> Entry:
    return next(entry for entry in record.entries if entry.name == name)


def test_a_case_measured() -> None:
    record = Bench(CPU, SHORT).run(ROW_CASE)
    ours = entry_of(record, OURS)
    assert {part: len(samples) for part, samples in ours.samples.items()} == {"forward": 2, "backward": 2, "step": 2}
    assert all(
        step == pytest.approx(forward + backward)
        for forward, backward, step in zip(
            *(ours.samples[part] for part in ("forward", "backward", "step")), strict=True
        )
    )
    assert "compilation is used up" in (entry_of(record, rivals.COMPILED).skipped or "")
    text = table(record)
    assert all(entry.name in text for entry in record.entries)
    assert "floor" in text
    stored = json.loads(json.dumps(as_json([record], Bench(CPU, SHORT))))
    assert stored["machine"]["versions"]["torch"] == torch.__version__
    assert stored["records"][0]["rivals"][0]["samples"] == ours.samples


def test_whoever_is_wrong_gets_no_time_ours_included(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = cpu.whole.grad_weight

    def wrong(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
        real(g, x, y, out)
        out.mul_(1.01)

    monkeypatch.setattr(cpu.whole, "grad_weight", wrong)
    monkeypatch.setattr("triton_bilinear.cpu.grad_weight", wrong)
    assert suite.run_suite(Bench(CPU, SHORT), [ROW_CASE], ((), ()), suite.Outputs()) == 1
    shown = capsys.readouterr().out
    assert "not timed: wrong" in next(line for line in shown.splitlines() if line.strip().startswith("ours"))


def refused(rival: Rival, settings: Settings = SHORT) -> str:
    record = Bench(CPU, settings).run(ROW_CASE, lambda case, device: [rival])
    entry = entry_of(record, rival.name)
    assert entry.samples == {}
    return entry.skipped or ""


def test_what_is_skipped_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = rivals.rivals(ROW_CASE, CPU)[0]

    def failing(error: Exception) -> Rival:
        def build(*_: object) -> Step:
            raise error

        return replace(ours, build=build)

    assert "failed: ValueError: planted" in refused(failing(ValueError("planted\nmore")))
    assert "ran out of memory" in refused(failing(torch.OutOfMemoryError()))
    monkeypatch.setattr(Bench, "_estimated_seconds", lambda *_: 7.0)
    assert "about 7.0 s" in refused(replace(ours, slow=True))
    monkeypatch.setattr(measure, "available_bytes", lambda device: 2**14)
    assert "GiB" in refused(replace(ours, scratch=("blmn",) * 2**8))


def test_the_estimate_of_a_slow_rival_grows_with_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(CPU, SHORT)
    monkeypatch.setattr(bench, "_timer", lambda step: Sample(1.0, 2.0))
    slow = next(rival for rival in rivals.rivals(ROW_CASE, CPU) if rival.slow)
    assert bench._estimated_seconds(slow, ROW_CASE.resized(b=640, l=8)) == pytest.approx(3 * 10 * 2)


def test_rounds_begin_with_another_rival_each_mix_the_others_and_budgets_end(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    bench = Bench(CPU, Settings(rounds=40, budget=40.0, compile_seconds=0.0))
    steps = {name: probe() for name in "abcd"}
    named = {id(step): name for name, step in steps.items()}

    def timer(step: Step) -> Sample:
        order.append(named[id(step)])
        return Sample(1.0, None)

    monkeypatch.setattr(bench, "_timer", timer)
    bench._sample(steps, {name: Entry(name) for name in steps})
    rounds = ["".join(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert "".join(order[::4]) == "abcd" * 10
    assert {"".join(sorted(names)) for names in rounds} == {"abcd"}
    before_a = {names[names.index("a") - 1] for names in rounds if names[0] != "a"}
    assert before_a == set("bcd")
    order.clear()
    seconds = iter(range(0, 1000, 40))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(seconds)))
    bench._sample(steps, {name: Entry(name) for name in steps})
    assert "".join(sorted(order)) == "abcd"


def test_passes_are_timed_apart() -> None:
    now = [0.0]

    def passing(seconds: float) -> None:
        now[0] += seconds

    class Slow(Step):
        def backward(self, out: Tensor) -> tuple[Tensor, ...]:
            passing(0.006)
            return ()

    tensor = torch.zeros(1)

    def forward() -> Tensor:
        passing(0.002)
        return tensor

    sample = time_on_cpu(Slow(forward, (tensor,), tensor, ()), clock=lambda: now[0])
    assert sample.forward == pytest.approx(0.002)
    assert sample.backward == pytest.approx(0.006)
    assert time_on_cpu(Step(forward, (), tensor, ()), clock=lambda: now[0]).backward is None


def test_extra_memory_is_what_einsum_keeps() -> None:
    """One intermediate result from forward to backward, its gradient beside it, and copies of them at most."""
    case = ROW_CASE.resized(b=512, l=64, m=32, n=32)
    inputs = draw(case, CPU)
    for rival in rivals.rivals(case, CPU):
        if rival.name in rivals.EINSUM_ORDERS or rival.name == F_BILINEAR:
            found = memory.extra_bytes(rival.build(case, inputs), CPU)["step"]
            assert found is not None
            # Results are taken off the peak, and some of them may only come after it.
            to_come = 4 * sum(case.elements(case.axes(name)) for name in ("x", "y", "weight"))
            assert rival.scratch_bytes(case) - to_come <= found <= 2.5 * rival.scratch_bytes(case), rival.name


def test_available_memory_is_some_of_this_machine() -> None:
    assert 0 < memory.available_bytes(CPU) < 2**50


def test_floors() -> None:
    """Of arithmetic where the roof is low, of bytes where memory is slow; pairs have no joint product."""
    B, L, M, N = 10, 20, 30, 40
    problem = ROW_CASE.resized(b=B, l=L, m=M, n=N).problem()
    unit = 2.0 * B * L * M * N
    found = work(problem, Roof(1.0, float("inf"), ""))
    assert (found["forward"].flops, found["step"].floor_seconds) == (unit, 3 * unit)
    moved = work(problem, Roof(float("inf"), 1.0, ""))["forward"].floor_seconds
    assert moved == 4 * (B * M + B * N + B * L + L * M * N + L)
    pairs = replace(ROW_CASE, form=PAIRS, sizes=SMALL).problem()
    assert work(pairs, Roof(1.0, float("inf"), ""))["step"].flops == pairs.least_flops()


def recorded(name: str, seconds: dict[str, float]) -> Record:
    entries = [Entry(rival, samples={"step": [value] * 3}) for rival, value in seconds.items()]
    case = replace(ROW_CASE, name=name)
    roof = Roof(1e9, 1e9, "")
    return Record(case, roof, work(case.problem(), roof), entries)


def test_ratios_of_medians_and_their_geometric_mean() -> None:
    records = [
        recorded("one", {OURS: 1.0, rivals.X_FIRST: 4.0, rivals.Y_FIRST: 2.0, F_BILINEAR: 10.0}),
        recorded("two", {OURS: 1.0, rivals.PAIRS_FIRST: 8.0}),
    ]
    assert speedup(records[0], BEST_EINSUM) == 2.0
    assert speedup(records[1], F_BILINEAR) is None
    text = summary(records)
    assert "4.00 times as fast in the geometric mean of 2 cases; least 2.00 (one)" in text
    assert "10.00 times as fast in the geometric mean of 1 cases" in text


def test_units() -> None:
    assert (duration(0.01234), duration(2.5), duration(3e-6)) == ("12.3 ms", "2.50 s", "3.00 us")
    assert (size(None), size(100), size(3 << 20), size(5 << 30)) == ("-", "100 B", "3.00 MiB", "5.00 GiB")


def fake_package(monkeypatch: pytest.MonkeyPatch, module: str, name: str, function: object) -> None:
    package = module.partition(".")[0]
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    found = types.ModuleType(module)
    setattr(found, name, function)
    monkeypatch.setitem(sys.modules, module, found)
    rivals.installed.cache_clear()


@pytest.fixture
def optional() -> Iterator[dict[str, Rival]]:
    """The rivals of a GPU that packages bring."""
    found = {rival.name: rival for rival in rivals.rivals(ROW_CASE, torch.device("cuda"))}
    yield {name: found[name] for name in (rivals.FLAGGEMS, rivals.NVMATH)}
    rivals.installed.cache_clear()


def test_optional_packages_that_are_missing(optional: dict[str, Rival]) -> None:
    rivals.installed.cache_clear()
    assert refused(optional[rivals.FLAGGEMS]) == "flag_gems is not installed"
    assert refused(optional[rivals.NVMATH]) == "nvmath is not installed"


def test_optional_packages_compute_the_forward_pass(
    monkeypatch: pytest.MonkeyPatch, optional: dict[str, Rival]
) -> None:
    fake_package(monkeypatch, "flag_gems.ops", "bilinear", torch.nn.functional.bilinear)
    fake_package(monkeypatch, "nvmath.tensor", "ternary_contraction", torch.einsum)
    for rival in optional.values():
        entry = entry_of(Bench(CPU, SHORT).run(ROW_CASE, lambda case, device, rival=rival: [rival]), rival.name)
        assert set(entry.samples) == {"forward"}
        assert entry.extra_bytes["step"] is None
    fake_package(monkeypatch, "flag_gems.ops", "bilinear", lambda x, y, weight, bias: x.new_zeros(3, 5))
    assert "wrong" in refused(optional[rivals.FLAGGEMS])
    fake_package(monkeypatch, "flag_gems.ops", "other", None)
    assert "this flag_gems has no bilinear" in refused(optional[rivals.FLAGGEMS])


def test_what_grows() -> None:
    assert [case.sizes["b"] for case in batch_sweep(64000)] == [1000, 4000, 16000, 64000]
    assert [case.sizes["l"] for case in output_sweep(10)] == [1, 4, 16, 64, 256]


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.form for case in CASES} == {ROWS, FIELDS, PAIRS}


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("triton_bilinear.commands.bench.CASES", (replace(ROW_CASE, name="planted"),))
    monkeypatch.setattr("triton_bilinear.commands.bench.QUICK", SHORT)
    file = tmp_path / "results.json"
    assert main(["bench", "--case", "PLANTED", "--dtype", "fp64", "--rounds", "1", "--json", str(file)]) == 0
    assert "planted: B 3, L 5, M 7, N 6; float64" in capsys.readouterr().out
    assert json.loads(file.read_text())["records"][0]["dtype"] == "float64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "nobody"], "no case named nobody"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--rounds", "0"], "rounds must be 1 or more, got 0"),
        (["--json", "/nonexistent/x.json"], "cannot write to /nonexistent/x.json"),
        (["--plot", "/dev/null/plots"], "cannot write to /dev/null/plots"),
    ],
)
def test_the_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    assert main(["bench", "--plot", "nowhere"]) == 2
    assert "bench: matplotlib is not installed; install it with: pip install matplotlib" in capsys.readouterr().err


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from triton_bilinear.benchmark import plots

    records = [Bench(CPU, SHORT).run(ROW_CASE)]
    machine = {"device": "a CPU", "threads": 1, "versions": {"torch": "2"}}
    drawn = plots.draw_plots(records, records, records, tmp_path / "new", machine)
    assert {path.stem for path in drawn} >= {"speedup", "roofline", "batch", "outputs"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_what_is_predicted_says_so() -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("triton")
    from triton_bilinear.benchmark import plots

    figure = plots._predicted()
    assert figure.get_suptitle().startswith("PREDICTED, not measured")
