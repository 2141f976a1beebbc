"""The hinted teacher scores the student's own tokens, in a conversation that a hint was put into by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from trpd_agents.config import ImitationConfig, LearnerConfig
from trpd_agents.errors import RunError, UserError
from trpd_agents.imitation import imitate
from trpd_agents.rollout import Collector, Episode, Limits, Sampling, TransformersEngine
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Request
from trpd_agents.storage import read_trajectories, write_trajectories
from trpd_agents.teacher import LocalTeacher
from trpd_agents.teacher.hinted import HintedEngine, HintedTeacher, longest_hint, tell
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Trajectory

ENVS = Path(__file__).with_name("hinting_env.py")
NUMBERS = EnvSpec(f"{ENVS}:Number", {"high": 12})
KEYS = EnvSpec(f"{ENVS}:Keys", {"length": 2, "decoys": 2})


@pytest.fixture
def episodes(play, tokenizer) -> list[Trajectory]:
    """Several turns with and without tools, and an action that was cut off."""
    nonsense = [7, 9, tokenizer.eos_token_id]
    return [
        play(NUMBERS, 5, ["1", "12", nonsense[:2], None]),
        play(KEYS, 0, [None, None, None]),
        play(KEYS, 3, [nonsense, None]),
    ]


def by_hand(trajectory: Trajectory, tokenizer) -> tuple[list[int], list[int]]:
    """The hinted conversation rendered by the chat template from messages, and the positions of the actions in it."""
    messages = [{"role": "system", "content": trajectory.instructions}] if trajectory.instructions else []
    for k, turn in enumerate(trajectory.turns):
        content = turn.observation if k else f"{trajectory.hint}\n\n{turn.observation}"
        role = "tool" if k and trajectory.tools else "user"
        messages += [{"role": role, "content": content}, {"role": "assistant", "content": f"@{k}@"}]
    text = tokenizer.apply_chat_template(messages, tools=trajectory.tools or None, tokenize=False)
    tokens: list[int] = []
    positions: list[int] = []
    for k, turn in enumerate(trajectory.turns):
        before, _, text = text.partition(f"@{k}@")
        if tokens:  # the end token is the action's own, or was fed where the action had been cut off
            end = tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id)
            assert before.startswith(end)
            before = before.removeprefix(end) if tokens[-1] == tokenizer.eos_token_id else before
        tokens += tokenizer(before, add_special_tokens=False)["input_ids"]
        said = trajectory.tokens[turn.action[0] : turn.action[1]].tolist()
        positions += range(len(tokens), len(tokens) + len(said))
        tokens += said
    return tokens, positions


def test_scores_are_those_of_the_conversation_with_the_hint_in_it(make_lm, tokenizer, play, reference_logprobs) -> None:
    lm = make_lm(1)
    episodes = [
        play(NUMBERS, 5, ["1", "12", [7, 9], None]),
        play(EnvSpec(f"{ENVS}:Number", {"high": 99}), 6, [[7, 9, tokenizer.eos_token_id], "50", None]),
        play(NUMBERS, 7, [None, None]),
        dataclasses.replace(play(KEYS, 0, [None, [7, 9], None]), hint="Take what is red."),
    ]
    teacher = HintedTeacher(lm, top_k=4, entropy=True, keep_hidden=True)
    for trajectory, scores in zip(episodes, teacher.score(episodes), strict=True):
        tokens, positions = by_hand(trajectory, tokenizer)
        wanted = reference_logprobs(lm, np.array(tokens))[positions]
        own = trajectory.tokens[scores.positions]
        assert scores.positions.tolist() == trajectory.action_positions().tolist()
        assert own.tolist() == [tokens[p] for p in positions]
        assert torch.from_numpy(scores.lt) == pytest.approx(wanted[range(len(own)), own], abs=1e-5)
        assert scores.top_lt == pytest.approx(wanted.topk(4).values.numpy(), abs=1e-5)
        assert scores.entropy == pytest.approx(torch.special.entr(wanted.exp()).sum(-1).numpy(), abs=1e-5)
        assert scores.hidden is not None
        assert torch.allclose(teacher.log_distribution(scores.hidden), wanted, atol=1e-5)


def test_a_hint_moves_everything_after_it_and_changes_nothing_else(episodes, tokenizer) -> None:
    for trajectory in episodes:
        told = tell(trajectory, Dialogues(tokenizer))
        added = len(told.tokens) - len(trajectory.tokens)
        assert added > 0 and trajectory.hint is not None
        assert trajectory.hint in tokenizer.decode(told.tokens[: told.turns[0].action[0]])
        assert trajectory.hint not in tokenizer.decode(trajectory.tokens)
        for own, moved in zip(trajectory.turns, told.turns, strict=True):
            assert moved.action == (own.action[0] + added, own.action[1] + added)
            assert np.array_equal(told.tokens[slice(*moved.action)], trajectory.tokens[slice(*own.action)])
            assert np.array_equal(told.logprobs[slice(*moved.action)], trajectory.logprobs[slice(*own.action)])
        first = trajectory.turns[0].action[0]
        assert np.array_equal(told.tokens[first + added :], trajectory.tokens[first:])
        assert np.isnan(told.logprobs[: first + added]).all()
        assert told.turns[0].prompt == (0, first + added)
        ends = tokenizer.eos_token_id  # what a hint spells stays text
        assert (told.tokens[: first + added] == ends).sum() == (trajectory.tokens[:first] == ends).sum()


def test_what_an_action_is_scored_with_does_not_depend_on_later_turns(episodes, make_lm) -> None:
    teacher = HintedTeacher(make_lm(2))
    (whole, *_) = teacher.score(episodes[:1])
    cut = dataclasses.replace(episodes[0], turns=episodes[0].turns[:1])
    (first,) = teacher.score([cut])
    assert first.lt == pytest.approx(whole.lt[: len(first.lt)], abs=1e-5)


def test_without_the_weights_moving_the_student_is_the_teacher_only_without_a_hint(episodes, make_lm) -> None:
    lm = make_lm(1)
    hinted, plain = HintedTeacher(lm).score(episodes), LocalTeacher(lm).score(episodes)
    assert all(np.abs(h.lt - p.lt).max() > 1e-2 for h, p in zip(hinted, plain, strict=True))


def test_a_following_teacher_answers_for_the_weights_it_was_asked_of(episodes, make_lm) -> None:
    lm = make_lm(1)
    teacher = HintedTeacher(lm, moving=True, keep_hidden=True)
    (scores, *_) = teacher.score(episodes)
    before = teacher.log_distribution(scores.hidden)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert torch.equal(teacher.log_distribution(scores.hidden), before)
    (now, *_) = teacher.score(episodes)
    assert np.abs(now.lt - scores.lt).max() > 1e-2
    assert not torch.allclose(teacher.log_distribution(now.hidden), before, atol=1e-2)


@pytest.mark.parametrize("spec", [NUMBERS, KEYS])
def test_its_engine_plays_what_it_would_score_so(spec, make_lm, tokenizer, ends) -> None:
    """The log-probabilities that it samples with are those that it scores its own episodes with."""
    lm = make_lm(3)
    engine = HintedEngine(TransformersEngine(lm), tokenizer)
    collector = Collector(spec, engine, tokenizer, Sampling(6, ends, seed=4), Limits(3))
    played = collector.collect([Episode(seed, seed) for seed in range(4)])
    for trajectory, scores in zip(played, HintedTeacher(lm).score(played), strict=True):
        assert scores.lt == pytest.approx(trajectory.logprobs[scores.positions], abs=1e-4)
        env = make(spec)
        env.reset(trajectory.seed)
        assert (trajectory.hint, trajectory.instructions, trajectory.tools) == (env.hint, env.instructions, env.tools)
    with pytest.raises(ValueError, match=r"request\.env"):
        engine.generate([Request(9, [1, 2], 9)], Sampling(2, ends))


def test_reading_along_gives_the_scores_of_the_hinted_conversation(episodes, make_lm, tokenizer) -> None:
    lm = make_lm(3)
    engine, trajectory = HintedEngine(TransformersEngine(lm), tokenizer), episodes[0]
    env = make(NUMBERS)
    env.reset(trajectory.seed)
    (scores,) = HintedTeacher(lm).score([trajectory])
    found, given = [], 0
    for turn in trajectory.turns:
        start, end = turn.action
        request = Request(1, trajectory.tokens[given:end].tolist(), 1, env)
        found.append(engine.append([request], [end - start])[0])
        given = end
    assert np.concatenate(found) == pytest.approx(scores.lt, abs=1e-5)


def test_hints_are_stored_with_their_episodes(episodes, make_lm, tmp_path) -> None:
    write_trajectories(tmp_path / "some.parquet", episodes)
    read = read_trajectories(tmp_path / "some.parquet")
    assert [t.hint for t in read] == [t.hint for t in episodes]
    teacher = HintedTeacher(make_lm(1))
    for again, once in zip(teacher.score(read), teacher.score(episodes), strict=True):
        assert np.array_equal(again.lt, once.lt)


def test_who_was_taught_to_use_hints_knows_more_with_them(make_lm, play, tokenizer) -> None:
    """The secret, said at once, is probable with the hint; without it nothing could tell."""
    lm, env = make_lm(0), EnvSpec(f"{ENVS}:Number", {"high": 3, "max_turns": 2})

    def answered(seed: int) -> Trajectory:
        made = make(env)
        made.reset(seed)
        return play(env, seed, [str(made.env.unwrapped.secret)])

    shown = [tell(answered(seed), Dialogues(tokenizer)) for seed in range(16)]
    for demonstration in shown:
        demonstration.turns[0].author = "teacher"
    learner = LearnerConfig(lr=1e-2, device="cpu")
    imitate(lm, shown, ImitationConfig(demonstrations=16, updates=60, batch=16, lr=1e-2), learner=learner)
    unseen = [answered(seed) for seed in range(100, 112)]
    with_hint = np.array([s.lt[0] for s in HintedTeacher(lm).score(unseen)])
    without = np.array([s.lt[0] for s in LocalTeacher(lm).score(unseen)])
    assert np.exp(with_hint).mean() > 0.9 > 0.6 > np.exp(without).mean()


def test_an_environment_without_hints_is_refused(play, tokenizer, make_lm) -> None:
    silent = EnvSpec(NUMBERS.id, {"hints": False})
    with pytest.raises(UserError, match=r'Number \(seed 0\) gives no info\["hint"\] at the reset'):
        longest_hint(silent, tokenizer)
    with pytest.raises(UserError, match=r'gives no info\["hint"\]'):
        HintedTeacher(make_lm(0)).score([play(silent, 0, [None])])
    with pytest.raises(UserError, match=r'info\["hint"\] of reset is 17; wanted a text'):
        longest_hint(EnvSpec(f"{ENVS}:Silly"), tokenizer)
    added = len(tokenizer("The secret number is 12.\n\n")["input_ids"])
    assert abs(longest_hint(NUMBERS, tokenizer) - added) <= 2


def test_a_conversation_that_begins_differently_has_no_place_for_a_hint(episodes, make_lm) -> None:
    stored = dataclasses.replace(episodes[0], instructions="")
    with pytest.raises(RunError, match="does not begin with its instructions"):
        HintedTeacher(make_lm(0)).score([stored])


def test_a_hint_that_does_not_fit_into_the_context_is_refused(episodes, make_lm) -> None:
    long = dataclasses.replace(episodes[0], hint="The secret is large. " * 1000)
    with pytest.raises(UserError, match=r"with its hint has \d+ tokens, and the context of 'tiny-0' ends at 2048"):
        HintedTeacher(make_lm(0)).score([long])


def test_no_turns_no_hint_needed(episodes, make_lm) -> None:
    blank = dataclasses.replace(episodes[0], turns=[], hint=None)
    (scores, other) = HintedTeacher(make_lm(0)).score([blank, episodes[1]])
    assert len(scores.positions) == 0 and len(other.positions) > 0
