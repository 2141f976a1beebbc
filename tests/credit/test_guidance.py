import pytest

from trpd_agents.credit import NoGuidance, PrefixGuidance, guided_turns, prefix_share


def test_share_falls_from_one_to_zero_along_a_half_cosine():
    shares = [prefix_share(s, 200) for s in range(201)]
    assert shares[0] == 1 and shares[100] == pytest.approx(0.5) and shares[200] == 0
    assert all(a > b for a, b in zip(shares, shares[1:], strict=False))
    assert prefix_share(50, 200) == pytest.approx(0.853553, abs=1e-6)
    assert prefix_share(999, 200) == 0


def test_turns_are_whole_and_fall_from_all_to_none():
    turns = [guided_turns(PrefixGuidance(turns=6), s, 60) for s in range(61)]
    assert turns[0] == 6 and turns[-1] == 0
    assert sorted(turns, reverse=True) == turns and set(turns) == set(range(7))
    assert guided_turns(NoGuidance(), 0, 60) == 0


def test_nonsense_steps_are_refused():
    with pytest.raises(ValueError, match="total_steps: found 0"):
        prefix_share(0, 0)
    with pytest.raises(ValueError, match="step: found -1"):
        prefix_share(-1, 5)
