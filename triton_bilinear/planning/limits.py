"""What a tile needs of a device, and whether the device has it: the legality predicate of planner, sweep and tests."""

from __future__ import annotations

from math import inf

from ..tuning.devices import DeviceSpec
from ..tuning.targets import asynchronous_unit
from .config import Config, product_shape
from .cost import uses_matrix_unit
from .problem import ContractProblem, GradInputsProblem, Problem, itemsize, sum_bytes
from .reads import elements_of_a_thread, reads

# What `registers` may come to before something is spilt, read off kernels compiled for every architecture: an
# asynchronous unit takes its operands from shared memory, tcgen05 keeps accumulators in a memory of its own until the
# epilogue wants them all, and the others hold fragments of both operands in registers too.
_REGISTERS = {
    "khatri_rao": {"mma": 110, "wgmma": 200, "tcgen05": 170},
    "project": {"mma": 79, "wgmma": 130, "tcgen05": 130},
    "grad_inputs": {"mma": 80, "wgmma": 140, "tcgen05": 92},
    "grad_weight": {"mma": 130, "wgmma": 200, "tcgen05": 200},
    "chain": {"mma": 110, "wgmma": 177, "tcgen05": 190},
}

# The same of tcgen05's grad_inputs in half precision where it walks g, in tiles no deeper than the second number.
_WALKED, _NO_DEEPER = 120, 64

# The share of those that is left where an element of an operand takes two registers, where both operands are held in
# two parts (tf32x3), or whole, for products without matrix instructions; and where tcgen05, which takes operands of 32
# bits in one order only, has to be given others by way of registers.
_FLOAT64, _TWO_PARTS, _WHOLE, _TURNED = 0.7, 0.45, 0.45, 0.7

# Without matrix instructions a thread holds its rows and its columns of both operands through the depth of the tile.
# What `registers` and those may come to, in the kernels whose operands are long beside their result.
_WITH_OPERANDS = {"khatri_rao": 195, "project": 195, "chain": 290}

# The same of a gradient of a weight for sm_120, where ptxas comes to the stack with more, by 8 to 24 bytes: of tiles
# with several p, and with few, whose q are many.
_SEVERAL_WITH_OPERANDS, _FEW_WITH_OPERANDS = 283, 277

# The same of a gradient of a weight for AMD's consumer GPUs; and of all kernels with their matrix instructions, which
# on gfx11 want every operand in both halves of a wave (gfx12, where the same tiles spill, is taken to be alike).
_RDNA = ("gfx11", "gfx12")
_WITH_OPERANDS_OF_RDNA = 400
_WITH_OPERANDS_OF_WMMA = {"khatri_rao": 195, "project": 193, "grad_inputs": 190, "grad_weight": 150, "chain": 220}

# Elements of a chain's result that may change threads on their way out; more of them do for wgmma's float32 alone. (Of
# odd strides 8192 do for tcgen05 too, in 8 KiB more than is said here, of 227.)
_FEW_ENOUGH = {"mma": 8192, "wgmma": 8192, "tcgen05": 4096}

# Registers of a thread's part of a long factor (see `_for_long_factor`); fewer are no trouble.
_LONG = 16


def matrix_unit(config: Config, device: DeviceSpec, dtype: str) -> str:
    """How the device multiplies this tile: "wgmma", "tcgen05" (both asynchronous), or "mma" for all else."""
    unit = asynchronous_unit(device.architecture) or "mma"
    return unit if dtype != "float64" and product_shape(config)[0] >= 64 else "mma"


def accumulators(config: Config, dtype: str) -> int:
    """Accumulator registers of a thread, with what lives beside them through the whole loop."""
    size = dict(config.blocks)
    rows, columns, _ = product_shape(config)
    elements = rows * columns
    if config.kernel == "grad_inputs":
        elements += 2 * rows * size["N"]  # y and the growing dy
    elif config.kernel == "project":
        elements += rows * size["P"]
    elif config.kernel == "chain":
        elements = size["A"] * (size["C"] + size["D"])
    return elements * sum_bytes(dtype) // 4 // (32 * config.num_warps)


