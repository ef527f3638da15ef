"""Stored configs: what serves which problem on which device, and what becomes of files that are not as they should."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from triton_bilinear import planning
from triton_bilinear.planning import SEPARATE, ContractProblem, GradInputsProblem, GradWeightProblem, Plan, dispatch
from triton_bilinear.planning.config import config
from triton_bilinear.planning.dispatch import plan_of, plans_of, predicted_best
from triton_bilinear.planning.problem import ChainProblem, Problem, of_one_row
from triton_bilinear.tuning import sources, store
from triton_bilinear.tuning.devices import DeviceSpec, find_device
from triton_bilinear.tuning.save import file_path, save
from triton_bilinear.tuning.schema import Entry, Measured, bucket, entry_record, gpu_of, read_entry, write_file
from triton_bilinear.tuning.store import StoredConfigWarning
from triton_bilinear.tuning.sweep.entries import make_entry

H100 = find_device("NVIDIA H100 80GB HBM3")
PROBLEM = ContractProblem(4096, 256, 256, 256, "bfloat16", "ieee", "r", 16, 16)
PROBLEMS = (
    PROBLEM,
    GradInputsProblem(4096, 256, 256, 256, "bfloat16", "ieee", "n", 16, 16),
    GradWeightProblem(4096, 256, 256, 256, "bfloat16", "ieee", (16, 16, 16)),
    ChainProblem(100, 1, 128, 128, 128, 128, "bfloat16", "ieee", 16, 3 << 20),
)
FIGURES = Measured(1e-3, 1e-5, 1.25)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder, empty; so is the package's. Every warning is an error."""
    monkeypatch.setenv(store.FOLDER_VARIABLE, str(tmp_path / "user"))
    monkeypatch.setattr(store, "package_folder", lambda: tmp_path / "package")
    for name in ("user", "package"):
        (tmp_path / name).mkdir()
    planning.forget_plans()
    with warnings.catch_warnings():
        warnings.simplefilter("error", StoredConfigWarning)
        yield tmp_path / "user"
    planning.forget_plans()


def predicted(problem: Problem = PROBLEM, device: DeviceSpec = H100) -> Plan:
    """What the cost model takes."""
    plan = plan_of(problem, device)
    assert plan is not None
    assert (plan.origin, plan.source) == ("predicted", "cost model")
    planning.forget_plans()
    return plan


def another(problem: Problem = PROBLEM, device: DeviceSpec = H100, number: int = 0) -> Plan:
    """A plan that the cost model does not take."""
    plans = plans_of(problem, device)
    best = predicted_best(problem, plans)
    return [plan for plan in plans if plan.config not in (best.config, SEPARATE)][number]


def stored(plan: Plan, problem: Problem = PROBLEM, device: DeviceSpec = H100, **changes: Any) -> Entry:
    return replace(make_entry(problem, plan, device), **changes)


def put(entries: Sequence[Entry], device: DeviceSpec, folder: Path) -> Path:
    """Save, and plan anew."""
    path = save(entries, device, folder)
    planning.forget_plans()
    return path


def same(plan: Plan | None, other: Plan) -> bool:
    return plan is not None and all(
        getattr(plan, name) == getattr(other, name) for name in ("config", "order", "splits", "groups")
    )


# Which entry serves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_a_stored_plan_comes_before_the_model(problem: Problem, folder: Path) -> None:
    other = another(problem)
    path = put([make_entry(problem, other, H100, FIGURES)], H100, folder)
    plan = plan_of(problem, H100)
    assert same(plan, other)
    assert (plan.origin, plan.source) == ("measured", str(path))


def test_two_contractions_can_be_stored(folder: Path) -> None:
    problem = PROBLEMS[1]
    assert predicted(problem).config.kernel == "grad_inputs"
    put([make_entry(problem, plans_of(problem, H100)[-1], H100, FIGURES)], H100, folder)
    assert plan_of(problem, H100) is None


def test_users_folder_before_the_packages(folder: Path) -> None:
    first, second = another(number=0), another(number=-1)
    package = put([stored(second)], H100, folder.parent / "package")
    assert plan_of(PROBLEM, H100).source == str(package)
    planning.forget_plans()
    user = put([stored(first)], H100, folder)
    assert plan_of(PROBLEM, H100).source == str(user)


