from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trpd_agents.credit.config import DepthCurriculum, NoCurriculum, ProbeCurriculum
from trpd_agents.credit.curriculum import deepens, turn_cap


def test_without_a_curriculum_every_turn_is_allowed():
    assert turn_cap(NoCurriculum(), 0, 0, 12) == 12
    assert not deepens(NoCurriculum(), 12, [0.0] * 12, [5.0] * 12, 12)


def test_depth_grows_by_a_turn_every_so_many_steps():
    caps = [turn_cap(DepthCurriculum(every=3), step, 0, 4) for step in range(15)]
    assert caps == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4]
    assert not deepens(DepthCurriculum(), 1, [0.0], [5.0], 4)  # whatever the turns were like


def test_a_probe_goes_deeper_only_on_agreement_at_its_deepest_turn():
    probe = ProbeCurriculum(threshold=0.2, start=2)
    assert turn_cap(probe, 999, 0, 8) == 2 and turn_cap(probe, 0, 3, 8) == 5 and turn_cap(probe, 0, 30, 8) == 8
    counted = [4.0, 4.0, 0, 0, 0, 0, 0, 0]
    assert deepens(probe, 2, [9.0, 0.8, 0, 0, 0, 0, 0, 0], counted, 8)  # a mean of exactly 0.2; the first turn is free
    assert not deepens(probe, 2, [0.0, 0.81, 0, 0, 0, 0, 0, 0], counted, 8)
    assert not deepens(probe, 3, [0.0] * 8, counted, 8)  # nobody came so far: no evidence
    assert not deepens(probe, 8, [0.0] * 8, [4.0] * 8, 8)  # there is nothing deeper


def test_a_start_beyond_the_limit_is_the_limit():
    assert turn_cap(ProbeCurriculum(start=9), 0, 0, 4) == 4


@given(
    st.one_of(st.builds(DepthCurriculum, every=st.integers(1, 9)), st.builds(ProbeCurriculum, start=st.integers(1, 9))),
    st.integers(1, 12),
    st.lists(st.floats(0, 1), min_size=30, max_size=30),
)
def test_caps_stay_within_bounds_and_never_shrink(curriculum, max_turns, means):
    added, caps = 0, []
    for step, mean in enumerate(means):
        caps.append(turn_cap(curriculum, step, added, max_turns))
        added += deepens(curriculum, caps[-1], [mean * 3] * max_turns, [3.0] * max_turns, max_turns)
    assert caps == sorted(caps) and 1 <= caps[0] and caps[-1] <= max_turns
    assert all(b - a <= 1 for a, b in zip(caps, caps[1:], strict=False))