def loads(config: Config, dtype: str, vectors: tuple[int, int], held: bool = False) -> int:
    """How often a thread loads in a step of the loop, each time from an address of its own.

    vectors: the bytes of a load of the product's left and right operand.
    """
    size = dict(config.blocks)
    rows, columns, depth = product_shape(config)
    right = depth * columns
    match config.kernel:
        case "khatri_rao":
            left = rows * (size["Q"] + size["R"])
        case "grad_weight":
            left = depth * (size["P"] + size["Q"])
        case "chain":
            # The operands of the first product, and that of the second, whose addresses do not outlive its load.
            left, right = size["E"] * (size["A"] + size["C"]), size["C"] * size["D"] // 2
        case _:
            left = 0 if held else rows * depth
    threads = 32 * config.num_warps
    runs = (max(1, vector // itemsize(dtype)) for vector in vectors)
    return sum(-(-elements // (run * threads)) for elements, run in zip((left, right), runs, strict=True))


def registers(config: Config, dtype: str, vectors: tuple[int, int], held: bool = False) -> int:
    """Registers of a thread that live through the loop: accumulators, and two for each address."""
    return accumulators(config, dtype) + 2 * loads(config, dtype, vectors, held)


def _made(config: Config, unit: str) -> int:
    """Elements of a left operand that is made in registers, and stays there in two parts.

    tcgen05 has it written to its own memory; of the others' short Khatri-Rao tiles `_TWO_PARTS` takes care.
    """
    if config.kernel == "chain":
        return config["A"] * config["C"]
    made = config.kernel == "khatri_rao" and unit == "wgmma"
    return config["B"] * config["Q"] * config["R"] if made else 0


def _operands(config: Config, dtype: str, parts: int) -> float:
    """Registers for one of so many parts of the result, were it square: its rows and columns of both operands."""
    rows, columns, depth = product_shape(config)
    side = (rows * columns / parts) ** 0.5
    return 2 * side * depth * itemsize(dtype) / 4


def _for_long_factor(config: Config, problem: Problem, vectors: tuple[int, int], one_by_one: bool) -> int:
    """Registers that ptxas takes beyond those of `registers` for a factor whose other one is a single column.

    It is read as it is multiplied, all of it in a step: with many addresses and masks where its vectors, or in the
    Khatri-Rao order the weight's, are of less than 16 bytes. Of projections it is v, beside operands in two parts.
    """
    size = dict(config.blocks)
    rows, _, depth = product_shape(config)
    narrow = min(vectors) < 16
    match config.kernel:
        case "khatri_rao" if size["Q"] == 1:
            elements = rows * size["R"]
        case "project" if size["P"] == 1 and problem.precision == "tf32x3":
            elements = rows * size["R"]
        case "grad_weight" if size["P"] == 1:
            elements, narrow = depth * size["Q"], one_by_one or vectors[0] < 16
        case _:
            return 0
    long = elements * itemsize(problem.dtype) // 4 // (32 * config.num_warps)
    return 2 * long if narrow and long >= _LONG else 0


def shared_bytes(
    config: Config,
    device: DeviceSpec,
    dtype: str,
    held: bool = False,
    precision: str = "ieee",
    split: bool = True,
) -> int:
    """Shared memory that the tile needs at most, as the compiler lays it out: in the loop, or behind it.

    held: g is loaded once and kept (grad_inputs). precision: of float32 products. split: the sums are stored as such,
    for a second pass.
    """
    loop = _loop_bytes(config, device, dtype, held)
    unit = matrix_unit(config, device, dtype)
    rows, columns, depth = product_shape(config)
    if precision == "tf32x3" and unit != "mma":
        # The second part of the right operand, of a chain's second product of both.
        chained = config.kernel == "chain"
        loop += (config["C"] * (config["A"] + config["D"]) if chained else depth * columns) * itemsize(dtype)
    # What is stored changes threads, once the loop's buffers are free.
    item = sum_bytes(dtype) if split else itemsize(dtype)
    match config.kernel:
        case "khatri_rao" | "grad_weight" if unit != "tcgen05":
            return max(loop, rows * columns * item)
        case "chain" if rows * config["D"] <= _FEW_ENOUGH[unit] or (split and unit == "wgmma"):
            return max(loop, rows * config["D"] * item)
    return loop


def _loop_bytes(config: Config, device: DeviceSpec, dtype: str, held: bool) -> int:
    """Of the software-pipelined loop.

    An operand that an asynchronous matrix unit reads has a buffer for each stage; one that passes through registers, or
    that the unit does not fetch itself, has one less.
    """
    size, item = dict(config.blocks), itemsize(dtype)
    rows, columns, depth = product_shape(config)
    waiting = max(config.num_stages - 1, 1)
    unit = matrix_unit(config, device, dtype)
    streamed = waiting if unit == "mma" else config.num_stages
    right = depth * columns * item
    match config.kernel:
        case "khatri_rao":
            # With a single q the product is an operand of tcgen05's as it was loaded.
            factors = streamed if unit == "tcgen05" and size["Q"] == 1 else waiting
            # Elsewhere it changes threads on its way there, where u does not.
            moves = unit != "tcgen05" and _stays_in_threads(rows * size["Q"], config, device)
            product = depth * rows * item if moves else 0
            return right * streamed + rows * (size["Q"] + size["R"]) * item * factors + product
        case "grad_weight":
            # With a single p the product is an operand of tcgen05's as it was loaded, else it lies beside the others.
            factors = streamed if unit == "tcgen05" and size["P"] == 1 else waiting
            moves = size["P"] > 1 if unit == "tcgen05" else _stays_in_threads(depth * size["P"], config, device)
            product = depth * rows * item if moves else 0
            return right * streamed + depth * (size["P"] + size["Q"]) * item * factors + product
        case "grad_inputs" if held:
            # g stays; a step's tiles and the sums that change threads, or behind the steps dy, take turns in the rest.
            sums = max(4096, rows * size["M"] * 2 * sum_bytes(dtype), _sums_of_tcgen05(config, unit))
            return rows * depth * item + max(right * streamed + sums, rows * size["N"] * sum_bytes(dtype))
        case "grad_inputs":
            # Where rows are too few for the warps, several share a row, and add up dy in shared memory.
            sums = 8 * config.num_warps * size["N"] * sum_bytes(dtype) if rows < 16 * config.num_warps else 0
            return max((right + rows * depth * item) * streamed, sums, _sums_of_tcgen05(config, unit))
        case "chain":
            # The second product's operands lie where those of the first one lay, at times but for a tile of Q.
            # (The left one is in tcgen05's own memory, where it is of 16 bits.)
            inner = size["E"] * (size["A"] + size["C"]) * item
            left = 0 if unit == "tcgen05" and item == 2 else size["A"]
            return max(inner * streamed, size["C"] * (left + size["D"] + size["E"]) * item)
        case _:
            return (right + rows * depth * item) * streamed


def _stays_in_threads(elements: int, config: Config, device: DeviceSpec) -> bool:
    """Whether a factor's tile is so small that it is loaded a step ahead (reads.py), and multiplied where it is."""
    return device.vendor == "nvidia" and elements_of_a_thread(elements, config) == 1


def _sums_of_tcgen05(config: Config, unit: str) -> int:
    """What the sums of grad_inputs that change threads take under Triton 3.6; under later ones less."""
    return 8 * config["B"] * config["N"] if unit == "tcgen05" else 0


def holds_g(config: Config, L: int) -> bool:
    """Whether grad_inputs keeps all of g's columns on chip with this tile."""
    return config["L"] >= L


def legal(config: Config, device: DeviceSpec, problem: Problem, order: tuple[str, ...]) -> bool:
    """Whether the device has the registers and the shared memory that the tile needs for the problem in this order."""
    held = isinstance(problem, GradInputsProblem) and holds_g(config, problem.L)
    asynchronous = asynchronous_unit(device.architecture) is not None and problem.dtype != "float64"
    if asynchronous and product_shape(config)[0] < 64:
        return False  # 64 rows cost the asynchronous unit no more time than fewer rows cost the other one
    if isinstance(problem, ContractProblem) and _goes_by_stack(config, device, problem):
        return False
    vectors = reads(config, problem, order)
    one_by_one = not uses_matrix_unit(device, problem.dtype, problem.precision)
    needed = registers(config, problem.dtype, vectors, held)
    if device.vendor == "nvidia":
        needed += _for_long_factor(config, problem, vectors, one_by_one)
    if isinstance(problem, GradInputsProblem) and not held:
        needed += 8 + config["L"] // 128  # one more loop around the product
    if isinstance(problem, ContractProblem) and problem.keep:
        needed += 2 * accumulators(config, problem.dtype)  # stored in every step, each with an address of its own
    if problem.precision == "tf32x3":
        needed += _made(config, matrix_unit(config, device, problem.dtype)) // (32 * config.num_warps)
    if needed > _most(config, device, problem, held):
        return False
    if not _holds_operands(config, device, problem.dtype, needed, one_by_one):
        return False
    return shared_bytes(config, device, problem.dtype, held, problem.precision) <= device.shared_memory


def _holds_operands(config: Config, device: DeviceSpec, dtype: str, needed: int, one_by_one: bool) -> bool:
    """Whether registers are left beside those needed where a thread holds its part of both operands too."""
    if one_by_one:
        return needed + int(_operands(config, dtype, 32 * config.num_warps)) <= _with_operands(config, device)
    if device.architecture.startswith(_RDNA):
        # Either half of a wave, 16 lanes, holds all of the wave's part.
        return needed + int(_operands(config, dtype, config.num_warps) / 16) <= _WITH_OPERANDS_OF_WMMA[config.kernel]
    return True


def _with_operands(config: Config, device: DeviceSpec) -> float:
    """What registers and operands may come to without matrix instructions."""
    if config.kernel == "grad_weight" and device.architecture == "sm_120":
        return _SEVERAL_WITH_OPERANDS if config["P"] >= 8 else _FEW_WITH_OPERANDS
    if config.kernel == "grad_weight" and device.architecture.startswith(_RDNA):
        return _WITH_OPERANDS_OF_RDNA
    return _WITH_OPERANDS.get(config.kernel, inf)


def _goes_by_stack(config: Config, device: DeviceSpec, problem: ContractProblem) -> bool:
    """Whether ptxas puts 8 bytes of a product on the stack, with registers to spare: seen where wgmma takes several q.

    Of rows of float32 that are read in vectors of 8 bytes.
    """
    unit = matrix_unit(config, device, problem.dtype)
    several = config.kernel == "khatri_rao" and config["Q"] > 1
    return several and unit == "wgmma" and problem.dtype == "float32" and problem.row_vector == 8


def may_split(config: Config, device: DeviceSpec, problem: ContractProblem) -> bool:
    """Whether a thread has the registers to store partial sums, which are not rounded to half their size before.

    All of tcgen05's accumulators come into registers at once; with a mask of rows beside them 128 are too many.
    """
    masked = problem.B % config["B"] > 0
    return (
        not masked
        or matrix_unit(config, device, problem.dtype) != "tcgen05"
        or accumulators(config, problem.dtype) < 128
    )


def _most(config: Config, device: DeviceSpec, problem: Problem, held: bool) -> float:
    """What `registers` may come to. held: g is loaded once and kept (grad_inputs)."""
    unit = matrix_unit(config, device, problem.dtype)
    walked = config.kernel == "grad_inputs" and not held and config["L"] <= _NO_DEEPER
    if walked and unit == "tcgen05" and itemsize(problem.dtype) == 2:
        return _WALKED
    return _REGISTERS[config.kernel][unit] * _share(config, device, problem)


def _share(config: Config, device: DeviceSpec, problem: Problem) -> float:
    if not uses_matrix_unit(device, problem.dtype, problem.precision):
        return _WHOLE
    if problem.dtype == "float64":
        return _FLOAT64
    if problem.precision == "tf32x3":
        return _TWO_PARTS
    turned = config.kernel == "grad_inputs" and matrix_unit(config, device, problem.dtype) == "tcgen05"
    return _TURNED if turned and problem.dtype == "float32" else 1.0