@pytest.mark.parametrize("value", ["", "/nowhere/at/all"])
def test_without_a_users_folder(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put([stored(another())], H100, folder)
    monkeypatch.setenv(store.FOLDER_VARIABLE, value)
    predicted()


def test_users_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.FOLDER_VARIABLE)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert store.user_folder() == Path("/home/somebody/.triton_bilinear")


def test_exact_gpu_then_alias_then_one_alike(folder: Path) -> None:
    """H200 has H100's SMs and shared memory; a driver may call an H100 by a name of the alias table."""
    alias = replace(H100, name="H100 SXM")
    h200 = find_device("NVIDIA H200")
    plans = [another(number=number) for number in (0, 5, 10)]
    for device, plan in zip((h200, alias, H100), plans, strict=True):
        text = write_file(gpu_of(device), [stored(plan)])
        (folder / f"{device.name}.json").write_text(text)
        planning.forget_plans()
        assert same(plan_of(PROBLEM, H100), plan), device.name


@pytest.mark.parametrize(
    ("name", "other"),
    [("NVIDIA A40", "NVIDIA RTX A4000"), ("NVIDIA A100-SXM4-80GB", "NVIDIA A10"), ("NVIDIA L4", "NVIDIA L40")],
)
def test_part_of_a_name_is_no_name(name: str, other: str, folder: Path) -> None:
    device = replace(find_device("NVIDIA A100-SXM4-80GB"), name=name)
    lookalike = replace(device, name=other, sm_count=device.sm_count // 2)
    put([stored(another(device=device), device=device)], device, folder)
    predicted(device=lookalike)


@pytest.mark.parametrize(
    "changes",
    [{"architecture": "sm_100"}, {"shared_memory": 101376}, {"sm_count": 16}, {"sm_count": 114}],
    ids=str,
)
def test_another_gpu_under_the_same_name(changes: dict[str, Any], folder: Path) -> None:
    """A partition of a GPU, say."""
    put([stored(another())], H100, folder)
    predicted(device=replace(H100, **changes))


def test_sizes_served_are_bounded(folder: Path) -> None:
    plan = another()
    put([stored(plan)], H100, folder)
    for inside in ({"B": 2048}, {"B": 8192}, {"P": 288}, {"Q": 224}, {"B": 5000, "R": 272}):
        assert plan_of(replace(PROBLEM, **inside), H100).config == plan.config, inside
    planning.forget_plans()
    for outside in ({"B": 2047}, {"B": 8193}, {"P": 289}, {"Q": 223}, {"B": 16384}, {"R": 512}):
        predicted(replace(PROBLEM, **outside))


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float16"}, {"vector": 8}, {"row_vector": 4}, {"unit": "q"}, {"keep": True}],
    ids=str,
)
def test_problems_of_another_kind_are_not_served(changes: dict[str, Any], folder: Path) -> None:
    put([stored(another())], H100, folder)
    predicted(replace(PROBLEM, **changes))


def test_measured_before_predicted_then_the_nearest(folder: Path) -> None:
    near, far, measured = (another(number=number) for number in (0, 5, 10))
    entries = [
        stored(far, replace(PROBLEM, B=2048)),
        stored(near, replace(PROBLEM, B=4000)),
    ]
    put(entries, H100, folder)
    assert plan_of(PROBLEM, H100).config == near.config
    planning.forget_plans()
    put([make_entry(replace(PROBLEM, B=8000), measured, H100, FIGURES)], H100, folder)
    assert plan_of(PROBLEM, H100).config == measured.config


def test_splits_are_what_the_problem_allows(folder: Path) -> None:
    few_rows = replace(PROBLEM, B=128)
    plan = max(plans_of(few_rows, H100), key=lambda plan: plan.splits)
    put([stored(plan, few_rows)], H100, folder)
    assert plan_of(few_rows, H100).splits == plan.splits
    more_rows = replace(PROBLEM, B=256)
    allowed = {
        each.splits for each in plans_of(more_rows, H100) if (each.config, each.order) == (plan.config, plan.order)
    }
    assert plan_of(more_rows, H100).splits in allowed


