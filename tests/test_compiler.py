"""Ahead-of-time compilation: requests, reports, and failures that come back as data."""

import pickle
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
import small_kernels

from triton_bilinear.tuning.compiler import (
    CompiledReport,
    CompileFailure,
    CompileRequest,
    CompileResult,
    kernel_name,
    matrix_count,
    pointer_type,
)
from triton_bilinear.tuning.pool import CompilerPool
from triton_bilinear.tuning.targets import (
    architecture_name,
    expected_matrix_class,
    gpu_target,
    matrix_class,
    product_precisions,
)

NVIDIA = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
AMD = ("gfx942", "gfx1100")
NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def product_request(
    target: str, dtype: str = "fp16", precision: str = "ieee", block: int = 128, block_k: int = 32
) -> CompileRequest:
    pointers = dict.fromkeys(("x_ptr", "w_ptr", "out_ptr"), f"*{dtype}:16")
    sizes = {"B": "i32", "L": "i32", "K": "i32:16", "stride_xb": "i32:16", "stride_wl": "i32:16", "stride_ob": "i32:16"}
    tile = {"BLOCK_B": block, "BLOCK_L": block, "BLOCK_K": block_k, "PRECISION": precision}
    contiguous = dict.fromkeys(("stride_xk", "stride_wk", "stride_ol"), 1)
    return CompileRequest(
        kernel_name(small_kernels.product_forward_kernel),
        target,
        {**pointers, **sizes, **contiguous, **tile},
        num_warps=4 if block <= 64 else 8,
        # Without a bound of its own, ptxas spills a little rather than pass the registers of one occupancy step.
        options={"enable_fp_fusion": True, "maxnreg": 255},
    )


@pytest.fixture(scope="module")
def pool():
    with CompilerPool() as pool:
        yield pool


def compile_one(pool: CompilerPool, request: CompileRequest) -> CompiledReport:
    (result,) = pool.compile_many([request])
    assert isinstance(result, CompiledReport), result
    return result


@pytest.mark.parametrize("target", NVIDIA + AMD)
def test_every_target_compiles_with_its_matrix_instruction(pool, target):
    report = compile_one(pool, product_request(target))
    assert report.name == "product_forward_kernel"
    assert report.matrix_classes == {expected_matrix_class(target, "float16", block_m=128, num_warps=8)}
    assert report.stack_bytes == report.spills == 0
    assert report.registers > 32
    assert report.shared_bytes > 0
    assert report.main_loop is not None
    assert 0 < matrix_count(report.main_loop) < report.main_loop.instructions < report.instructions
    expected_files = {"amdgcn", "hsaco"} if target in AMD else {"ptx", "cubin"}
    assert expected_files < report.artifacts.keys()


def test_every_precision_gets_the_matrix_instruction_that_is_expected(pool):
    requests = [
        product_request(target, dtype, precision, block, block_k=16)
        for target, block in (
            ("sm_80", 32),
            ("sm_90", 32),
            ("sm_90", 64),
            ("sm_100", 64),
            ("gfx942", 32),
            ("gfx1100", 32),
        )
        for dtype, precisions in (("bf16", ("ieee",)), ("fp32", product_precisions(target)))
        for precision in precisions
    ]
    results = pool.compile_many(requests)
    for request, result in zip(requests, results, strict=True):
        assert isinstance(result, CompiledReport), result
        dtype = NAMES[request.arguments["x_ptr"][1:5]]
        tile = {"block_m": request.arguments["BLOCK_B"], "num_warps": request.num_warps}
        expected = expected_matrix_class(request.target, dtype, request.arguments["PRECISION"], **tile)
        assert result.matrix_classes == ({expected} if expected else set()), request


def test_launch_arguments_make_the_same_kernel_as_their_types(pool):
    typed = product_request("sm_90")
    x = torch.empty(64, 48, dtype=torch.float16)
    numbers = {"B": 63, "L": 61, "K": 48, "stride_xb": 48, "stride_wl": 48, "stride_ob": 64}
    launched = replace(
        typed, arguments={**typed.arguments, **numbers, **dict.fromkeys(("x_ptr", "w_ptr", "out_ptr"), x)}
    )
    one, other = (compile_one(pool, request) for request in (typed, launched))
    assert one.artifacts["ttgir"] == other.artifacts["ttgir"]


