"""Facts about a compiled program: collectives in all of XLA's spellings, and those in a loop."""

import pytest

from dlm.machine import hlo

PROGRAM = """HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%inner (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(%p), replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add
}

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = f32[8]{0} fusion(%x), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[8]) tuple(%i, %c)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[64] {
  %w = (s32[], f32[8]) while(%t), condition=%condition, body=%body.1
  %g = f32[64]{0} all-gather(%y), replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %s = f32[8]{0} reduce-scatter(%g), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}
"""


def test_collectives_within_loops_are_told_apart():
    once, inside = hlo.of_loops(PROGRAM)
    assert hlo.collectives(once) == {
        "all-gather": 7 / 8 * 256,
        "reduce-scatter": 3 / 4 * 4 * 32,
    }
    assert hlo.collectives(inside) == {"all-reduce": 2 * 3 / 4 * 32}, (
        "over the named axes of the mesh alone"
    )
    whole = hlo.collectives(PROGRAM)
    assert whole == pytest.approx(hlo.collectives(once) | hlo.collectives(inside))
    assert sorted(filter(None, f"{once}\n{inside}".splitlines())) == sorted(
        filter(None, PROGRAM.splitlines())
    )
