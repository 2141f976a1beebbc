"""The oracle's distribution is the mixture that its module defines, whichever way it is read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trpd_agents.errors import UserError
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.teacher import OracleTeacher
from trpd_agents.teacher.oracle import FLOOR, choice, continuations
from trpd_agents.teacher.oracle_replay import Options
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Trajectory, pad_scored
from trpd_envs import format_call

V = 450  # more than the tokenizer has, as padded output heads do
UNIFORM = 0.05
KEYS = EnvSpec("KeyChain-v0", {"length": 2, "decoys": 2})
LAKE = EnvSpec("GridLake-v0", {"size": 3, "holes": 1})
NUMBERS = EnvSpec("GuessNumber-v0", {"high": 12})
DOORS = EnvSpec("Courier-v0", {"rooms": 3})


@pytest.fixture
def teacher(tokenizer) -> OracleTeacher:
    return OracleTeacher(tokenizer, V, uniform=UNIFORM, top_k=5, entropy=True, keep_hidden=True)


@pytest.fixture
def episodes(play, tokenizer) -> list[Trajectory]:
    """Good play, mistakes, a lost task, nonsense, an action cut off, and another spelling of a good one."""
    nonsense = [7, 9, tokenizer.eos_token_id]
    up = [*tokenizer("do", add_special_tokens=False)["input_ids"], *tokenizer("wn")["input_ids"]]
    return [
        play(KEYS, 0, [None, None, None]),
        play(KEYS, 1, [None, nonsense, nonsense[:2], None]),
        play(NUMBERS, 5, ["1", "12", "11", None, None]),
        play(LAKE, 0, [None, [*up, tokenizer.eos_token_id], None]),
        play(DOORS, 2, [format_call("go", room="vault"), None, None]),
    ]


def naive(trajectory: Trajectory, tokenizer) -> torch.Tensor:
    """`[n, V]` probabilities, by going through every action at every position."""
    env = make(EnvSpec(trajectory.env_id, trajectory.env_kwargs))
    env.reset(trajectory.seed)
    dialogue = Dialogues(tokenizer)(env.instructions, env.tools)
    rows = []
    for turn in trajectory.turns:
        optimal, legal = env.optimal_actions(), env.legal_actions()
        everything = set(optimal) | set(legal)
        chance = {text: (UNIFORM if optimal else 1) / len(everything) for text in everything}
        for text in optimal:
            chance[text] += (1 - UNIFORM) / len(optimal)
        sampled = trajectory.tokens[turn.action[0] : turn.action[1]].tolist()
        for j in range(len(sampled)):
            row = torch.zeros(V, dtype=torch.float64)
            for text, p in chance.items():
                ids = dialogue.answer(text)
                if ids[:j] == sampled[:j]:
                    row[ids[j]] += p
            known = row.sum() > 0
            rows.append((1 - FLOOR) * row / row.sum() + FLOOR / V if known else torch.full_like(row, 1 / V))
        if turn is not trajectory.turns[-1]:
            env.step(turn.text)
    return torch.stack(rows)


def test_the_whole_distribution_is_that_of_a_naive_enumeration(teacher, episodes, tokenizer):
    off = 0
    for trajectory, scores in zip(episodes, teacher.score(episodes), strict=True):
        wanted = naive(trajectory, tokenizer)
        found = teacher.log_distribution(scores.hidden)
        assert found.shape == wanted.shape == (len(trajectory.action_positions()), V)
        assert torch.allclose(found.double().exp(), wanted, atol=1e-6)
        assert torch.allclose(found.double(), wanted.log(), atol=1e-4)
        assert torch.allclose(found.double().logsumexp(1), torch.zeros(len(found), dtype=torch.float64), atol=1e-5)
        off += int((wanted.max(1).values < 1.01 / V).sum())
    assert off >= 4  # the episodes reach positions at which nothing is known


def test_scores_top_tokens_and_entropy_are_of_that_distribution(teacher, episodes, tokenizer):
    for trajectory, scores in zip(episodes, teacher.score(episodes), strict=True):
        logp = naive(trajectory, tokenizer).log()
        at = trajectory.action_positions()
        assert scores.positions.tolist() == at.tolist()
        own = logp.gather(1, torch.from_numpy(trajectory.tokens[at]).long()[:, None])[:, 0]
        assert scores.lt == pytest.approx(own.numpy(), abs=1e-4)
        assert scores.top_lt == pytest.approx(logp.topk(5).values.numpy(), abs=1e-4)
        assert scores.top_lt == pytest.approx(logp.gather(1, torch.from_numpy(scores.top_ids).long()).numpy(), abs=1e-4)
        assert all(len(set(row)) == 5 for row in scores.top_ids.tolist())
        assert scores.entropy == pytest.approx(-(logp.exp() * logp).sum(1).numpy(), abs=1e-4)
        assert scores.lt.dtype == scores.top_lt.dtype == scores.entropy.dtype == np.float32


def log_chance_of_last_turn(teacher: OracleTeacher, trajectory: Trajectory) -> tuple[float, float]:
    """Of all its tokens together, and how much the floor may have taken from it."""
    (scores,) = teacher.score([trajectory])
    lt = scores.lt[trajectory.turn_index()[scores.positions] == len(trajectory.turns) - 1]
    return float(lt.sum()), 1.1 * FLOOR * len(lt)


def test_an_actions_probability_is_that_of_being_chosen(play, teacher):
    env = make(KEYS)
    env.reset(0)
    env.step(env.expert())
    legal, best = env.legal_actions(), env.expert()
    assert len(legal) == 3
    for text in legal:
        chance = UNIFORM / 3 + (1 - UNIFORM) * (text == best)
        found, floor = log_chance_of_last_turn(teacher, play(KEYS, 0, [None, text]))
        assert found == pytest.approx(math.log(chance), abs=floor)


def test_a_lost_task_is_played_evenly_among_the_legal_actions(play, teacher):
    env = make(KEYS)
    env.reset(0)
    env.step(env.expert())
    wrong = next(text for text in env.legal_actions() if text != env.expert())
    env.step(wrong)
    assert env.expert() is None
    for text in env.legal_actions():
        found, floor = log_chance_of_last_turn(teacher, play(KEYS, 0, [None, wrong, text]))
        assert found == pytest.approx(math.log(1 / 3), abs=floor)


def test_one_score_does_not_depend_on_the_batch(teacher, episodes):
    together = teacher.score(episodes)
    for trajectory, scores in zip(episodes, together, strict=True):
        (alone,) = teacher.score([trajectory])
        assert np.array_equal(alone.lt, scores.lt) and np.array_equal(alone.top_lt, scores.top_lt)
        assert np.array_equal(alone.entropy, scores.entropy)
        assert torch.equal(teacher.log_distribution(alone.hidden), teacher.log_distribution(scores.hidden))
    widths = {scores.hidden.shape[1] for scores in together}
    assert len(widths) == 1  # the learner joins rows of several episodes


def test_nothing_more_is_returned_than_asked_for(tokenizer, episodes):
    plain = OracleTeacher(tokenizer, V)
    for scores in plain.score(episodes):
        assert scores.top_ids is scores.top_lt is scores.entropy is scores.hidden is None
    assert plain.score([]) == []
    assert pad_scored(episodes).action.any()


def test_an_environment_without_legal_actions_leaves_only_the_expert():
    only = choice(Options(("a",), ()), 0.1)
    assert only == {"a": pytest.approx(1.0)}
    assert choice(Options((), ()), 0.1) == {}
    assert continuations([], [1, 2]) == [{}, {}]
    assert choice(Options(("a", "b"), ("b", "c")), 0.3) == pytest.approx({"a": 0.45, "b": 0.45, "c": 0.1})


def test_an_answer_that_another_begins_with_does_not_break_anything():
    answers = [((1, 2), 0.5), ((1, 2, 3), 0.5)]
    assert continuations(answers, [1, 2, 3]) == [{1: 1.0}, {2: 1.0}, {3: 1.0}]


@pytest.mark.parametrize("uniform", [0, 1, -0.1])
def test_a_share_outside_its_range_is_refused(tokenizer, uniform):
    with pytest.raises(ValueError, match=r"uniform: found .*, wanted"):
        OracleTeacher(tokenizer, V, uniform=uniform)


def test_an_environment_without_an_expert_is_refused(play, teacher, tmp_path):
    source = "from trpd_envs.guessnumber import GuessNumber\n\nclass Silent(GuessNumber):\n    expert = None\n"
    (tmp_path / "silent.py").write_text(source + "    optimal_actions = None\n")
    trajectory = play(EnvSpec(f"{tmp_path / 'silent.py'}:Silent"), 0, ["3"])
    with pytest.raises(UserError, match=r"silent\.py:Silent' has no expert\(\), and the oracle teacher asks it"):
        teacher.score([trajectory])
