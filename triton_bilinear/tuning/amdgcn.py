"""AMD machine code: what an amdgcn assembly text says of its kernel."""

import re
from dataclasses import dataclass

from .listing import Instruction

_LABEL = re.compile(r"^(\.L\w+):")
_OPCODE = re.compile(r"^\t([a-z]\w*)(?:\s+([^;/]*))?")
_ENDS = ("s_endpgm", "s_setpc_b64", "s_swappc_b64")


@dataclass(frozen=True)
class Resources:
    """What a kernel needs: vector registers (accumulation ones included), scratch bytes a lane, spilt registers."""

    registers: int
    stack_bytes: int
    spills: int


def resource_usage(assembly: str) -> Resources:
    """Read from the metadata at the end of the assembly."""
    return Resources(
        registers=_number(assembly, "vgpr_count"),
        stack_bytes=_number(assembly, "private_segment_fixed_size"),
        spills=_number(assembly, "vgpr_spill_count"),
    )


def parse_amdgcn(assembly: str) -> list[Instruction]:
    """The instructions of the kernel in an amdgcn assembly text."""
    rows: list[tuple[str, str]] = []
    index_of: dict[str, int] = {}
    for line in assembly.splitlines():
        if line.startswith("\t.section") and rows:
            break  # the code is over: kernel descriptor and metadata follow
        if label := _LABEL.match(line):
            index_of[label[1]] = len(rows)
        elif opcode := _OPCODE.match(line):
            rows.append((opcode[1], (opcode[2] or "").strip()))
    return [_instruction(opcode, operands, index_of) for opcode, operands in rows]


def _instruction(opcode: str, operands: str, index_of: dict[str, int]) -> Instruction:
    if opcode in _ENDS:
        return Instruction(opcode, falls_through=False)
    if opcode == "s_branch" or opcode.startswith("s_cbranch"):
        return Instruction(opcode, index_of.get(operands), falls_through=opcode != "s_branch")
    return Instruction(opcode)


def _number(assembly: str, key: str) -> int:
    match = re.search(rf"^\s+(?:- )?\.{key}:\s+(\d+)", assembly, re.MULTILINE)
    if match is None:
        raise ValueError(f"no .{key} in the kernel's metadata")
    return int(match[1])
