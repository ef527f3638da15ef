"""The tuning sweep, with a device and a timer that are not real: what is measured, refused, saved and resumed."""

from __future__ import annotations

import importlib
import json
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton import OutOfResources

from triton_bilinear import planning
from triton_bilinear.__main__ import main
from triton_bilinear.gpu.device import device_of
from triton_bilinear.gpu.launch import Launch
from triton_bilinear.inspection.problem import StepProblem, step_of
from triton_bilinear.planning import SEPARATE, ChainProblem, ContractProblem, GradInputsProblem, GradWeightProblem, Plan
from triton_bilinear.planning.dispatch import plan_of, plans_of
from triton_bilinear.planning.problem import Problem
from triton_bilinear.tuning import store
from triton_bilinear.tuning.devices import device_names, find_device
from triton_bilinear.tuning.save import saved_entries
from triton_bilinear.tuning.schema import Entry, Measured
from triton_bilinear.tuning.sweep import measure as measuring
from triton_bilinear.tuning.sweep import problems as step_problems_of
from triton_bilinear.tuning.sweep.entries import make_entry
from triton_bilinear.tuning.sweep.measure import Machine, Outcome, measure, sweep
from triton_bilinear.tuning.sweep.problems import NAMED_SHAPES, step_problems
from triton_bilinear.tuning.sweep.task import Task, make_task
from triton_bilinear.tuning.sweep.timer import middle
from triton_bilinear.tuning.sweep.verify import Verifier

INTERPRETED = device_of(torch.empty(0))
# Small enough to be interpreted.
CONTRACT = ContractProblem(24, 16, 16, 16, "float16", "ieee", "r", 16, 16)
KEEP = ContractProblem(24, 2, 16, 16, "float16", "ieee", "r", 16, 16, keep=True)
JOINT = GradInputsProblem(24, 16, 16, 16, "float16", "ieee", "n", 16, 16)
WEIGHT = GradWeightProblem(24, 16, 16, 16, "float16", "ieee", (16, 16, 16))
# The form and its gradients for x and for the weight, of B 2, S 5, T 6, L 3, M 16, N 24.
PAIRS = ChainProblem(6, 1, 5, 24, 6, 16, "float16", "ieee", 16, 2 * 5 * 16 + 3 * 16 * 24 + 2 * 6 * 24)
PAIRS_X = ChainProblem(2, 3, 5, 24, 16, 6, "float16", "ieee", 4, 2 * 3 * 5 * 6 + 2 * 6 * 24 + 3 * 16 * 24)
PAIRS_WEIGHT = ChainProblem(3, 2, 16, 6, 24, 5, "float16", "ieee", 4, 2 * 5 * 16 + 3 * 2 * 5 * 6 + 2 * 6 * 24)

Seconds = Callable[[Plan], float]


@dataclass(frozen=True)
class FakeMachine(Machine):
    """Runs nothing: writes the right results, computed in float64, unless a plan is told to misbehave."""

    tasks: dict[int, Task] = field(default_factory=dict)
    wrong: Callable[[Plan], bool] = lambda plan: False
    failing: Callable[[Plan], bool] = lambda plan: False
    ran: list[Plan] = field(default_factory=list)

    def run(self, launches: Iterable[Launch]) -> None:
        plan = plan_in(launches)
        self.ran.append(plan)
        if self.failing(plan):
            raise OutOfResources(200000, 100000, "shared memory")
        arguments = next(iter(launches)).arguments
        u, v, weight = (arguments[f"{name}_ptr"] for name in ("u", "v", "t"))
        result = torch.einsum("iq,ir,pqr->ip", u.double(), v.double(), weight.double()) + OUT["bias"].double()
        OUT["out"].copy_(result + self.wrong(plan))


# The tensors of the task that is being measured: a launch of a split plan has a workspace for its result.
OUT: dict[str, torch.Tensor] = {}


def plan_in(launches: Iterable[Launch]) -> Plan:
    plan = next(launch.plan for launch in launches if launch.plan is not None)
    assert plan is not None
    return plan


class FakeTimer:
    """Says how long the plan takes that runs."""

    def __init__(self, machine: FakeMachine, seconds: Seconds, interrupt_at: int | None = None) -> None:
        self.machine, self.seconds, self.left = machine, seconds, interrupt_at

    def __call__(self, run: Callable[[], None]) -> list[float]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        run()
        seconds = self.seconds(self.machine.ran[-1])
        return [0.9 * seconds, seconds, 1.5 * seconds]


