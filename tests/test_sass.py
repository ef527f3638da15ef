"""Reading machine code: instructions, branches and loops from short listings whose answer is known."""

import pytest

from triton_bilinear.tuning.amdgcn import parse_amdgcn, resource_usage
from triton_bilinear.tuning.listing import Instruction, find_loops
from triton_bilinear.tuning.sass import parse_sass

# A nest of two loops; the inner one waits at a barrier whose slow side stands behind the program's end and jumps back.
NESTED_SASS = """
        Function : kernel
    .headerflags    @"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;              /* 0x00000a00ff017b82 */
                                                                       /* 0x000fe200000000ff */
        /*0010*/              @!P0 BRA 0x00b0 ;                        /* 0x00 */
        /*0020*/                   MOV R2, RZ ;                        /* 0x00 */
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R2 ; /* 0x00 */
        /*0040*/              @!P1 BRA 0x00d0 ;                        /* 0x00 */
        /*0050*/                   HGMMA.64x128x16.F32 R24, gdesc[UR4], R24 ; /* 0x00 */
        /*0060*/                   HGMMA.64x128x16.F32 R24, gdesc[UR8], R24 ; /* 0x00 */
        /*0070*/                   BRA.U UP0, 0x0030 ;                 /* 0x00 */
        /*0080*/                   IADD3 R3, R3, 0x1, RZ ;             /* 0x00 */
        /*0090*/               @P2 BRA 0x0020 ;                        /* 0x00 */
        /*00a0*/               @P3 EXIT ;                              /* 0x00 */
        /*00b0*/                   STG.E desc[UR4][R4.64], R24 ;       /* 0x00 */
        /*00c0*/                   EXIT ;                              /* 0x00 */
        /*00d0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R2 ; /* 0x00 */
        /*00e0*/              @!P1 BRA 0x00d0 ;                        /* 0x00 */
        /*00f0*/                   BRA 0x0050 ;                        /* 0x00 */
        /*0100*/                   BRA 0x0100;                         /* 0x00 */
        /*0110*/                   NOP ;                               /* 0x00 */
"""

# The block that ends a turn of the outer loop stands in front of the loop's header.
ROTATED_AMDGCN = """\t.amdgcn_target "amdgcn-amd-amdhsa--gfx942"
\t.text
kernel:
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\ts_branch .LBB0_3
.LBB0_2:                                ; in Loop: Header=BB0_3 Depth=1
\ts_add_i32 s4, s4, 1
\ts_cbranch_scc0 .LBB0_5
.LBB0_3:                                ; =>This Loop Header: Depth=1
\tv_mov_b32_e32 v0, 0                   ; a comment
.LBB0_4:                                ; Parent Loop BB0_3 Depth=1
\tv_mfma_f32_32x32x8_f16 v[0:15], v[16:17], v[18:19], v[0:15]
\ts_cbranch_scc1 .LBB0_4
\ts_branch .LBB0_2
.LBB0_5:
\tglobal_store_dword v[2:3], v0, off
\ts_endpgm
\t.section\t.rodata,"a",@progbits
\t.amdhsa_next_free_vgpr 100
  - .agpr_count:     4
    .private_segment_fixed_size: 16
    .vgpr_count:     100
    .vgpr_spill_count: 3
"""


def test_sass_listing_ends_before_the_padding():
    listing = parse_sass(NESTED_SASS)
    assert len(listing) == 16
    assert listing[5] == Instruction("HGMMA.64x128x16.F32")


def test_sass_branches():
    listing = parse_sass(NESTED_SASS)
    assert listing[1] == Instruction("BRA", 11, falls_through=True)
    assert listing[7] == Instruction("BRA.U", 3, falls_through=True), "a uniform predicate stands among the operands"
    assert listing[10].falls_through, "a guarded EXIT goes on for some threads"
    assert not listing[12].falls_through
    assert listing[15] == Instruction("BRA", 5, falls_through=False)


def test_sass_loops_leave_out_what_stands_behind_the_end():
    outer, inner, wait = find_loops(parse_sass(NESTED_SASS))
    assert (outer.first, outer.depth, outer.instructions) == (2, 1, 8)
    assert (inner.first, inner.depth, inner.instructions) == (3, 2, 5)
    assert inner.opcodes["HGMMA.64x128x16.F32"] == 2
    assert outer.contains(inner)
    assert not inner.contains(outer)
    assert (wait.first, wait.instructions) == (13, 2)


def test_a_backward_jump_into_the_middle_is_no_loop():
    listing = [Instruction("a", 3), Instruction("b"), Instruction("c"), Instruction("d", 2), Instruction("end")]
    assert find_loops(listing) == [], "block 2 is entered from above as well as from below: neither dominates"


def test_no_loops_in_nothing():
    assert find_loops([]) == []


def test_scheduling_notes_are_no_operands():
    plain = parse_sass(NESTED_SASS)
    noted = NESTED_SASS.replace(" ;", "   &req={1,2} &wr=0x0 ?WAIT5_END_GROUP;")
    assert noted != NESTED_SASS
    assert parse_sass(noted) == plain


def test_a_second_function_is_not_read():
    assert len(parse_sass(NESTED_SASS + NESTED_SASS)) == 16


def test_amdgcn_loops_with_a_latch_before_the_header():
    outer, inner = find_loops(parse_amdgcn(ROTATED_AMDGCN))
    assert (outer.depth, outer.instructions) == (1, 6)
    assert (inner.depth, inner.instructions) == (2, 2)
    assert inner.opcodes["v_mfma_f32_32x32x8_f16"] == 1


def test_amdgcn_stops_at_the_descriptor():
    assert [step.opcode for step in parse_amdgcn(ROTATED_AMDGCN)][-2:] == ["global_store_dword", "s_endpgm"]


def test_amdgcn_resources():
    needs = resource_usage(ROTATED_AMDGCN)
    assert (needs.registers, needs.stack_bytes, needs.spills) == (100, 16, 3)


def test_amdgcn_without_metadata_is_an_error():
    with pytest.raises(ValueError, match="vgpr_count"):
        resource_usage("\ts_endpgm\n")
