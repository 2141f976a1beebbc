"""Only exactly equal beginnings are shared."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.rollout.prefixes import best_donor, common_length, shared_length, twins

IDS = st.lists(st.integers(0, 2), max_size=8)


@settings(deadline=None)
@given(IDS, IDS)
def test_common_length_is_that_of_the_common_prefix(first, second):
    assert common_length(first, second) == len(os.path.commonprefix([first, second]))


@settings(deadline=None)
@given(st.lists(IDS, min_size=1, max_size=6))
def test_shared_length_is_common_to_all(beginnings):
    assert shared_length(beginnings) == len(os.path.commonprefix(beginnings))


@settings(deadline=None)
@given(st.lists(IDS, max_size=6))
def test_twins_are_the_first_equal_ones(beginnings):
    assert twins(beginnings) == [beginnings.index(b) for b in beginnings]


@settings(deadline=None)
@given(IDS, st.lists(IDS, max_size=6))
def test_the_best_donor_has_most_in_common(beginning, donors):
    best, length = best_donor(beginning, donors)
    assert length == max((common_length(beginning, d) for d in donors), default=0)
    assert not donors or common_length(beginning, donors[best]) == length
