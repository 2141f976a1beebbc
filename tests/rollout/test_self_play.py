"""Matches in the collector: two conversations about one environment, by the student alone or against a frozen model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from trpd_agents.dialogue import Dialogue
from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.evaluation import evaluate
from trpd_agents.rollout import Collector, Completion, Episode, Limits, Request, Sampling, TransformersEngine
from trpd_agents.rollout.seats import OTHER_SEAT
from trpd_agents.storage import read_trajectories, write_trajectories
from trpd_agents.textenv import EnvSpec, check_environment, make
from trpd_agents.textenv.textarena_matches import seat_of
from trpd_agents.textenv.workers import Workers
from trpd_agents.trajectory import Outcome, Stop, Trajectory, pad_scored

EPISODES = [Episode(seed, 50 + seed) for seed in range(6)]
LIMITS = Limits(max_turns=20, max_tokens=8000)
SELF = EnvSpec("textarena/TicTacToe-v0", {"opponent": "self"})


class Mover:
    """An engine that says one of the moves that the last board of its conversation offers, with some words around."""

    version = 0

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.heard: dict[int, list[int]] = {}

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found = []
        for request in requests:
            heard = self.heard.setdefault(request.conversation, [])
            heard += request.tokens
            offered = self.tokenizer.decode(heard).rpartition("Available Moves:")[2]
            move = Random(f"{request.key} {len(heard)}").choice(re.findall(r"\[\d\]", offered))
            tokens = self.tokenizer.encode(f"I take {move}", add_special_tokens=False) + [self.tokenizer.eos_token_id]
            heard += tokens
            found.append(Completion(tokens, [-1.0] * len(tokens), Stop.END))
        return found

    def release(self, conversations: Sequence[int]) -> None:
        for conversation in conversations:
            del self.heard[conversation]


def collector(tokenizer: Any, ends: Any, engine: Any, env: EnvSpec = SELF, limits: Limits = LIMITS, **kw: Any) -> Any:
    return Collector(env, engine, tokenizer, Sampling(max_new_tokens=12, end_ids=ends, seed=3), limits, **kw)


@pytest.fixture
def matches(tokenizer, ends) -> list[tuple[Trajectory, Trajectory]]:
    engine = Mover(tokenizer)
    played = collector(tokenizer, ends, engine).collect(EPISODES)
    assert not engine.heard  # every conversation was given back
    return list(zip(played[::2], played[1::2], strict=True))


def rebuilt(trajectory: Trajectory, dialogue: Dialogue) -> list[int]:
    """The tokens of a conversation, from its turns."""
    tokens: list[int] = []
    for k, turn in enumerate(trajectory.turns):
        tokens += dialogue.start(turn.observation) if not k else dialogue.observe(turn.observation, ended=True)
        tokens += trajectory.tokens[slice(*turn.action)].tolist()
    return tokens


def test_both_sides_are_returned_each_with_its_own_outcome(matches):
    for episode, (own, other) in zip(EPISODES, matches, strict=True):
        assert (own.id, other.id) == (episode.key, episode.key + OTHER_SEAT) and own.seed == other.seed == episode.seed
        seat = seat_of("seed", episode.seed)
        assert (own.env_kwargs, other.env_kwargs) == tuple(
            {"opponent": "self", "seat": which} for which in (seat, 1 - seat)
        )
        assert own.outcome is other.outcome is Outcome.TERMINATED
        assert own.reward == -other.reward and own.draw == other.draw == (own.reward == 0)
        for one in (own, other):
            assert one.success == (one.reward == 1) and one.turns[-1].reward == one.reward
            assert ("has won" in one.final_observation) or ("draw" in one.final_observation)
    assert any(own.success != other.success for own, other in matches)


def test_each_conversation_is_token_exact_and_that_of_its_own_seat(matches, tokenizer):
    for pair in matches:
        for one in pair:
            dialogue = Dialogue(tokenizer, one.instructions, one.tools)
            assert rebuilt(one, dialogue) == one.tokens.tolist()
            assert f"You are Player {one.env_kwargs['seat']}" in one.turns[0].observation
            assert all(turn.ok and turn.author == "student" for turn in one.turns)
            assert np.isfinite(one.logprobs[one.authored("student")]).all()
        moves = [sorted(re.findall(r"\[\d\]", turn.text)[0] for one in pair for turn in one.turns)]
        assert all(len(set(of_match)) == len(of_match) <= 9 for of_match in moves)  # one board for both
        first, second = sorted(pair, key=lambda one: one.env_kwargs["seat"])
        assert len(first.turns) - len(second.turns) in (0, 1)
        assert first.turns[0].text in second.turns[0].observation


def test_a_seat_alone_plays_again_what_the_match_was(matches):
    """The two sides' actions, put together, are the episode of the environment."""
    own, other = matches[0]
    sides = {one.env_kwargs["seat"]: iter(one.turns) for one in (own, other)}
    env = make(SELF)
    observation, ended = env.reset(own.seed), False
    while not ended:
        turn = next(sides[env.seat])
        assert turn.observation == observation
        step = env.step(turn.text)
        observation, ended = step.observation, step.terminated
    assert step.endings is not None
    told = {seat: ending[0] for seat, ending in enumerate(step.endings)}
    assert {one.env_kwargs["seat"]: one.final_observation for one in (own, other)} == told


