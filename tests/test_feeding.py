"""Blocks cover every conversation once, with bounded padding; a token sees its own conversation up to itself."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents import feeding
from trpd_agents.feeding import SLACK, group_by_size, passes, plan_feed

JOBS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 400)), min_size=1, max_size=12)


@settings(deadline=None)
@given(JOBS)
def test_groups_hold_everything_once_with_little_padding(jobs):
    past, sizes = zip(*jobs, strict=True)
    groups = group_by_size(past, sizes)
    assert sorted(i for group in groups for i in group) == list(range(len(jobs)))
    for group in groups:
        assert group == sorted(group)
        real = sum(sizes[i] for i in group)
        assert max(sizes[i] for i in group) * len(group) - real <= real // 2 + SLACK


@settings(deadline=None)
@given(JOBS, st.one_of(st.none(), st.integers(1, 70)))
def test_every_token_has_its_place_and_its_view(jobs, window):
    past, sizes = zip(*jobs, strict=True)
    rows = [2 * i for i in range(len(jobs))]
    feed = plan_feed(rows, past, sizes, torch.device("cpu"), torch.float32)
    wanted = [(rows[i], past[i] + t) for i in feed.order for t in range(sizes[i])]
    assert list(zip(feed.rows.tolist(), feed.columns.tolist(), strict=True)) == wanted
    assert sorted(feed.order) == list(range(len(jobs)))
    assert feed.width == max(p + s for p, s in jobs)
    for block in feed.blocks:
        first, mask = block.view(window)
        assert block.view(window)[1] is mask
        mask = mask.flatten(0, 2)
        mask = mask if block.place is None else mask[block.place]
        own = torch.tensor([column for _, column in wanted[block.tokens]])[:, None]
        column = torch.arange(block.columns)
        seen = (column <= own) & (window is None or column > own - window)
        assert torch.equal(mask == 0, seen[:, first:]) and not seen[:, :first].any()
        assert window is None or seen[:, first].any() or first == 0  # nothing is read that nobody sees


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=20))
def test_passes_are_bounded_and_keep_the_order(sizes):
    before, feeding.TOKENS = feeding.TOKENS, 60
    try:
        found = passes(list(range(len(sizes))), sizes)
    finally:
        feeding.TOKENS = before
    assert [i for chosen in found for i in chosen] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in chosen) <= 60 for chosen in found)