def all_sound(plans: Sequence[tuple[Task, Plan]]) -> list[list[str]]:
    return [[] for _ in plans]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder; the package has none. Tasks are noted in OUT."""
    monkeypatch.setenv(store.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(store, "package_folder", lambda: tmp_path / "package")

    def noted(*arguments: Any) -> Task:
        task = make_task(*arguments)
        OUT.update(task.outputs, bias=task.inputs[-1])
        return task

    monkeypatch.setattr(measuring, "make_task", noted)
    planning.forget_plans()
    yield tmp_path
    planning.forget_plans()


def machine(**behaviour: Any) -> FakeMachine:
    return FakeMachine(INTERPRETED, torch.device("cpu"), **behaviour)


def key(plan: Plan) -> tuple[object, ...]:
    return plan.config, plan.order, plan.splits


def contenders() -> list[Plan]:
    """What is measured for CONTRACT, the plan in use first."""
    fake = machine()
    measure(CONTRACT, fake, FakeTimer(fake, lambda plan: 1.0), all_sound)
    return list({key(plan): plan for plan in fake.ran}.values())


# One problem ----------------------------------------------------------------------------------------------------------


def test_the_fastest_is_kept_with_its_figures() -> None:
    in_use, *others = contenders()
    assert key(in_use) == key(plan_of(CONTRACT, INTERPRETED))
    assert len(others) >= 2
    fake = machine()
    timer = FakeTimer(fake, lambda plan: 1e-3 if key(plan) == key(others[1]) else 4e-3)
    entry = measure(CONTRACT, fake, timer, all_sound).entry
    assert (entry.config, entry.order, entry.splits) == key(others[1])
    assert entry.origin == "measured"
    assert entry.measured.median_seconds == pytest.approx(1e-3)
    assert entry.measured.spread_seconds == pytest.approx(middle([0.9e-3, 1e-3, 1.5e-3] * 2)[1])
    assert entry.measured.ratio == pytest.approx(4)


def test_the_plan_in_use_stays_where_it_is_the_fastest() -> None:
    in_use, *_ = contenders()
    fake = machine()
    entry = measure(CONTRACT, fake, FakeTimer(fake, lambda plan: 1 + (key(plan) != key(in_use))), all_sound).entry
    assert (entry.config, entry.order, entry.splits) == key(in_use)
    assert entry.measured.ratio == 1


def test_a_win_that_does_not_last_is_none() -> None:
    """A plan that was faster once, and is not next to the plan in use, does not replace it."""
    in_use, other, *_ = contenders()
    seen: list[Plan] = []

    def seconds(plan: Plan) -> float:
        seen.append(plan)
        lucky = key(plan) == key(other) and sum(key(each) == key(other) for each in seen) == 1
        return 0.5 if lucky else 1.0 if key(plan) == key(in_use) else 2.0

    fake = machine()
    entry = measure(CONTRACT, fake, FakeTimer(fake, seconds), all_sound).entry
    assert (entry.config, entry.order, entry.splits) == key(in_use)


def test_a_candidate_that_is_wrong_is_not_timed() -> None:
    _, other, *_ = contenders()
    timed: list[Plan] = []
    fake = machine(wrong=lambda plan: key(plan) == key(other))

    def seconds(plan: Plan) -> float:
        timed.append(plan)
        return 1.0

    outcome = measure(CONTRACT, fake, FakeTimer(fake, seconds), all_sound)
    assert outcome.entry is not None
    assert key(other) not in map(key, timed)
    assert [str(other.config) in line and "an error of" in line for line in outcome.rejected] == [True]


def test_a_candidate_that_writes_nothing_is_wrong() -> None:
    """Right results of the candidate before are not taken for its own."""
    _, other, *_ = contenders()

    @dataclass(frozen=True)
    class Idle(FakeMachine):
        def run(self, launches: Iterable[Launch]) -> None:
            if key(plan_in(launches)) != key(other):
                super().run(launches)

    idle = Idle(INTERPRETED, torch.device("cpu"))
    outcome = measure(CONTRACT, idle, FakeTimer(idle, lambda plan: 1.0), all_sound)
    assert any("not finite" in line for line in outcome.rejected)
    assert all(str(other.config) in line for line in outcome.rejected)


def test_a_candidate_that_does_not_launch_is_passed_over() -> None:
    _, other, *_ = contenders()
    fake = machine(failing=lambda plan: key(plan) == key(other))
    outcome = measure(CONTRACT, fake, FakeTimer(fake, lambda plan: 1.0), all_sound)
    assert outcome.entry is not None
    assert ["out of resource" in line for line in outcome.rejected] == [True]


def test_a_plan_in_use_that_does_not_launch_has_no_ratio() -> None:
    in_use, *_ = contenders()
    fake = machine(failing=lambda plan: key(plan) == key(in_use))
    outcome = measure(CONTRACT, fake, FakeTimer(fake, lambda plan: 1.0), all_sound)
    assert outcome.entry.measured.ratio is None
    assert (outcome.entry.config, outcome.entry.order, outcome.entry.splits) != key(in_use)


def test_what_the_compiler_finds_fault_with_is_not_run() -> None:
    _, other, *_ = contenders()
    fake = machine()
    sound = lambda plans: [["8 bytes of stack"] if key(plan) == key(other) else [] for _, plan in plans]  # noqa: E731
    outcome = measure(CONTRACT, fake, FakeTimer(fake, lambda plan: 1.0), sound)
    assert key(other) not in map(key, fake.ran)
    assert any("8 bytes of stack" in line for line in outcome.rejected)


def test_no_plan_left_is_no_entry(folder: Path) -> None:
    fake = machine(failing=lambda plan: True)
    (outcome,) = sweep([CONTRACT], fake, FakeTimer(fake, lambda plan: 1.0), folder, all_sound)
    assert outcome.entry is None
    assert len(outcome.rejected) == len(contenders())
    assert saved_entries(INTERPRETED, folder).entries == ()


# Sweeps ---------------------------------------------------------------------------------------------------------------

SEVERAL = [replace(CONTRACT, B=rows) for rows in (24, 100, 400)]


def run_sweep(problems: Sequence[Problem], folder: Path, interrupt_at: int | None = None) -> list[Outcome]:
    fake = machine()
    return list(sweep(problems, fake, FakeTimer(fake, lambda plan: 1.0, interrupt_at), folder, all_sound))


def saved_problems(folder: Path) -> set[Problem]:
    return {entry.problem for entry in saved_entries(INTERPRETED, folder).entries}


def test_an_interrupted_sweep_goes_on_where_it_was(folder: Path) -> None:
    one = len(contenders())
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SEVERAL, folder, interrupt_at=one + 1)
    assert saved_problems(folder) == {SEVERAL[0]}
    outcomes = run_sweep(SEVERAL, folder)
    assert [outcome.resumed for outcome in outcomes] == [True, False, False]
    assert saved_problems(folder) == set(SEVERAL)
    assert all(outcome.resumed for outcome in run_sweep(SEVERAL, folder))


@pytest.mark.parametrize("changes", [{"kernel_hash": "old"}, {"versions": {"triton": "0", "torch": "0", "ptxas": "0"}}])
def test_what_is_out_of_date_is_measured_again(changes: dict[str, Any], folder: Path) -> None:
    (first,) = run_sweep([CONTRACT], folder)
    measuring.save([replace(first.entry, **changes)], INTERPRETED, folder)
    planning.forget_plans()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", store.StoredConfigWarning)
        (second,) = run_sweep([CONTRACT], folder)
    assert not second.resumed
    assert second.entry == first.entry


def test_what_was_found_is_planned_with(folder: Path) -> None:
    _, other, *_ = contenders()
    fake = machine()
    timer = FakeTimer(fake, lambda plan: 1 + (key(plan) != key(other)))
    list(sweep([CONTRACT], fake, timer, folder, all_sound))
    plan = plan_of(CONTRACT, INTERPRETED)
    assert key(plan) == key(other)
    assert plan.origin == "measured"


def test_two_sweeps_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each saves what it finds; neither loses what the other found."""
    both = threading.Barrier(2)
    real, plan = measuring.save, plan_of(CONTRACT, INTERPRETED)

    def found(problem: Problem) -> Entry:
        return make_entry(problem, plan, INTERPRETED, Measured(1.0, 0.0, 1.0))

    def together(*arguments: Any) -> Path:
        both.wait(60)
        return real(*arguments)

    monkeypatch.setattr(measuring, "save", together)
    monkeypatch.setattr(measuring, "measure", lambda problem, *_: Outcome(problem, found(problem)))
    halves = [[replace(CONTRACT, B=rows) for rows in range(first, first + 10)] for first in (100, 200)]
    threads = [
        threading.Thread(target=lambda half=half: list(sweep(half, machine(), middle, folder, all_sound)))
        for half in halves
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert saved_problems(folder) == {*halves[0], *halves[1]}


# Tasks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [CONTRACT, KEEP, JOINT, WEIGHT, PAIRS, PAIRS_X, PAIRS_WEIGHT], ids=str)
def test_real_kernels_pass_and_a_planted_error_does_not(problem: Problem) -> None:
    """In the interpreter: the machine runs the launches, the verifier agrees, and sees one wrong element."""
    task = make_task(problem, INTERPRETED, torch.device("cpu"))
    verifier = Verifier(task)
    plan = plan_of(problem, INTERPRETED) or plans_of(problem, INTERPRETED)[-1]
    verifier.clear()
    assert verifier.errors()
    Machine(INTERPRETED, torch.device("cpu")).run(task.launches(plan))
    assert verifier.errors() == []
    for name, output in task.outputs.items():
        element = output.flatten()[-1].clone()
        output.view(-1)[-1] += 0.5
        assert [error.split(":")[0] for error in verifier.errors()] == [name]
        output.view(-1)[-1] = element


def test_two_contractions_are_a_contender_of_the_joint_product() -> None:
    task = make_task(JOINT, INTERPRETED, torch.device("cpu"))
    separate = plans_of(JOINT, INTERPRETED)[-1]
    assert separate.config == SEPARATE
    verifier = Verifier(task)
    verifier.clear()
    Machine(INTERPRETED, torch.device("cpu")).run(task.launches(separate))
    assert verifier.errors() == []


@pytest.mark.parametrize("shape", [*NAMED_SHAPES["targets"], *NAMED_SHAPES["users"]], ids=str)
def test_a_task_is_the_problem_that_it_was_made_for(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors lie as the planner was told: what is launched on them asks for the same problem."""
    device = find_device("NVIDIA H100 80GB HBM3")
    problems = step_problems(step_of(shape, torch.bfloat16), device)
    kinds = {ContractProblem, GradWeightProblem} if len(shape) == 4 else {ChainProblem}
    assert {type(problem) for problem in problems} >= kinds
    asked: list[Problem] = []
    for name in ("contract", "grad_inputs", "grad_weight", "chain"):
        module = importlib.import_module(f"triton_bilinear.gpu.{name}")
        planner = getattr(module, f"plan_{name}")
        monkeypatch.setattr(
            module,
            planner.__name__,
            lambda problem, spec, planner=planner: asked.append(problem) or planner(problem, spec),
        )
    for problem in problems:
        asked.clear()
        make_task(problem, device, torch.device("meta")).launches(None)
        assert asked[0] == problem


def test_a_chain_of_no_pairwise_form_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a problem of a pairwise form"):
        make_task(replace(PAIRS, inputs=1), INTERPRETED, torch.device("cpu"))


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to tune"),
        (["--shape", "1,2,3"], "expected a shape"),
        (["--shape", "16,16,16,16", "--dtype", "int8"], "unknown dtype"),
        (["--shape", "16,16,16,16"], "no GPU here to measure on; predict for one with: tune --predict --gpu NAME"),
        (["--shape", "16,16,16,16", "--predict"], "--predict and --gpu NAME belong together"),
        (["--shape", "16,16,16,16", "--gpu", "L4"], "--predict and --gpu NAME belong together"),
        (["--shape", "16,16,16,16", "--predict", "--gpu", "nothing"], "unknown GPU"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available() and "no GPU" in message:
        pytest.skip("there is a GPU")
    assert main(["tune", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_predict_fills_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For real, with the compiler, but only the forward pass."""
    monkeypatch.setattr(step_problems_of, "step_problems", lambda *step: step_problems(*step)[:1])
    command = ["tune", "--predict", "--gpu", "NVIDIA L4", "--shape", "512,32,32,32", "--dtype", "fp16"]
    assert main([*command, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    device = find_device("NVIDIA L4")
    entries = saved_entries(device, folder).entries
    assert len(lines) == len(entries) == 1
    assert all((line["entry"]["origin"], line["entry"]["measured"]) == ("predicted", None) for line in lines)
    planning.forget_plans()
    assert plan_of(entries[0].problem, device).source == str(folder / "l4.json")


def test_predict_into_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(store.FOLDER_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr("triton_bilinear.tuning.sweep.predict.compile_plans", lambda plans, *_: all_sound(plans))
    assert main(["tune", "--predict", "--gpu", "NVIDIA L4", "--shape", "512,32,32,32"]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_predict_takes_the_next_plan_where_the_compiler_finds_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = find_device("NVIDIA L4")
    first: dict[Problem, Plan] = {}

    def faulty_at_first(plans: Sequence[tuple[Task, Plan]], *_: Any) -> list[list[str]]:
        return [["spills"] if first.setdefault(task.problem, plan) is plan else [] for task, plan in plans]

    monkeypatch.setattr("triton_bilinear.tuning.sweep.predict.compile_plans", faulty_at_first)
    assert main(["tune", "--predict", "--gpu", "NVIDIA L4", "--shape", "512,32,32,32"]) == 0
    for entry in saved_entries(device, folder).entries:
        if entry.config != SEPARATE:
            assert (entry.config, entry.order) != (first[entry.problem].config, first[entry.problem].order)


def test_every_gpu_has_problems() -> None:
    for name in device_names():
        assert step_problems(StepProblem((4096, 1, 1024, 1024), torch.bfloat16), find_device(name))
