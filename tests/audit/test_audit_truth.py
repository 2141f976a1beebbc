"""What the teacher would have done at every turn is held against what was optimal there."""

from __future__ import annotations

import numpy as np
import pytest

from trpd_agents.audit import label_turns
from trpd_agents.audit.truth import preferred_actions
from trpd_agents.rollout import Sampling, TransformersEngine
from trpd_agents.textenv import EnvSpec, make

NUMBERS = EnvSpec("GuessNumber-v0", {"high": 7})
KEYS = EnvSpec("KeyChain-v0", {"length": 2})


def secrets(*wanted: int) -> list[int]:
    """For each, a seed under which it is the secret."""
    found = {}
    for seed in range(200):
        env = make(NUMBERS)
        env.reset(seed)
        found.setdefault(env.env.unwrapped.secret, seed)  # type: ignore[attr-defined]
    return [found[secret] for secret in wanted]


@pytest.fixture
def label(ends, tokenizer):
    def run(trajectories, engine, token_budget=4096):
        return label_turns(trajectories, engine, tokenizer, max_new_tokens=8, end_ids=ends, token_budget=token_budget)

    return run


@pytest.fixture
def guesses(collect):
    """Secrets 3 and 5; the student says 1, 7, and then the secret."""
    seeds = secrets(3, 5)
    return collect(NUMBERS, seeds, lambda env, k: ["1", "7", env.hint.split()[-1].rstrip(".")][k])


def test_labels_by_hand(guesses, make_teacher, label):
    # left after each turn: 1..7, then 2..7, then 2..6: optimal are 4, then 4 and 5, then 4
    turns = label(guesses, make_teacher(guesses, ["5"] * 6))
    assert turns.optimal == [("4",), ("4", "5"), ("4",)] * 2
    assert turns.teacher_right.tolist() == [False, True, False] * 2
    assert turns.wrong.tolist() == [True, False, True] * 2
    assert turns.student_right.tolist() == [False] * 6
    assert turns.on_track.all() and not turns.lost.any()
    assert turns.episode.tolist() == [0, 0, 0, 1, 1, 1] and turns.turn.tolist() == [0, 1, 2] * 2
    assert turns.seed.tolist() == [t.seed for t in guesses for _ in t.turns]
    assert turns.teacher_action == ["5"] * 6 and turns.student_action == ["1", "7", "3", "1", "7", "5"]
    assert label(guesses, make_teacher(guesses, ["4"] * 6)).teacher_right.all()


def test_where_the_task_is_lost_nothing_is_right(collect, make_teacher, label):
    def astray(env, k):
        wrong = [text for text in env.legal_actions() if text not in env.optimal_actions()]
        return wrong[0] if k == 1 else env.expert() or env.legal_actions()[0]

    played = collect(KEYS, [0, 1], astray)
    truth = [texts for t in played for texts in _optimal(t)]
    turns = label(played, make_teacher(played, [texts[0] if texts else "open" for texts in truth]))
    assert turns.on_track.tolist() == [turn < 2 for turn in turns.turn]
    assert turns.teacher_right.tolist() == turns.on_track.tolist()
    assert turns.student_right.tolist() == [turn == 0 for turn in turns.turn]
    assert turns.lost.sum() == 2 and not turns.wrong.any()


def _optimal(trajectory):
    env = make(KEYS)
    env.reset(trajectory.seed)
    for turn in trajectory.turns:
        yield env.optimal_actions()
        env.step(turn.text)


def test_each_prefix_is_asked_once_and_forgotten(guesses, make_teacher, label):
    engine = make_teacher(guesses, ["4"] * 6)
    done: list[int] = []
    label(guesses, engine, token_budget=1)
    assert len(set(engine.asked)) == len(engine.asked) == 3  # both episodes begin alike, up to the secret
    prefixes = [t.tokens[: turn.action[0]] for t in guesses for turn in t.turns]
    preferred_actions(engine, prefixes, Sampling(8, frozenset(), 0.0), 60, done.append)
    assert done[-1] == 6 and not engine.held


def test_the_preferred_action_is_the_models_greedy_one(make_lm, ends, reference_logprobs):
    lm = make_lm(3)
    rng = np.random.default_rng(0)
    prefixes = [rng.integers(5, 300, size=n).astype(np.int32) for n in (4, 30, 9, 17)]
    sampling = Sampling(6, ends, temperature=0.0)
    found = preferred_actions(TransformersEngine(lm), prefixes, sampling, 64)
    for prefix, said in zip(prefixes, found, strict=True):
        tokens = prefix.tolist()
        for token in said:
            logp = reference_logprobs(lm, np.array([*tokens, 0]))[-1]
            assert logp[token] >= logp.max() - 1e-4
            tokens.append(token)
        assert len(said) == 6 or said[-1] in ends
