"""The oracle's turns: optimal while there is something optimal, and decided by the episode alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trpd_agents.credit.config import PrefixGuidance
from trpd_agents.errors import UserError
from trpd_agents.rollout import Collector, Episode, Limits, Plan, Sampling, TransformersEngine
from trpd_agents.rollout.engine import Request
from trpd_agents.teacher import optimal_at_turns
from trpd_agents.teacher.oracle_engine import OracleEngine
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Stop, Trajectory

LAKE = EnvSpec("GridLake-v0", {"size": 4, "holes": 2})


@pytest.fixture
def collect(make_lm, tokenizer, ends):
    def run(keys: list[int], guidance: PrefixGuidance, spec: EnvSpec = LAKE) -> list[Trajectory]:
        sampling = Sampling(6, ends, seed=3)
        collector = Collector(spec, TransformersEngine(make_lm(0)), tokenizer, sampling, Limits(8))
        plan = Plan(OracleEngine(tokenizer), guidance, progress=0.0, seed=1)
        return collector.collect([Episode(key, key) for key in keys], plan)

    return run


def prefix(turns: int) -> PrefixGuidance:
    return PrefixGuidance(turns=turns, schedule="constant")


def test_guided_turns_are_optimal_and_end(collect):
    played = collect(list(range(20)), prefix(3))
    first = set()
    for trajectory in played:
        for number, (options, turn) in enumerate(zip(optimal_at_turns(trajectory), trajectory.turns, strict=True)):
            assert turn.author == ("teacher" if number < 3 else "student")
            if turn.author == "teacher":
                assert turn.text in options.optimal and turn.stop is Stop.END
                first |= {turn.text} if number == 0 and len(options.optimal) == 2 else set()
    assert first == {"down", "right"}  # of two equally good moves neither is always taken


def test_a_turn_does_not_depend_on_the_batch(collect):
    together = {t.id: t.tokens.tolist() for t in collect(list(range(12)), prefix(4))}
    apart = {t.id: t.tokens.tolist() for part in ([7, 1, 0], [11, 2]) for t in collect(part, prefix(4))}
    assert all(together[key] == tokens for key, tokens in apart.items()) and len(apart) == 5


def test_where_the_task_is_lost_it_plays_on_legally(tokenizer, ends):
    env = make("KeyChain-v0")
    env.reset(0)
    env.step(env.expert())
    env.step(next(text for text in env.legal_actions() if text != env.expert()))
    assert env.expert() is None
    engine, sampling = OracleEngine(tokenizer), Sampling(200, ends)
    said = set()
    for key in range(30):
        (completion,) = engine.generate([Request(key, [1, 2], key, env)], sampling)
        said.add(tokenizer.decode(completion.tokens[:-1]))
    assert said <= set(env.legal_actions()) and len(said) > 2


def test_what_it_cannot_do_is_refused(tokenizer, ends):
    env = make("KeyChain-v0")
    env.reset(0)
    engine = OracleEngine(tokenizer)
    request = Request(0, [1, 2], 0, env)
    assert [row.shape for row in engine.append([request], [0])] == [(0,)]
    with pytest.raises(NotImplementedError, match="no opinion"):
        engine.append([request], [1])
    with pytest.raises(ValueError, match=r"request\.env: found None"):
        engine.generate([Request(0, [1], 0)], Sampling(9, ends))
    with pytest.raises(UserError, match=r"rollout\.max_new_tokens=4 is less than the \d+ tokens"):
        engine.generate([request], Sampling(4, ends))
    with pytest.raises(NotImplementedError, match="no weights"):
        engine.load_weights({"w": torch.zeros(1)}, 1)
    with pytest.raises(NotImplementedError, match="scores trajectories"):
        engine.logprobs([np.zeros(2)], [np.array([1])], 0)
