"""Ahead-of-time compilation of a kernel for a named GPU architecture, and a report of what came out. Needs no GPU.

A request names the kernel and gives the arguments that a launch would pass, so it can be sent to another process
(`pool.py`): a process that runs kernels in Triton's interpreter cannot compile them itself.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import amdgcn, sass
from .listing import Instruction, Loop, find_loops
from .targets import gpu_target, matrix_class


@dataclass(frozen=True)
class CompileRequest:
    """A kernel to compile.

    kernel: "package.module:function"; `kernel_name` makes it from the function.
    target: "sm_90", "gfx942", ...
    arguments: every argument without a default, by name. For a compile-time constant its value. For anything else
        either a type, as in "*fp16:16", "*fp32", "i32", "i32:16", "i64", "fp32" (":16" promises a pointer or an
        integer divisible by 16), or what a launch would pass: a number (1 becomes a constant, and multiples of 16 are
        noted, as a launch does) or a tensor of any device.
    options: any other option of Triton's compiler, such as enable_fp_fusion, maxnreg or waves_per_eu.
    below_2gb: every tensor's storage is smaller than that, which a launch on AMD finds out and the compiler uses.
    """

    kernel: str
    target: str
    arguments: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    below_2gb: bool = True

    def __post_init__(self) -> None:
        plain = {
            name: pointer_type(value.dtype, aligned=value.data_ptr() % 16 == 0) if hasattr(value, "data_ptr") else value
            for name, value in self.arguments.items()
        }
        object.__setattr__(self, "arguments", plain)


@dataclass(frozen=True)
class CompiledReport:
    """What the compiler made of a request.

    registers: a thread's; vector registers on AMD. stack_bytes: local memory a thread.
    spills: registers spilt (AMD), or instructions that load from or store to local memory (NVIDIA).
    shared_bytes: shared memory a launch asks for. tensor_memory_columns: of sm_100's tensor memory.
    matrix_instructions: opcode to count, in the whole kernel.
    artifacts: each stage by its file ending: ttir, ttgir, llir, then ptx and cubin, or amdgcn and hsaco.
    """

    name: str
    target: str
    num_warps: int
    num_stages: int
    shared_bytes: int
    tensor_memory_columns: int
    registers: int
    stack_bytes: int
    spills: int
    instructions: int
    matrix_instructions: dict[str, int]
    loops: tuple[Loop, ...]
    artifacts: dict[str, str | bytes] = field(repr=False)

    @property
    def matrix_classes(self) -> frozenset[str]:
        """The kinds of matrix instruction in the kernel: mma, wgmma, tcgen05, mfma, wmma."""
        return frozenset(filter(None, map(matrix_class, self.matrix_instructions)))

    @property
    def main_loop(self) -> Loop | None:
        """The innermost loop that holds most matrix instructions, or None where no loop holds one."""
        working = [loop for loop in self.loops if matrix_count(loop)]
        innermost = [loop for loop in working if not any(loop.contains(other) for other in working)]
        return max(innermost, key=matrix_count, default=None)


@dataclass(frozen=True)
class CompileFailure:
    """A request that did not compile, and why."""

    kernel: str
    target: str
    error: str


CompileResult = CompiledReport | CompileFailure


def matrix_count(loop: Loop) -> int:
    """How many matrix instructions stand in a loop."""
    return sum(_matrix_instructions(loop.opcodes).values())


def kernel_name(kernel: Any) -> str:
    """The name under which another process finds a @triton.jit function, interpreted or not."""
    function = getattr(kernel, "fn", kernel)
    return f"{function.__module__}:{function.__qualname__}"


def compile_kernel(request: CompileRequest) -> CompiledReport:
    """Compile in this process. RuntimeError where kernels are interpreted; else whatever the compiler raises."""
    from triton.compiler import ASTSource, compile

    function = _find_function(request.kernel)
    target = gpu_target(request.target)
    signature, constants, attributes = _bind(function, request, hip=target.backend == "hip")
    options = {"num_warps": request.num_warps, "num_stages": request.num_stages, **request.options}
    compiled = compile(ASTSource(function, signature, constants, attributes), target=target, options=options)
    return _report(request, compiled)


def _find_function(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    from triton.runtime.jit import JITFunction

    if not isinstance(found, JITFunction):
        raise RuntimeError(f"{name} is a {type(found).__name__}, which only a process without the interpreter compiles")
    return found


def _bind(function: Any, request: CompileRequest, hip: bool) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Signature, constants and attributes of the compiler's source, as a launch with these arguments makes them."""
    unknown = request.arguments.keys() - set(function.arg_names)
    if unknown:
        raise ValueError(f"{request.kernel} has no argument {', '.join(sorted(unknown))}")
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[Any, Any] = {}
    for index, parameter in enumerate(function.params):
        if parameter.name not in request.arguments and not parameter.has_default:
            raise ValueError(f"{request.kernel} needs a value for {parameter.name}")
        value = request.arguments.get(parameter.name, parameter.default)
        kind = "constexpr" if parameter.is_constexpr else argument_type(value)
        if kind == "constexpr":
            constants[parameter.name] = value
        name, _, divisor = kind.partition(":")
        signature[parameter.name] = name
        attributes[(index,)] = [["tt.divisibility", 16]] if divisor else []
        if hip and name.startswith("*") and request.below_2gb:
            attributes[(index,)].append(["tt.pointer_range", 32])
    return signature, constants, {key: value for key, value in attributes.items() if value}