def test_a_warm_plan_is_no_lookup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan_of(PROBLEM, H100)
    monkeypatch.setattr(store, "lookup", lambda problem, device: pytest.fail("looked up again"))
    assert plan_of(PROBLEM, H100) is first


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_another_batch_asks_for_no_tile_but_the_stored_one(
    problem: Problem, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged batches are planned at every new size: what holds for all sizes is not worked out again."""
    chosen = another(problem)
    put([stored(chosen, problem)], H100, folder)
    assert same(plan_of(problem, H100), chosen)
    module = dispatch.MODULES[type(problem)]
    asked, plans_with = [], module.plans_with
    monkeypatch.setattr(module, "plans_with", lambda tile, *rest: asked.append(tile.config) or plans_with(tile, *rest))
    monkeypatch.setattr(module, "legal", lambda *_: pytest.fail("legality does not depend on the rows"))
    for name in ("outputs", "A", "D") if isinstance(problem, ChainProblem) else ("B",):
        asked.clear()
        plan = plan_of(replace(problem, **{name: getattr(problem, name) + 1}), H100)
        assert (plan.config, plan.order) == (chosen.config, chosen.order)
        assert asked == [chosen.config]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("gpu", ["NVIDIA H100 80GB HBM3", "NVIDIA B200", "AMD Radeon RX 7900 XTX"])
def test_legal_tiles_depend_on_no_rows(gpu: str, problem: Problem) -> None:
    device, legal_tiles = find_device(gpu), dispatch.MODULES[type(problem)].legal_tiles
    for dtype, precision in (("bfloat16", "ieee"), ("float32", "ieee"), ("float64", "ieee")):
        each = replace(problem, dtype=dtype, precision=precision)
        assert legal_tiles(each, device) == legal_tiles(of_one_row(each), device) != ()


# Stale, foreign, corrupt ----------------------------------------------------------------------------------------------


def expect_model(message: str) -> None:
    """The cost model serves, a warning says why, and says it once."""
    with pytest.warns(StoredConfigWarning, match=message):
        plan = plan_of(PROBLEM, H100)
    assert plan.source == "cost model"
    planning.forget_plans()
    assert plan_of(PROBLEM, H100).source == "cost model"


@pytest.mark.parametrize("name", ["triton", "torch", "ptxas"])
def test_another_compiler_is_reported_once_and_used(name: str, folder: Path) -> None:
    versions = sources.compiler_versions(H100.architecture) | {name: "0.1"}
    plan = another()
    put([stored(plan, versions=versions)], H100, folder)
    with pytest.warns(StoredConfigWarning, match=f"stale.*{name} 0.1"):
        assert same(plan_of(PROBLEM, H100), plan)
    planning.forget_plans()
    assert same(plan_of(PROBLEM, H100), plan)


def test_other_kernels_are_reported_and_not_used(folder: Path) -> None:
    entry = make_entry(PROBLEM, another(), H100, FIGURES)
    put([replace(entry, kernel_hash="0123456789abcdef")], H100, folder)
    expect_model("other kernels")


def test_hash_is_of_the_kernel_and_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    for source in sources._KERNELS.glob("*.py"):
        (kernels / source.name).write_text(source.read_text())
    monkeypatch.setattr(sources, "_KERNELS", kernels)

    def hashes() -> dict[str, str]:
        sources.kernel_hash.cache_clear()
        return {name: sources.kernel_hash(name) for name in ("khatri_rao", "grad_weight", "separate")}

    try:
        before = hashes()
        for file, changed in (
            ("khatri_rao", {"khatri_rao", "separate"}),
            ("helpers", set(before)),
            ("tiles", set(before)),
            ("reduce", set(before)),
            ("chain", set()),
        ):
            path = kernels / f"{file}.py"
            source = path.read_text()
            path.write_text(source + "\n")
            after = hashes()
            assert {name for name in before if before[name] != after[name]} == changed, file
            path.write_text(source)
    finally:
        sources.kernel_hash.cache_clear()


def good_file() -> dict[str, Any]:
    return json.loads(write_file(gpu_of(H100), [stored(another())]))


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    data = good_file()
    change(data)
    return json.dumps(data)


BAD_FILES: dict[str, Callable[[], str | bytes]] = {
    "empty": lambda: "",
    "truncated": lambda: json.dumps(good_file())[:-40],
    "binary": lambda: b"\xff\xfe\x00\x01",
    "deep": lambda: "[" * 200000,
    "a list": lambda: json.dumps([1, 2]),
    "another schema": lambda: changed(lambda data: data.update(schema_version=2)),
    "a schema that is no number": lambda: changed(lambda data: data.update(schema_version=True)),
    "no schema": lambda: changed(lambda data: data.pop("schema_version")),
    "unknown field": lambda: changed(lambda data: data.update(comment="mine")),
    "no gpu": lambda: changed(lambda data: data.update(gpu=None)),
    "entries no list": lambda: changed(lambda data: data.update(entries={})),
    "somebody else's": lambda: json.dumps({"4096": {"BLOCK_SIZE_M": 64, "num_warps": 4}}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_costs_a_warning(kind: str, folder: Path) -> None:
    content = BAD_FILES[kind]()
    (folder / "bad.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    expect_model(r"bad\.json is not used")


def figures(median: float, spread: float) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        measured = {"median_seconds": median, "spread_seconds": spread, "ratio": 1.0}
        data["entries"][0].update(origin="measured", measured=measured)

    return change


def set_to(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at = data["entries"][0]
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value

    return change


BAD_ENTRIES = {
    "unknown field": set_to("speed", value=1),
    "unknown field of the problem": set_to("problem", "layout", value="x"),
    "unknown op": set_to("op", value="matmul"),
    "an op that is a list": set_to("op", value=[]),
    "unknown kernel": set_to("config", "kernel", value="launch_everything"),
    "a path": set_to("config", "kernel", value="../../../etc/passwd"),
    "a kernel that is no name": set_to("config", "kernel", value="\ud800\0"),
    "more than 64 bits": set_to("splits", value=10**400),
    "no time": figures(float("nan"), 0.0),
    "a time before now": figures(-1.0, 0.0),
    "forever": figures(1.0, float("inf")),
    "unknown origin": set_to("origin", value="guessed"),
    "measured without figures": set_to("origin", value="measured"),
    "predicted with figures": set_to("measured", value={"median_seconds": 1.0, "spread_seconds": 0.0, "ratio": 1.0}),
    "no number": set_to("config", "num_warps", value="8"),
    "a truth value": set_to("splits", value=True),
    "a block of nothing": set_to("config", "blocks", "B", value=0),
    "no splits": set_to("splits", value=0),
    "unbounded": set_to("serves", "B", value=[1, 10**9]),
    "range elsewhere": set_to("serves", "B", value=[5000, 6000]),
    "half a range": set_to("serves", "B", value=[4096]),
    "not an object": lambda data: data["entries"].__setitem__(0, "fast"),
    "no versions": set_to("versions", value={}),
}


@pytest.mark.parametrize("kind", BAD_ENTRIES)
def test_a_bad_entry_costs_a_warning(kind: str, folder: Path) -> None:
    (folder / "h100.json").write_text(changed(BAD_ENTRIES[kind]))
    expect_model("entry 1 is not used")


def test_a_bad_entry_does_not_spoil_the_others(folder: Path) -> None:
    data = good_file()
    data["entries"].insert(0, {"op": "contract"})
    (folder / "h100.json").write_text(json.dumps(data))
    with pytest.warns(StoredConfigWarning, match="entry 1 is not used: missing field"):
        assert plan_of(PROBLEM, H100).source == str(folder / "h100.json")


@pytest.mark.parametrize(
    "tile",
    [
        config("khatri_rao", 8, 3, B=128, P=512, Q=4, R=64),  # more registers and shared memory than there are
        config("khatri_rao", 8, 3, B=100, P=256, Q=4, R=16),  # no power of two
        config("khatri_rao", 8, 3, B=128, P=256),
        config("grad_weight", 8, 3, B=64, P=2, Q=128, R=128),
    ],
    ids=str,
)
def test_an_illegal_config_costs_a_warning(tile: planning.Config, folder: Path) -> None:
    entry = stored(another(), config=tile, kernel_hash=sources.kernel_hash(tile.kernel))
    (folder / "h100.json").write_text(write_file(gpu_of(H100), [entry]))
    expect_model("is no plan for")


def test_unreadable_files(folder: Path) -> None:
    (folder / "directory.json").mkdir()
    expect_model(r"directory\.json is not used")


def test_a_users_folder_that_is_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv(store.FOLDER_VARIABLE, str(folder / "file"))
    expect_model("file is not used")


def test_a_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(store.FOLDER_VARIABLE)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    assert store.user_folder() is None


def test_a_file_that_goes_away_is_no_file(folder: Path) -> None:
    (folder / "gone.json").symlink_to(folder / "nothing")
    predicted()


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("figures", [None, FIGURES, replace(FIGURES, ratio=None)], ids=str)
def test_what_is_written_is_read(problem: Problem, figures: Measured | None) -> None:
    entry = make_entry(problem, plans_of(problem, H100)[-1], H100, figures)
    assert read_entry(json.loads(json.dumps(entry_record(entry)))) == entry


def test_every_field_is_named() -> None:
    record = entry_record(stored(another()))
    assert set(record) == {"op", *(field.name for field in fields(Entry))}
    assert set(record["problem"]) == {field.name for field in fields(PROBLEM)}


def test_buckets_are_within_reach() -> None:
    for problem in PROBLEMS:
        for size in (1, 2, 7, 39, 256):
            small = replace(problem, **dict.fromkeys(bucket(problem), size))
            entry = make_entry(small, plans_of(problem, H100)[0], H100)
            assert read_entry(entry_record(entry)).serves == bucket(small)


def test_entries_are_merged(folder: Path) -> None:
    """One for each problem; the newer one, but for a prediction over a measurement."""
    other = replace(PROBLEM, B=8192)
    measured = make_entry(PROBLEM, another(), H100, FIGURES)
    put([measured], H100, folder)
    put([stored(another(number=3)), stored(another(other), other)], H100, folder)
    file = store.read_config_file(file_path(H100, folder))
    assert [entry.problem for entry in file.entries] == [PROBLEM, other]
    assert file.entries[0] == measured
    newer = make_entry(PROBLEM, another(number=4), H100, FIGURES)
    put([newer], H100, folder)
    assert store.read_config_file(file_path(H100, folder)).entries[0] == newer
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "h100-80gb-hbm3.json"]


def test_predictions_for_other_kernels_are_replaced(folder: Path) -> None:
    old = replace(make_entry(PROBLEM, another(), H100, FIGURES), kernel_hash="old")
    gone = stored(another(), replace(PROBLEM, B=77), kernel_hash="old")
    put([old], H100, folder)
    path = file_path(H100, folder)
    path.write_text(write_file(gpu_of(H100), [old, gone]))
    new = stored(another())
    put([new], H100, folder)
    assert store.read_config_file(path).entries == (new,)


def test_a_partition_has_a_file_of_its_own(folder: Path) -> None:
    part = replace(H100, sm_count=16)
    assert put([stored(another())], H100, folder) != put([stored(another(device=part), device=part)], part, folder)


def test_a_file_that_is_not_understood_is_kept(folder: Path) -> None:
    path = file_path(H100, folder)
    path.write_text("what somebody wrote by hand")
    with pytest.warns(StoredConfigWarning, match="is not used"):
        put([stored(another())], H100, folder)
    assert path.with_suffix(".unreadable").read_text() == "what somebody wrote by hand"
    assert same(plan_of(PROBLEM, H100), another())


def test_a_write_that_fails_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put([stored(another())], H100, folder)
    before = path.read_text()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        put([stored(another(number=3))], H100, folder)
    assert path.read_text() == before
    assert sorted(each.name for each in folder.iterdir()) == [".lock", path.name]


def write_one_by_one(first: int, folder: Path) -> None:
    plan = another()
    for rows in range(first, first + 20):
        save([stored(plan, replace(PROBLEM, B=rows))], H100, folder)


def test_two_processes_write_and_a_third_reads(folder: Path) -> None:
    """Nothing is lost, and no reader ever sees half a file."""
    processes = multiprocessing.get_context("fork")
    writers = [processes.Process(target=write_one_by_one, args=(first, folder)) for first in (1000, 2000)]
    for writer in writers:
        writer.start()
    path = file_path(H100, folder)
    while any(writer.is_alive() for writer in writers):
        file = store.read_config_file(path)  # a warning would be an error
        assert file is None or len(file.entries) == len(file.raw)
    assert [writer.exitcode for writer in writers] == [0, 0]
    rows = {entry.problem.B for entry in store.read_config_file(path).entries}
    assert rows == {*range(1000, 1020), *range(2000, 2020)}


def test_threads_write(folder: Path) -> None:
    plan = another()
    entries = [stored(plan, replace(PROBLEM, B=rows)) for rows in range(100, 116)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda entry: put([entry], H100, folder), entries))
    assert {entry.problem.B for entry in store.read_config_file(file_path(H100, folder)).entries} == set(
        range(100, 116)
    )
