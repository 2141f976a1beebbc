"""Signals are the figures that rules look at, and causal ones know nothing of the turn they are for."""

from __future__ import annotations

import numpy as np
import pytest

from trpd_agents.audit import SIGNALS, auroc, label_turns, turn_signals
from trpd_agents.credit import STATISTICS, CreditConfig, Divergence, assign_credit
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Stop, pad_scored

NUMBERS = EnvSpec("GuessNumber-v0", {"high": 7})


@pytest.fixture
def played(collect):
    """Six episodes of up to six turns."""
    return collect(NUMBERS, list(range(6)), lambda env, k: ["1", "7", "2", "6", "5"][k % 5])


@pytest.fixture
def ratios(played):
    n = sum(len(t.turns) for t in played)
    return np.random.default_rng(0).normal(-0.5, 1.0, size=n)


def test_every_signal_has_a_figure_for_every_turn(played, score, ratios):
    score(played, ratios)
    found = turn_signals(played)
    assert found.keys() == SIGNALS.keys() and len({len(t.turns) for t in played}) > 1
    assert all(values.shape == (len(ratios),) and np.isfinite(values).all() for values in found.values())


def test_divergences_are_those_of_credit_assignment(played, score, ratios):
    played[1].turns[0].stop = Stop.LENGTH
    score(played, ratios)
    found = turn_signals(played)
    for kind in STATISTICS:
        credit = assign_credit(pad_scored(played), CreditConfig(divergence=Divergence(kind=kind)))  # type: ignore[arg-type]
        rows = [(b, k) for b, t in enumerate(played) for k in range(len(t.turns))]
        wanted = [float(credit.turn_divergence[row]) if credit.turn_counts[row] else np.nan for row in rows]
        assert np.isnan(wanted).sum() == 1
        assert found[kind] == pytest.approx(wanted, nan_ok=True)


def test_figures_of_the_history_by_hand(played, score, ratios):
    score(played, ratios)
    found = turn_signals(played)
    tokens = [turn.action[1] - turn.action[0] for t in played for turn in t.turns]
    n = 0
    for trajectory in played:
        for k in range(len(trajectory.turns)):
            before = slice(n - k, n)
            assert found["turn"][n] == k
            assert found["tv_max_before"][n] == pytest.approx(max([0, *found["tv"][before]]))
            assert found["k1_sum_before"][n] == pytest.approx(found["k1"][before].sum())
            assert found["occupancy"][n] == pytest.approx(-(ratios * tokens)[before].sum(), abs=1e-4)
            assert found["entropy"][n] == found["entropy_first"][n] == n
            n += 1


def test_causal_signals_do_not_look_at_the_turn_or_later(played, score, ratios):
    score(played, ratios)
    first = turn_signals(played)
    turn = first["turn"].astype(int)
    changed = np.where(turn >= 2, ratios - 3, ratios)
    score(played, changed)
    second = turn_signals(played)
    early, at = turn <= 2, turn == 2
    for name, signal in SIGNALS.items():
        if signal.causal:
            assert np.array_equal(first[name][early], second[name][early]), name
        elif name != "entropy":
            assert (first[name][at] != second[name][at]).all(), name


def test_chunks_do_not_matter(played, score, ratios, monkeypatch):
    score(played, ratios)
    whole = turn_signals(played)
    monkeypatch.setattr("trpd_agents.audit.signals.AT_ONCE", 2)
    apart = turn_signals(played)
    assert all(whole[name] == pytest.approx(apart[name]) for name in SIGNALS)


def test_a_teacher_that_is_wrong_where_it_diverges_is_found_out(collect, make_teacher, score, tokenizer, ends):
    played = collect(NUMBERS, list(range(8)), lambda env, k: ["1", "7", "2", "6"][k % 4])
    texts = [["4", "1"][k % 2] for t in played for k in range(len(t.turns))]  # of the same history the same
    turns = label_turns(played, make_teacher(played, texts), tokenizer, max_new_tokens=8, end_ids=ends, token_budget=99)
    assert 0 < turns.teacher_right.sum() < len(turns)
    score(played, np.where(turns.teacher_right, 0.0, -3.0))
    found = turn_signals(played)
    for kind in ("tv", "excess", "abs", "k1", "k3", "max", "teacher_logprob"):
        assert auroc(found[kind], turns.wrong)[0] == 1
        assert auroc(-found[kind], turns.wrong)[0] == 0


def test_scores_are_needed(played, score, ratios):
    with pytest.raises(ValueError, match="found one without the teacher's scores"):
        turn_signals(played)
    score(played, ratios)
    played[0].scores.entropy = None
    with pytest.raises(ValueError, match="or entropies"):
        turn_signals(played)