def seen(played: Sequence[Trajectory]) -> list[Any]:
    return [(t.id, t.tokens.tolist(), t.success, t.draw, t.reward, t.final_observation) for t in played]


def test_matches_depend_neither_on_their_company_nor_on_where_they_are_played(matches, tokenizer, ends):
    flat = seen([one for pair in matches for one in pair])
    one_by_one = collector(tokenizer, ends, Mover(tokenizer), limits=dataclasses.replace(LIMITS, parallel=1))
    assert seen(one_by_one.collect(EPISODES)) == flat
    with Workers(1) as pool:
        elsewhere = collector(tokenizer, ends, Mover(tokenizer), pool=pool)
        assert seen(elsewhere.collect(EPISODES[:3])) == flat[:6]


def talk(opponent: str) -> EnvSpec:
    """A game in which any text is a valid move."""
    return EnvSpec("textarena/IteratedPrisonersDilemma-v0", {"opponent": opponent, "num_rounds": 2})


def test_a_frozen_model_like_the_student_plays_as_the_student_does(tokenizer, ends, make_lm, model_directory):
    alone = collector(tokenizer, ends, TransformersEngine(make_lm(0)), talk("self"))
    own = {t.id: t for t in alone.collect(EPISODES)}
    against = collector(tokenizer, ends, TransformersEngine(make_lm(0)), talk(str(model_directory(0))))
    found = against.collect(EPISODES)
    assert [t.id for t in found] == [episode.key for episode in EPISODES]  # nobody learns from the frozen side
    for one in found:
        assert one.tokens.tolist() == own[one.id].tokens.tolist() and one.success == own[one.id].success
    assert (against.take_steps(), alone.take_steps()) == (6 * 4, 6 * 8)


def test_an_opponent_of_other_weights_plays_otherwise(tokenizer, ends, make_lm, model_directory):
    played = []
    for seed in (0, 1):
        env = talk(str(model_directory(seed)))
        played.append(collector(tokenizer, ends, TransformersEngine(make_lm(0)), env).collect(EPISODES))
    assert [t.tokens.tolist() for t in played[0]] != [t.tokens.tolist() for t in played[1]]


