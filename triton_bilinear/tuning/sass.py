"""NVIDIA machine code: what a cubin needs and what its SASS holds, by the tools inside the triton package."""

import re
import subprocess
import tempfile
from dataclasses import dataclass

from .listing import Instruction

# Some releases print scheduling notes behind the operands ("&req={1,2} ?WAIT5_END_GROUP"); they are no part of them.
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<text>[^;]*?)\s*(?:\s[&?][A-Za-z_][^;]*)?;")
_GUARDED = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+@")
_ADDRESS = re.compile(r"0x([0-9a-f]+)\s*$")
_JUMPS = ("BRA", "JMP", "CALL")
_ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL")


@dataclass(frozen=True)
class Resources:
    """What one kernel of a cubin needs: registers and bytes of stack (local memory) a thread, static shared memory."""

    registers: int
    stack_bytes: int
    static_shared_bytes: int


def disassemble(cubin: bytes) -> str:
    """The SASS of a cubin as `cuobjdump -sass` prints it."""
    return _cuobjdump(cubin, "-sass")


def resource_usage(cubin: bytes) -> Resources:
    """What the cubin's one kernel needs, read from its ELF sections."""
    text = _cuobjdump(cubin, "-res-usage")
    fields = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text))
    return Resources(
        registers=int(fields["REG"]),
        stack_bytes=int(fields["STACK"]) + int(fields["LOCAL"]),
        static_shared_bytes=int(fields["SHARED"]),
    )


def parse_sass(text: str) -> list[Instruction]:
    """The instructions of the first function in a SASS text, without the padding behind its end."""
    addresses: list[int] = []
    rows: list[tuple[str, bool]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        address = int(match[1], 16)
        if addresses and address <= addresses[-1]:
            break  # the next function starts again at 0
        addresses.append(address)
        rows.append((match["text"], _GUARDED.match(line) is not None))
    index_of = {address: index for index, address in enumerate(addresses)}
    listing = [_instruction(body, guarded, index_of) for body, guarded in rows]
    while listing and (listing[-1].opcode == "NOP" or listing[-1].target == len(listing) - 1):
        listing.pop()  # a jump to itself, then NOPs, fill the section up
    return listing


def _instruction(body: str, guarded: bool, index_of: dict[int, int]) -> Instruction:
    opcode, _, operands = body.partition(" ")
    base = opcode.partition(".")[0]
    if base in _ENDS:
        return Instruction(opcode, falls_through=guarded)
    if base not in _JUMPS:
        return Instruction(opcode)
    address = _ADDRESS.search(operands)
    target = index_of.get(int(address[1], 16)) if address else None
    # A predicate can also stand among the operands ("BRA.U UP0, 0x1a0"); a call comes back, or on sm_80 ends a loop.
    conditional = guarded or "," in operands or base == "CALL"
    return Instruction(opcode, target, falls_through=conditional)


def _cuobjdump(cubin: bytes, option: str) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cuobjdump {option} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
