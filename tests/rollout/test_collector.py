"""What the collector writes down is what was fed and sampled; environment faults never look like failed episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.credit.config import PrefixGuidance
from trpd_agents.dialogue import Dialogue
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Plan, Sampling, TransformersEngine, demonstrate
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Outcome, Stop, Trajectory, pad_scored

ENV = f"{Path(__file__).parent / 'scripted_env.py'}:Scripted"
EPISODES = [Episode(seed, 100 + seed) for seed in (4, 1, 3, 0, 2, 5)]
LIMITS = Limits(max_turns=20, max_tokens=2000)


def env_class() -> type:
    return type(make(EnvSpec(ENV)).env)


@pytest.fixture
def collector(make_lm, tokenizer, ends) -> Callable[..., Collector]:
    def build(env: EnvSpec | None = None, limits: Limits = LIMITS, lm_seed: int = 0) -> Collector:
        sampling = Sampling(max_new_tokens=5, end_ids=ends, seed=3)
        return Collector(env or EnvSpec(ENV), TransformersEngine(make_lm(lm_seed)), tokenizer, sampling, limits)

    return build


def same(a: Trajectory, b: Trajectory) -> bool:
    """Equal in everything but floating-point noise of the log-probabilities."""
    plain = [dataclasses.replace(t, tokens=t.tokens.tolist(), logprobs=None) for t in (a, b)]
    return plain[0] == plain[1] and bool(np.allclose(a.logprobs, b.logprobs, atol=1e-5, equal_nan=True))


def check_token_exact(trajectory: Trajectory, dialogue: Dialogue) -> None:
    """The tokens are: the start, and for each turn its action as sampled and what was fed after it."""
    rebuilt: list[int] = []
    for k, turn in enumerate(trajectory.turns):
        fed = (
            dialogue.start(turn.observation)
            if k == 0
            else dialogue.observe(turn.observation, ended=trajectory.turns[k - 1].stop is Stop.END)
        )
        assert turn.prompt == (len(rebuilt), len(rebuilt) + len(fed))
        rebuilt += fed
        action = trajectory.tokens[slice(*turn.action)].tolist()
        assert turn.action == (len(rebuilt), len(rebuilt) + len(action)) and action
        assert turn.text == dialogue.text(action)
        rebuilt += action
    assert trajectory.tokens.tolist() == rebuilt


@pytest.mark.parametrize("env", [EnvSpec(ENV), EnvSpec("KeyChain-v0", {"max_turns": 5}), EnvSpec("GuessNumber-v0")])
def test_tokens_are_exactly_what_was_fed_and_sampled(collector, tokenizer, env):
    played = make(env)
    dialogue = Dialogue(tokenizer, played.instructions, played.tools)
    trajectories = collector(env).collect(EPISODES)
    for trajectory in trajectories:
        check_token_exact(trajectory, dialogue)
    stops = {turn.stop for t in trajectories for turn in t.turns}
    assert stops == {Stop.END, Stop.LENGTH}  # both ways on from an action were taken


def test_decoded_tokens_are_the_rendered_conversation(collector, tokenizer):
    env = make(EnvSpec(ENV))
    for trajectory in collector().collect(EPISODES):
        messages = [{"role": "system", "content": env.instructions}]
        for turn in trajectory.turns:
            messages += [{"role": "user", "content": turn.observation}, {"role": "assistant", "content": turn.text}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        decoded = tokenizer.decode(trajectory.tokens.tolist(), skip_special_tokens=False)
        assert rendered.startswith(decoded)
        assert rendered[len(decoded) :] in ("\n", "<|im_end|>\n")  # the template closes the last turn


def test_log_probabilities_belong_to_the_action_tokens(collector, make_lm, reference_logprobs):
    for trajectory in collector().collect(EPISODES[:3]):
        own = trajectory.authored("student")
        assert np.array_equal(own, trajectory.turn_index() >= 0)
        assert np.isnan(trajectory.logprobs[~own]).all()
        logp = reference_logprobs(make_lm(0), trajectory.tokens)
        wanted = logp[np.flatnonzero(own), torch.from_numpy(trajectory.tokens[own]).long()]
        assert trajectory.logprobs[own] == pytest.approx(wanted.numpy(), abs=1e-5)


def test_what_the_environment_said_is_written_down(collector):
    for episode, trajectory in zip(EPISODES, collector().collect(EPISODES), strict=True):
        assert (trajectory.id, trajectory.seed) == (episode.key, episode.seed)
        turns = 3 + episode.seed % 3
        assert len(trajectory.turns) == turns
        assert trajectory.outcome is Outcome.TERMINATED
        assert trajectory.success is (episode.seed % 2 == 0)
        assert trajectory.reward == pytest.approx(0.25 * turns)
        assert [turn.reward for turn in trajectory.turns] == [0.25] * turns
        assert [turn.ok for turn in trajectory.turns] == [k % 2 == 0 for k in range(turns)]
        for before, after in zip(trajectory.turns, trajectory.turns[1:], strict=False):
            assert f"{len(before.text)} characters" in after.observation
        assert trajectory.final_observation.startswith(f"turn {turns}:")
        assert trajectory.env_id == ENV


def test_tool_calls_are_written_down(tokenizer):
    played, _ = demonstrate(EnvSpec("KeyChain-v0"), Dialogues(tokenizer), range(2), max_turns=12)
    assert played
    for trajectory in played:
        assert all([call["name"] for call in turn.calls] in (["lookup"], ["submit"]) for turn in trajectory.turns)
        assert trajectory.authored("teacher").sum() == len(trajectory.action_positions()) > 0
        assert np.isnan(trajectory.logprobs).all()


def test_a_demonstration_is_what_a_model_would_have_been_fed(tokenizer):
    env = make(EnvSpec("KeyChain-v0"))
    dialogue = Dialogue(tokenizer, env.instructions, env.tools)
    for trajectory in demonstrate(EnvSpec("KeyChain-v0"), Dialogues(tokenizer), range(2), max_turns=12)[0]:
        check_token_exact(trajectory, dialogue)


@pytest.mark.parametrize("parallel", [1, 4])
def test_results_do_not_depend_on_how_many_play_at_once(collector, parallel):
    all_at_once = collector().collect(EPISODES)
    few = collector(limits=dataclasses.replace(LIMITS, parallel=parallel)).collect(EPISODES)
    assert [t.id for t in few] == [e.key for e in EPISODES]
    assert all(same(a, b) for a, b in zip(all_at_once, few, strict=True))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_results_do_not_depend_on_order_company_or_slots(collector, data):
    """Random lengths and endings; episodes take the slots of those that end."""
    seeds = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=7, unique=True))
    env = {"length": data.draw(st.integers(1, 4)), "spread": data.draw(st.integers(1, 5))}
    env |= {"words": data.draw(st.integers(0, 30)), "truncate": data.draw(st.booleans())}
    parallel = data.draw(st.integers(1, 4))
    episodes = [Episode(seed, 100 + seed) for seed in seeds]
    limits = dataclasses.replace(LIMITS, parallel=parallel, max_tokens=data.draw(st.sampled_from([90, 2000])))
    together = collector(EnvSpec(ENV, env), limits=limits).collect(episodes)
    assert [t.seed for t in together] == seeds
    for episode, found in zip(episodes, together, strict=True):
        alone = collector(EnvSpec(ENV, env), limits=limits).collect([episode])[0]
        assert same(alone, found)


def test_an_ended_episode_makes_room_at_once(collector, monkeypatch):
    c = collector(EnvSpec(ENV, {"length": 1, "spread": 6}), limits=dataclasses.replace(LIMITS, parallel=2))
    live: list[int] = []
    generate = c.engine.generate

    def watched(requests, sampling):
        live.append(len(requests))
        return generate(requests, sampling)

    monkeypatch.setattr(c.engine, "generate", watched)
    turns = [len(t.turns) for t in c.collect(EPISODES)]
    assert turns == [1 + e.seed % 6 for e in EPISODES]
    waited = live.index(1) if 1 in live else len(live)
    assert live[:waited] == [2] * waited and set(live[waited:]) <= {1}
    assert sum(live) == sum(turns) and len(live) < 14  # in chunks of two it takes 5 + 4 + 6 rounds


def test_an_episode_played_again_waits_for_its_turn(collector):
    env = EnvSpec(ENV, {"fail": "step", "bad_seeds": (4,), "tag": "queue"})
    order: list[int] = []
    limits = dataclasses.replace(LIMITS, parallel=2)
    collector(env, limits=limits).collect(EPISODES, on_finish=lambda t: order.append(t.seed))
    assert sorted(order) == sorted(e.seed for e in EPISODES) and order[-1] == 4


def test_every_finished_episode_is_reported_once(collector):
    seen: list[int] = []
    collector().collect(EPISODES, on_finish=lambda t: seen.append(t.id))
    assert sorted(seen) == sorted(e.key for e in EPISODES)


# Limits


def test_turn_limit(collector):
    trajectories = collector(limits=Limits(max_turns=2)).collect(EPISODES)
    assert {t.outcome for t in trajectories} == {Outcome.MAX_TURNS}
    assert {len(t.turns) for t in trajectories} == {2}
    assert {t.success for t in trajectories} == {False}


def test_a_lower_turn_limit_for_some_episodes(collector):
    c = collector()
    capped = c.collect(EPISODES, max_turns=2)
    assert {(t.outcome, len(t.turns), t.success) for t in capped} == {(Outcome.MAX_TURNS, 2, False)}
    whole = c.collect(EPISODES)
    assert {t.outcome for t in whole} == {Outcome.TERMINATED}  # the next ones are not capped
    for cut, full in zip(capped, whole, strict=True):
        assert cut.tokens.tolist() == full.tokens[: len(cut.tokens)].tolist()
    assert {len(t.turns) for t in collector(limits=Limits(max_turns=2)).collect(EPISODES, max_turns=9)} == {2}


def test_the_environments_own_limit_is_another_outcome(collector):
    trajectories = collector(EnvSpec(ENV, {"truncate": True})).collect(EPISODES[:2])
    assert {t.outcome for t in trajectories} == {Outcome.TRUNCATED}


@pytest.mark.parametrize("max_tokens", [60, 75, 90])
def test_token_limit(collector, max_tokens):
    env = EnvSpec(ENV, {"length": 12})
    trajectories = collector(env, limits=Limits(max_turns=20, max_tokens=max_tokens)).collect(EPISODES)
    assert all(len(t.tokens) <= max_tokens for t in trajectories)
    assert {t.outcome for t in trajectories} == {Outcome.MAX_TOKENS}
    longer = collector(env).collect(EPISODES)
    for cut, whole in zip(trajectories, longer, strict=True):
        assert cut.tokens.tolist() == whole.tokens[: len(cut.tokens)].tolist()
        assert cut.success is False
        following = whole.turns[len(cut.turns)].prompt
        assert following[1] + 5 > max_tokens  # it would not have fitted


def test_a_first_observation_that_does_not_fit_is_never_answered(collector):
    trajectories = collector(limits=Limits(max_turns=20, max_tokens=20)).collect(EPISODES[:2])
    assert {t.outcome for t in trajectories} == {Outcome.MAX_TOKENS}
    assert all(not t.turns and t.success is False and t.error is None for t in trajectories)
    credit = assign_credit(pad_scored(trajectories), CreditConfig())  # nor does it trouble what comes after
    assert credit.counts["action_tokens"] == 0


def test_time_limit(collector):
    env = EnvSpec(ENV, {"length": 12, "seconds": 0.02})
    trajectory = collector(env, limits=Limits(max_turns=20, episode_seconds=0.03)).collect(EPISODES[:1])[0]
    assert trajectory.outcome is Outcome.TIMEOUT
    assert 1 <= len(trajectory.turns) < 12
    assert trajectory.success is False


# Faults of the environment


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_episode_whose_environment_failed_once_is_played_again(collector, where):
    env = EnvSpec(ENV, {"fail": where, "bad_seeds": (1, 4), "tag": f"once-{where}"})
    found = collector(env).collect(EPISODES)
    undisturbed = collector(EnvSpec(ENV)).collect(EPISODES)
    for a, b in zip(found, undisturbed, strict=True):
        assert a.error is None
        assert same(dataclasses.replace(a, env_kwargs={}), b)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_environment_that_always_fails_is_an_error_and_no_result(collector, where):
    env = EnvSpec(ENV, {"fail": where, "bad_seeds": (1, 4), "failures": 99, "tag": f"always-{where}"})
    finished: list[int] = []
    found = collector(env).collect(EPISODES, on_finish=lambda t: finished.append(t.id))
    assert [t.id for t in found] == [e.key for e in EPISODES]
    assert len(finished) == len(EPISODES)
    for trajectory in found:
        if trajectory.seed in (1, 4):
            assert trajectory.outcome is Outcome.ERROR
            assert trajectory.success is None
            assert trajectory.error is not None
            assert trajectory.error["kind"] == f"{where}_raised"
            assert f"{where} fell over" in trajectory.error["message"]
        else:
            assert trajectory.error is None and trajectory.success is not None
    assert env_class().attempts[f"always-{where}", 1] == 2  # one fresh start, no more


def test_environments_are_closed(collector):
    tag = "closing"
    collector(EnvSpec(ENV, {"tag": tag, "fail": "step", "bad_seeds": (1,), "failures": 99})).collect(EPISODES)
    cls = env_class()
    assert cls.closed[tag] == cls.opened[tag] == len(EPISODES) + 1


def test_seconds_are_handed_out_once(collector):
    c = collector(EnvSpec(ENV, {"seconds": 0.01}))
    c.collect(EPISODES[:1])
    seconds = c.take_seconds()
    assert 0.04 <= seconds["environment"] < 5 and seconds["generate"] > 0
    assert c.take_seconds() == {"generate": 0.0, "environment": 0.0}


def test_every_action_given_to_an_environment_is_counted(collector):
    """Those of an attempt that failed too: seeds 1 and 4 fall over in their second turn, and are played once more."""
    c = collector(EnvSpec(ENV, {"fail": "step", "bad_seeds": (1, 4), "failures": 99, "tag": "counted"}))
    played = c.collect(EPISODES)
    finished = sum(len(t.turns) for t in played if t.error is None)
    assert finished == 3 + 3 + 5 + 5
    assert c.take_steps() == finished + 2 * 2 * 2
    assert c.take_steps() == 0


# Guidance


def first_turns(lm: LanguageModel, turns: int) -> Plan:
    return Plan(TransformersEngine(lm), PrefixGuidance(turns=turns), progress=0.0)


@pytest.mark.parametrize("turns", [1, 2, 99])
def test_a_guide_plays_the_first_turns(collector, make_lm, turns, reference_logprobs):
    guide = first_turns(make_lm(1), turns)
    for trajectory in collector().collect(EPISODES, guide):
        authors = [turn.author for turn in trajectory.turns]
        led = min(turns, len(authors))
        assert authors == ["teacher"] * led + ["student"] * (len(authors) - led)
        own, taught = trajectory.authored("student"), trajectory.authored("teacher")
        assert not (own & taught).any()
        assert np.array_equal(own | taught, trajectory.turn_index() >= 0)
        assert np.isnan(trajectory.logprobs[~own]).all()
        logp = reference_logprobs(make_lm(0), trajectory.tokens)
        wanted = logp[np.flatnonzero(own), torch.from_numpy(trajectory.tokens[own]).long()]
        assert trajectory.logprobs[own] == pytest.approx(wanted.numpy(), abs=1e-5)


def test_a_guided_conversation_is_token_exact_too(collector, make_lm, tokenizer):
    env = make(EnvSpec(ENV))
    dialogue = Dialogue(tokenizer, env.instructions, env.tools)
    guide = first_turns(make_lm(1), 2)
    for trajectory in collector().collect(EPISODES, guide):
        check_token_exact(trajectory, dialogue)
    assert not len(guide.engine._cache)


def test_the_guides_words_are_the_guides(collector, make_lm):
    """Its first action is its own policy's, not the student's, and not drawn with the student's numbers."""
    alone = collector().collect(EPISODES)
    guided = collector().collect(EPISODES, first_turns(make_lm(1), 1))
    itself = collector().collect(EPISODES, first_turns(make_lm(0), 1))
    assert [t.turns[0].text for t in alone] != [t.turns[0].text for t in guided]
    assert [t.turns[0].text for t in alone] != [t.turns[0].text for t in itself]


def test_the_policy_version_is_the_engines(collector, make_lm):
    c = collector()
    c.engine.load_weights(c.engine.lm.model.state_dict(), 7)
    assert c.collect(EPISODES[:1])[0].policy_version == 7
