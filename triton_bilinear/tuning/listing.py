"""What a machine-code listing says, whatever the instruction set: instructions, and the loops they form."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    opcode: the full mnemonic ("HMMA.16816.F32", "v_mfma_f32_32x32x8_f16").
    target: index in the listing where a branch goes, or None.
    falls_through: whether the next instruction can follow this one.
    """

    opcode: str
    target: int | None = None
    falls_through: bool = True


@dataclass(frozen=True)
class Loop:
    """A loop of a listing: where it is entered, its instructions, and how often each opcode stands among them.

    Inner loops are included. Code moved out of line, behind the program's end (the slow side of a barrier wait), is
    not: it does not run while the pipeline is full.
    """

    first: int
    depth: int
    body: frozenset[int] = field(repr=False)
    opcodes: Counter[str] = field(repr=False)

    @property
    def instructions(self) -> int:
        return len(self.body)

    def contains(self, other: "Loop") -> bool:
        """Whether `other` is nested inside this loop."""
        return other.body < self.body


def find_loops(listing: Sequence[Instruction]) -> list[Loop]:
    """The natural loops of a listing, in the order in which they are entered.

    A backward jump alone does not make a loop (out-of-line code jumps back too): its target has to dominate it.
    """
    if not listing:
        return []
    starts = _block_starts(listing)
    ends = [*starts[1:], len(listing)]
    successors = _successors(listing, starts)
    predecessors = _reachable_predecessors(successors)
    dominators = _dominators(predecessors)
    blocks_of: dict[int, set[int]] = {}
    for block in predecessors:
        for target in successors[block]:
            if target in dominators[block]:
                blocks_of.setdefault(target, {target}).update(_blocks_between(target, block, predecessors))
    bodies = {
        starts[header]: frozenset(
            index
            for block in blocks
            if not _out_of_line(listing, starts[header], starts[block])
            for index in range(starts[block], ends[block])
        )
        for header, blocks in blocks_of.items()
    }
    return [
        Loop(
            first,
            depth=1 + sum(body < other for other in bodies.values()),
            body=body,
            opcodes=Counter(listing[index].opcode for index in body),
        )
        for first, body in sorted(bodies.items())
    ]


def _block_starts(listing: Sequence[Instruction]) -> list[int]:
    starts = {0}
    for index, instruction in enumerate(listing):
        if instruction.target is not None:
            starts.add(instruction.target)
        if instruction.target is not None or not instruction.falls_through:
            starts.add(index + 1)
    return sorted(start for start in starts if start < len(listing))


def _successors(listing: Sequence[Instruction], starts: list[int]) -> list[list[int]]:
    block_of = {start: block for block, start in enumerate(starts)}
    ends = [*starts[1:], len(listing)]
    successors = []
    for end in ends:
        last = listing[end - 1]
        following = [end] if last.falls_through else []
        if last.target is not None:
            following.append(last.target)
        successors.append([block_of[start] for start in following if start in block_of])
    return successors


def _reachable_predecessors(successors: list[list[int]]) -> dict[int, list[int]]:
    """The blocks that lead to each block, for every block that the entry reaches."""
    predecessors: dict[int, list[int]] = {0: []}
    stack = [0]
    while stack:
        block = stack.pop()
        for following in successors[block]:
            if following not in predecessors:
                predecessors[following] = []
                stack.append(following)
            predecessors[following].append(block)
    return predecessors


def _dominators(predecessors: dict[int, list[int]]) -> dict[int, set[int]]:
    """For every block: the blocks on every way from the entry to it, itself included."""
    dominators = {block: set(predecessors) for block in predecessors}
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block, before in predecessors.items():
            if block == 0:
                continue
            new = set.intersection(*(dominators[other] for other in before)) | {block}
            if new != dominators[block]:
                dominators[block], changed = new, True
    return dominators


def _blocks_between(header: int, latch: int, predecessors: dict[int, list[int]]) -> set[int]:
    """The blocks from which `latch` is reached without passing `header`, both included."""
    found, stack = {header, latch}, [latch]
    while stack:
        block = stack.pop()
        if block == header:
            continue
        for before in predecessors[block]:
            if before not in found:
                found.add(before)
                stack.append(before)
    return found


def _out_of_line(listing: Sequence[Instruction], header: int, index: int) -> bool:
    """Whether the program ends somewhere between a loop's header and this instruction behind it."""
    return any(not step.falls_through and step.target is None for step in listing[header:index])