def test_an_agent_that_need_not_move_has_won(tokenizer, ends, make_lm, model_directory):
    """The untrained opponent makes two invalid moves before the agent's first turn."""
    env = EnvSpec("textarena/Nim-v0", {"opponent": str(model_directory(1)), "seat": 1})
    found = collector(tokenizer, ends, TransformersEngine(make_lm(0)), env).collect(EPISODES)
    for one in found:
        assert one.success and not one.turns and len(one.tokens) and "You are Player 1" not in one.final_observation
    assert pad_scored(found).action.sum() == 0


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        (Limits(max_turns=2, max_tokens=8000), Outcome.MAX_TURNS),
        (Limits(max_turns=20, max_tokens=500), Outcome.MAX_TOKENS),
        (Limits(max_turns=20, max_tokens=8000, episode_seconds=0.0), Outcome.TIMEOUT),
    ],
)
def test_a_match_that_is_cut_short_is_won_by_nobody(tokenizer, ends, limits, outcome):
    engine = Mover(tokenizer)
    found = collector(tokenizer, ends, engine, limits=limits).collect(EPISODES[:2])
    assert found and not engine.heard
    for one in found:
        assert one.outcome is outcome and one.success is False and not one.draw and one.reward == 0
        assert len(one.turns) <= limits.max_turns


def test_a_failing_environment_is_played_again_and_then_left_out(tokenizer, ends, monkeypatch):
    from trpd_agents.textenv.two_player_match import Match

    real, calls = Match.play, [0]

    def fail(times: int) -> Callable[..., bool]:
        def play(match: Match, action: str) -> bool:
            calls[0] += 1
            if calls[0] in range(3, 3 + times):
                raise EnvironmentFailure("step_raised", "on purpose")
            return real(match, action)

        return play

    monkeypatch.setattr(Match, "play", fail(1))
    found = collector(tokenizer, ends, Mover(tokenizer)).collect(EPISODES[:1])
    assert [t.error for t in found] == [None, None]
    calls[0] = 0
    monkeypatch.setattr(Match, "play", fail(1000))
    (left_out,) = collector(tokenizer, ends, Mover(tokenizer)).collect(EPISODES[:1])
    assert left_out.error and left_out.error["kind"] == "step_raised"
    assert left_out.success is None and left_out.draw is None


def test_an_evaluation_counts_one_seat_and_the_draws_apart(make_lm, tokenizer):
    engine = Mover(tokenizer)
    found = evaluate(make_lm(0), SELF, 12, engine=engine, max_new_tokens=12, max_tokens=8000, workers=0)
    summary = found.summary()
    assert found.episodes == 12 and summary["draws"] == found.draws and 0 <= summary["draw_rate"] <= 1
    against_random = EnvSpec("textarena/TicTacToe-v0")
    apart = evaluate(make_lm(0), against_random, 30, engine=engine, max_new_tokens=12, max_tokens=8000, workers=0)
    wins, draws = round(30 * apart.success_rate.mean), apart.draws
    assert draws and wins and wins + draws < 30
    assert "draws" not in evaluate(make_lm(0), "GuessNumber-v0", 1, max_new_tokens=2, workers=0).summary()


def test_draws_are_kept_on_disk(matches, tmp_path: Path):
    draws = [True, False, None, True]
    flat = [dataclasses.replace(t, draw=draw) for t, draw in zip(matches[0] + matches[1], draws, strict=True)]
    write_trajectories(tmp_path / "t.parquet", flat)
    assert [t.draw for t in read_trajectories(tmp_path / "t.parquet")] == draws


def test_files_from_before_there_were_draws_are_read(matches, tmp_path: Path):
    import pyarrow.parquet as pq

    write_trajectories(tmp_path / "t.parquet", matches[0])
    table = pq.read_table(tmp_path / "t.parquet")
    pq.write_table(table.drop_columns(["draw"]), tmp_path / "old.parquet")
    assert [t.draw for t in read_trajectories(tmp_path / "old.parquet")] == [None, None]


def test_matches_pass_the_check_before_training():
    check_environment(SELF)
    check_environment(EnvSpec("textarena/PigDice-v0-short", {"opponent": "self"}))


def test_an_opponent_that_is_not_there_is_named(tokenizer, ends):
    env = EnvSpec("textarena/Nim-v0", {"opponent": "builtin:huge"})
    with pytest.raises(UserError, match="builtin:huge"):
        check_environment(env)
    with pytest.raises(UserError, match="builtin:huge"):
        collector(tokenizer, ends, Mover(tokenizer), env).collect(EPISODES[:1])