def argument_type(value: Any) -> str:
    """An argument's type in the notation of CompileRequest, or "constexpr" where a launch makes it a constant."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        if value == 1:
            return "constexpr"
        width = "i32" if -(2**31) <= value < 2**31 else "i64"
        return f"{width}:16" if value % 16 == 0 else width
    if isinstance(value, float):
        return "fp32"
    if value is None:
        return "constexpr"
    raise TypeError(f"cannot compile for an argument of type {type(value).__name__}")


def pointer_type(dtype: Any, aligned: bool = True) -> str:
    """The notation for a pointer to elements of a torch dtype: "*fp16:16"."""
    from triton._utils import type_canonicalisation_dict

    name = str(dtype).removeprefix("torch.")
    return f"*{type_canonicalisation_dict[name]}{':16' if aligned else ''}"


def _report(request: CompileRequest, compiled: Any) -> CompiledReport:
    read: Callable[[dict[str, Any]], tuple[int, int, int, list[Instruction]]]
    read = _read_amdgcn if "amdgcn" in compiled.asm else _read_cubin
    registers, stack_bytes, spills, listing = read(compiled.asm)
    return CompiledReport(
        name=compiled.name,
        target=request.target,
        num_warps=compiled.metadata.num_warps,
        num_stages=request.num_stages,
        shared_bytes=compiled.metadata.shared,
        tensor_memory_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
        registers=registers,
        stack_bytes=stack_bytes,
        spills=spills,
        instructions=len(listing),
        matrix_instructions=_matrix_instructions(Counter(instruction.opcode for instruction in listing)),
        loops=tuple(find_loops(listing)),
        artifacts=dict(compiled.asm),
    )


def _read_cubin(asm: dict[str, Any]) -> tuple[int, int, int, list[Instruction]]:
    needs = sass.resource_usage(asm["cubin"])
    listing = sass.parse_sass(sass.disassemble(asm["cubin"]))
    spills = sum(instruction.opcode.partition(".")[0] in ("LDL", "STL") for instruction in listing)
    return needs.registers, needs.stack_bytes, spills, listing


def _read_amdgcn(asm: dict[str, Any]) -> tuple[int, int, int, list[Instruction]]:
    needs = amdgcn.resource_usage(asm["amdgcn"])
    return needs.registers, needs.stack_bytes, needs.spills, amdgcn.parse_amdgcn(asm["amdgcn"])


def _matrix_instructions(opcodes: Counter[str]) -> dict[str, int]:
    return {opcode: count for opcode, count in opcodes.items() if matrix_class(opcode)}
