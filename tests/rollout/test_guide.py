"""Whoever guides an episode, its tokens are what was fed and sampled; and who plays depends on the episode alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.credit.config import BernoulliGuidance, Divergence, NoGuidance, PrefixGuidance, RescueGuidance
from trpd_agents.credit.guidance import leads
from trpd_agents.rollout import (
    Collector,
    Episode,
    Limits,
    Plan,
    Rescue,
    Sampling,
    TransformersEngine,
    make_guide,
)
from trpd_agents.scoring import score_tokens
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Trajectory, pad_scored

ENV = f"{Path(__file__).parent / 'scripted_env.py'}:Scripted"
EPISODES = [Episode(seed, 100 + seed) for seed in range(12)]
TV = Divergence()


@pytest.fixture
def play(make_lm, tokenizer, ends) -> Callable[..., list[Trajectory]]:
    def run(guide, episodes=EPISODES, parallel: int = 256, **env) -> list[Trajectory]:
        sampling = Sampling(max_new_tokens=5, end_ids=ends, seed=3)
        limits = Limits(max_turns=20, max_tokens=2000, parallel=parallel)
        spec = EnvSpec(ENV, {"length": 6, **env})
        return Collector(spec, TransformersEngine(make_lm(0)), tokenizer, sampling, limits).collect(episodes, guide)

    return run


@pytest.fixture
def engine(make_lm) -> TransformersEngine:
    return TransformersEngine(make_lm(1))


def authors(played: list[Trajectory]) -> list[list[str]]:
    return [[turn.author for turn in t.turns] for t in played]


def divergences(make_lm, played: list[Trajectory], divergence: Divergence = TV) -> tuple[np.ndarray, np.ndarray]:
    """Of every turn as the training step would compute it, from whole forward passes; and which of them count."""
    for trajectory, scores in zip(
        played,
        score_tokens(make_lm(1), [t.tokens for t in played], [t.action_positions() for t in played]),
        strict=True,
    ):
        trajectory.scores = scores
    credit = assign_credit(pad_scored(played), CreditConfig(divergence=divergence))
    return credit.turn_divergence.numpy(), credit.turn_counts.numpy()


def check_log_probabilities(make_lm, played: list[Trajectory], reference_logprobs) -> None:
    for trajectory in played:
        own = trajectory.authored("student")
        assert np.isnan(trajectory.logprobs[~own]).all()
        logp = reference_logprobs(make_lm(0), trajectory.tokens)
        wanted = logp[np.flatnonzero(own), torch.from_numpy(trajectory.tokens[own]).long()]
        assert trajectory.logprobs[own] == pytest.approx(wanted.numpy(), abs=1e-5)


# Planned turns


@pytest.mark.parametrize("parallel", [256, 5])
def test_bernoulli_turns_are_those_that_were_drawn(play, engine, make_lm, reference_logprobs, parallel):
    guidance = BernoulliGuidance()
    played = play(Plan(engine, guidance, progress=0.4, seed=7), parallel=parallel)
    for episode, trajectory in zip(EPISODES, played, strict=True):
        drawn = [leads(guidance, 0.4, 7, episode.key, k) for k in range(len(trajectory.turns))]
        assert [turn.author == "teacher" for turn in trajectory.turns] == drawn
    assert len({tuple(a) for a in authors(played)}) > 3
    check_log_probabilities(make_lm, played, reference_logprobs)
    assert not len(engine._cache) and not engine._unfed


def test_which_kind_guides_when(engine):
    assert make_guide(NoGuidance(), TV, engine, 0.0, 0) is None
    assert make_guide(PrefixGuidance(), TV, engine, 0.99, 0) is None
    assert make_guide(BernoulliGuidance(), TV, engine, 0.8, 0) is None
    assert isinstance(make_guide(BernoulliGuidance(), TV, engine, 0.7, 0), Plan)
    assert isinstance(make_guide(RescueGuidance(), TV, engine, 0.99, 0), Rescue)
    with pytest.raises(ValueError, match="this teacher cannot play"):
        make_guide(RescueGuidance(), TV, None, 0.0, 0)


# Rescue


def rescued(divergence: np.ndarray, counts: np.ndarray, guidance: RescueGuidance) -> list[str]:
    """Who plays each turn of an episode with these divergences, said once more from the definition."""
    budget, ahead, who = guidance.budget, 0, []
    for value, count in zip(divergence, counts, strict=True):
        if ahead:
            ahead, budget = ahead - 1, budget - 1
            who.append("teacher")
            continue
        who.append("student")
        if count and value > guidance.enter:
            ahead = min(guidance.turns, budget)
    return who


@pytest.mark.parametrize("kind", ["tv", "abs"])
@pytest.mark.parametrize(("turns", "budget"), [(1, 1), (1, 3), (2, 3), (9, 2)])
def test_the_teacher_comes_after_divergent_turns(play, engine, make_lm, reference_logprobs, kind, turns, budget):
    divergence = Divergence(kind=kind)
    enter = {"tv": 0.6, "abs": 2.0}[kind]
    guidance = RescueGuidance(enter=enter, turns=turns, budget=budget)
    played = play(Rescue(engine, guidance, divergence))
    found, counts = divergences(make_lm, played, divergence)
    assert np.abs(found[counts] - enter).min() > 1e-4  # else rounding decides, and this test with it
    for b, trajectory in enumerate(played):
        n = len(trajectory.turns)
        assert [turn.author for turn in trajectory.turns] == rescued(found[b, :n], counts[b, :n], guidance)
    assert {"student", "teacher"} == {a for row in authors(played) for a in row}
    assert any(not count for b, t in enumerate(played) for count in counts[b, : len(t.turns)])
    check_log_probabilities(make_lm, played, reference_logprobs)
    assert not len(engine._cache) and not engine._unfed


def test_a_rescue_does_not_depend_on_the_other_episodes(play, engine):
    guidance = RescueGuidance(enter=0.6, turns=2, budget=3)
    together = play(Rescue(engine, guidance, TV))
    few = play(Rescue(engine, guidance, TV), parallel=3)
    assert [t.tokens.tolist() for t in together] == [t.tokens.tolist() for t in few]
    assert authors(together) == authors(few)


def test_an_episode_played_again_has_its_whole_budget_again(play, engine):
    guidance = RescueGuidance(enter=0.0, turns=1, budget=1)
    undisturbed = play(Rescue(engine, guidance, TV))
    again = play(Rescue(engine, guidance, TV), fail="step", tag="rescued-again")
    assert authors(again) == authors(undisturbed)
    assert any("teacher" in row for row in authors(again))


def test_nobody_is_rescued_from_agreement(play, make_lm):
    """A student that is its own teacher diverges nowhere, and an infinite threshold is never passed."""
    itself = Rescue(TransformersEngine(make_lm(0)), RescueGuidance(enter=1e-3), TV)
    never = Rescue(TransformersEngine(make_lm(1)), RescueGuidance(enter=float("inf")), Divergence(kind="abs"))
    alone = play(None)
    for guide in (itself, never):
        assert [t.tokens.tolist() for t in play(guide)] == [t.tokens.tolist() for t in alone]


def test_the_teacher_stops_reading_when_its_budget_is_spent(play, engine, monkeypatch):
    appended: list[int] = []
    append = engine.append

    def counted(requests, counts):
        appended.extend(r.conversation for r in requests)
        return append(requests, counts)

    monkeypatch.setattr(engine, "append", counted)
    played = play(Rescue(engine, RescueGuidance(enter=0.0, turns=1, budget=1), TV))
    for trajectory, row in zip(played, authors(played), strict=True):
        read = row.index("teacher") if "teacher" in row else len(row) - 1  # nobody asks after the last turn
        assert appended.count(trajectory.id) == read
    assert any("teacher" in row[:-1] for row in authors(played))