def test_alignment_matters(pool):
    aligned = product_request("sm_80")
    odd = replace(aligned, arguments={**aligned.arguments, "x_ptr": "*fp16", "stride_xb": "i32"})
    copies = [
        sum(count for opcode, count in compile_one(pool, request).main_loop.opcodes.items() if "LDGSTS" in opcode)
        for request in (aligned, odd)
    ]
    assert copies[0] > copies[1], "rows that start anywhere cannot be copied sixteen bytes at a time"


def test_too_few_registers_report_its_spills(pool):
    request = replace(product_request("sm_80", block=64), options={"maxnreg": 64})
    report = compile_one(pool, request)
    assert report.stack_bytes > 0
    assert report.spills > 0


def test_failures_are_data_in_their_place(pool):
    malformed = CompileRequest(kernel_name(small_kernels.malformed_kernel), "sm_90", {"x_ptr": "*fp32", "SIZE": 3})
    good = product_request("sm_90")
    missing = replace(good, arguments={"x_ptr": "*fp16"})
    unknown = replace(good, arguments={**good.arguments, "M": 3})
    elsewhere = replace(good, kernel="small_kernels:no_such_kernel")
    results = pool.compile_many([malformed, good, missing, unknown, elsewhere])
    assert isinstance(results[1], CompiledReport)
    expected = {0: "power of 2", 2: "w_ptr", 3: "no argument M", 4: "no_such_kernel"}
    for index, text in expected.items():
        failure = results[index]
        assert isinstance(failure, CompileFailure)
        assert text in failure.error


def test_a_worker_that_dies_costs_one_result(tmp_path, monkeypatch):
    source = "import os, sys\nprint('the end', file=sys.stderr, flush=True)\nos.abort()\n"
    (tmp_path / "fatal_import.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    kill = replace(product_request("sm_90"), kernel="fatal_import:kernel")
    with CompilerPool(1) as pool:
        results: list[CompileResult] = pool.compile_many([kill, product_request("sm_80")])
    assert isinstance(results[0], CompileFailure)
    assert "the end" in results[0].error
    assert isinstance(results[1], CompiledReport)


def test_a_worker_that_takes_too_long_is_ended():
    with CompilerPool(1, seconds_per_compile=0.01) as pool:
        (result,) = pool.compile_many([product_request("sm_80")])
    assert isinstance(result, CompileFailure)
    assert "no result after" in result.error


def test_progress_counts_to_the_end(pool):
    seen = []
    pool.compile_many([product_request("sm_80")] * 2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_reports_travel(pool):
    report = compile_one(pool, product_request("sm_80"))
    assert pickle.loads(pickle.dumps(report)) == report


def test_pointer_types():
    assert pointer_type(torch.bfloat16) == "*bf16:16"
    assert pointer_type(torch.float64, aligned=False) == "*fp64"


@pytest.mark.parametrize("name", NVIDIA + AMD)
def test_targets_have_one_name(name):
    assert architecture_name(gpu_target(name)) == name


@pytest.mark.parametrize("name", ["90", "sm90", "cuda:90", "gfx", "H100", ""])
def test_other_spellings_are_refused(name):
    with pytest.raises(ValueError, match="architecture"):
        gpu_target(name)


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("HMMA.16816.F32.BF16", "mma"),
        ("DMMA.8x8x4", "mma"),
        ("HGMMA.64x128x16.F32", "wgmma"),
        ("UTCHMMA", "tcgen05"),
        ("UTCQMMA.2CTA", "tcgen05"),
        ("v_mfma_f32_32x32x8_f16", "mfma"),
        ("v_wmma_f32_16x16x16_f16", "wmma"),
        ("FFMA", None),
        ("UTCBAR", None),
        ("v_fma_f32", None),
    ],
)
def test_matrix_classes(opcode, expected):
    assert matrix_class(opcode) == expected
