"""Tests of reading compiled programs, on a program that is written by hand."""

from slot_attention.training import programs

TEXT = """\
HloModule jit_f, input_output_alias={ {0}: (0, {}, may-alias), {2}: (1, {}, \
must-alias) }, entry_computation_layout={(f32[5])->f32[5]}

%fused_computation (param_0: f32[1000]) -> f32[1000] {
  %param_0 = f32[1000]{0} parameter(0)
  ROOT %add.1 = f32[1000]{0} add(%param_0, %param_0)
}

%body (param.1: (f32[3])) -> (f32[3]) {
  %param.1 = (f32[3]{0}) parameter(0)
  %gte = f32[3]{0} get-tuple-element(%param.1), index=0
  %negate = f32[3]{0} negate(%gte)
  ROOT %tuple.1 = (f32[3]{0}) tuple(%negate)
}

ENTRY %main (param.2: f32[7,9], param.3: (f32[3])) -> f32[7,9] {
  %param.2 = f32[7,9]{1,0:T(8,128)} parameter(0)
  %param.3 = (f32[3]{0}) parameter(1)
  %fusion.1 = bf16[7,9,2]{0,1,2:T(4,128)(2,1)} fusion(%param.2), kind=kLoop, \
calls=%fused_computation, metadata={op_name="f/add(%x)"}
  %copy-start = (bf16[7,9,2]{0,1,2:T(4,128)S(1)}, \
bf16[7,9,2]{0,1,2:T(4,128)}, u32[]{:S(2)}) copy-start(%fusion.1)
  %copy-done = bf16[7,9,2]{0,1,2:T(4,128)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[7,9]{1,0:T(8,128)}), pred[5,6]{1,0:S(1)}, s32[]{:S(2)}) \
slice-start(%param.2), calls=%fused_computation
  %slice-done = pred[5,6]{1,0:S(1)} slice-done(%slice-start)
  %while = (f32[3]{0}) while(%param.3), condition=%body, body=%body
  %all-reduce-start = f32[11]{0:S(1)} all-reduce-start(%copy-done)
  %all-reduce-done = f32[11]{0:S(1)} all-reduce-done(%all-reduce-start)
  ROOT %fusion.2 = f32[7,9]{1,0} fusion(%copy-done, %param.2), \
calls=%fused_computation
}
"""


def test_instructions_are_counted_once_each():
  kinds = ("all-reduce", "fusion", "infeed")
  assert programs.count(TEXT, kinds) == {"all-reduce": 1, "fusion": 2}


def test_aliases_are_those_of_the_header():
  assert programs.count_aliased(TEXT) == 2


def test_bytes_of_the_main_memory_are_counted_by_hand():
  padded = 8 * 128 * 4  # [7, 9] in tiles of 8 by 128.
  of_fusion = 2 * 128 * 12 * 2  # [7, 9, 2], where axis 0 has tiles of 128.
  assert programs.main_memory_bytes(TEXT) == (
    (padded + of_fusion)
    + of_fusion  # The copy reads it; its copy is on the chip.
    + 5 * 6  # The slice.
    + 2 * 3 * 4  # The body of the loop.
    + 7 * 9 * 4  # The last fusion writes an array without padding
    + padded  # and reads one.
  )
