"""A routed teacher is each of its teachers alone, for the environments that are theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trpd_agents.errors import UserError
from trpd_agents.rollout.engine import Request, Sampling
from trpd_agents.teacher import LocalTeacher, OracleTeacher, RoutedTeacher, Teacher
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Trajectory

KEYS = EnvSpec("KeyChain-v0", {"length": 2, "decoys": 2})
NUMBERS = EnvSpec("GuessNumber-v0", {"high": 12})
LAKE = EnvSpec("GridLake-v0", {"size": 3, "holes": 1})
ROUTES = {"KeyChain-v0": "keys", "GuessNumber-v0": "numbers", "GridLake-v0": "lake"}


@pytest.fixture
def teachers(make_lm, tokenizer) -> dict[str, Teacher]:
    """Two models of different width and vocabulary, and the oracle."""
    wanted = {"top_k": 3, "entropy": True, "keep_hidden": True}
    return {
        "keys": LocalTeacher(make_lm(1), **wanted),
        "numbers": LocalTeacher(make_lm(2, hidden=48, vocab_size=len(tokenizer) + 8), **wanted),
        "lake": OracleTeacher(tokenizer, len(tokenizer), **wanted),
    }


@pytest.fixture
def episodes(play) -> list[Trajectory]:
    return [
        play(KEYS, 0, [None, None]),
        play(NUMBERS, 5, ["1", None]),
        play(KEYS, 3, [None]),
        play(LAKE, 1, [None, [7, 9], None]),
        play(NUMBERS, 6, ["12"]),
    ]


def test_every_trajectory_is_scored_by_its_own_teacher_in_order(teachers, episodes, make_lm) -> None:
    found = RoutedTeacher(teachers, ROUTES.get).score(episodes)
    for trajectory, scores in zip(episodes, found, strict=True):
        (alone,) = teachers[ROUTES[trajectory.env_id]].score([trajectory])
        assert np.array_equal(scores.positions, alone.positions)
        assert scores.lt == pytest.approx(alone.lt, abs=1e-5)
        assert scores.top_lt == pytest.approx(alone.top_lt, abs=1e-5)
        assert np.array_equal(scores.top_ids, alone.top_ids)
        assert scores.entropy == pytest.approx(alone.entropy, abs=1e-5)


def test_whole_distributions_are_those_of_the_teacher_that_scored(teachers, episodes) -> None:
    """Hidden states of different teachers, mixed as they are in a micro-batch."""
    routed = RoutedTeacher(teachers, ROUTES.get)
    found = routed.score(episodes)
    hidden = torch.cat([scores.hidden for scores in found])
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(0))
    mixed = routed.log_distribution(hidden[order])[order.argsort()]
    start = 0
    for trajectory, scores in zip(episodes, found, strict=True):
        teacher = teachers[ROUTES[trajectory.env_id]]
        (alone,) = teacher.score([trajectory])
        wanted = teacher.log_distribution(alone.hidden)
        part = mixed[start : start + len(wanted)]
        assert torch.allclose(part[:, : wanted.shape[1]], wanted, atol=1e-5)
        assert (part[:, wanted.shape[1] :] == -torch.inf).all()
        assert scores.lt == pytest.approx(part[range(len(part)), trajectory.tokens[scores.positions]].numpy(), abs=1e-5)
        start += len(wanted)


def test_hidden_states_in_half_precision_come_back_as_they_were(make_lm, episodes) -> None:
    half = LocalTeacher(make_lm(1, dtype=torch.bfloat16), keep_hidden=True)
    routed = RoutedTeacher({"keys": half, "numbers": LocalTeacher(make_lm(2, hidden=48), keep_hidden=True)}, ROUTES.get)
    (scores, _) = routed.score(episodes[:2])
    (alone,) = half.score(episodes[:1])
    assert torch.equal(routed.log_distribution(scores.hidden), half.log_distribution(alone.hidden))


def test_nothing_is_kept_where_nothing_was_asked_for(make_lm, episodes) -> None:
    (scores, *_) = RoutedTeacher({"keys": LocalTeacher(make_lm(1))}, lambda _: "keys").score(episodes)
    assert scores.hidden is None and scores.top_ids is None


def test_each_conversation_is_played_by_the_teacher_of_its_environment(teachers, tokenizer, ends) -> None:
    routed = RoutedTeacher(teachers, ROUTES.get)
    sampling = Sampling(4, ends, seed=1)
    requests = []
    for number, spec in enumerate((KEYS, LAKE, NUMBERS, KEYS)):
        env = make(spec)
        requests.append(Request(number, tokenizer(env.reset(number))["input_ids"], number, env))
    together = routed.engine.generate(requests, sampling)
    routed.engine.release([0, 1, 2, 3])
    for request, completion in zip(requests, together, strict=True):
        engine = teachers[ROUTES[request.env.spec.id]].engine
        (alone,) = engine.generate([request], sampling)
        engine.release([request.conversation])
        assert alone.tokens == completion.tokens
    (said, none) = routed.engine.append([requests[0], requests[1]], [2, 0])
    (alone,) = LocalTeacher(teachers["keys"].lm).engine.append([requests[0]], [2])
    assert said == pytest.approx(alone, abs=1e-5) and len(none) == 0
    with pytest.raises(ValueError, match=r"request\.env"):
        routed.engine.generate([Request(9, [1], 9)], sampling)


def test_guidance_needs_all_of_them_to_play(teachers) -> None:
    class Silent:
        engine = None

    assert RoutedTeacher({**teachers, "silent": Silent()}, ROUTES.get).engine is None  # type: ignore[dict-item]


def test_an_environment_without_a_route_is_refused(teachers, episodes) -> None:
    with pytest.raises(UserError, match="no pattern fits 'GuessNumber-v0'"):
        RoutedTeacher(teachers, {"KeyChain-v0": "keys"}.get).score(episodes)
    with pytest.raises(
        UserError, match="'KeyChain-v0' leads to 'doors'; this run has the teachers keys, numbers, lake"
    ):
        RoutedTeacher(teachers, lambda _: "doors").score(episodes)
