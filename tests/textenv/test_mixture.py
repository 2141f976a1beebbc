"""A mixture is, for the length of an episode, one of its environments, and always the same one for a seed."""

from __future__ import annotations

from collections import Counter

import pytest

from trpd_agents.errors import UserError
from trpd_agents.rollout.demonstrate import demonstrate
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.teacher import optimal_at_turns
from trpd_agents.textenv import EnvSpec, check_environment, make
from trpd_agents.textenv.mixture import drawn, members
from trpd_agents.textenv.source import source_hash

KEYS = {"id": "KeyChain-v0", "kwargs": {"length": 2}}
NUMBER = {"id": "GuessNumber-v0", "kwargs": {"high": 12}, "weight": 3}
BOTH = EnvSpec("mixture", {"environments": [KEYS, NUMBER]})


def test_the_seed_draws_by_weight() -> None:
    counts = Counter(drawn(BOTH, seed).id for seed in range(4000))
    assert counts["GuessNumber-v0"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert [drawn(BOTH, seed) for seed in range(50)] == [drawn(BOTH, seed) for seed in range(50)]


@pytest.mark.parametrize("seed", range(6))
def test_an_episode_is_that_of_the_environment_drawn(seed) -> None:
    mixed, alone = make(BOTH), make(drawn(BOTH, seed))
    assert mixed.reset(seed) == alone.reset(seed)
    assert (mixed.spec, mixed.instructions, mixed.tools) == (alone.spec, alone.instructions, alone.tools)
    while (action := mixed.expert()) is not None:
        assert action == alone.expert() and mixed.optimal_actions() == alone.optimal_actions()
        assert mixed.legal_actions() == alone.legal_actions()
        found, wanted = mixed.step(action), alone.step(action)
        assert found == wanted
        if found.terminated:
            break
    assert found.success
    mixed.reset(seed + 1)  # an instance may be used again
    assert mixed.spec == drawn(BOTH, seed + 1)
    mixed.close()


def test_before_an_episode_it_is_what_all_of_them_are() -> None:
    env = make(BOTH)
    assert env.has_expert and env.has_legal_actions
    assert env.max_turns == max(make(EnvSpec(e["id"], e["kwargs"])).max_turns for e in (KEYS, NUMBER))
    assert source_hash(BOTH) == " ".join(source_hash(member.spec) for member in members(BOTH))
    check_environment(BOTH)


def test_a_reward_threshold_is_that_of_the_episodes_environment(tmp_path) -> None:
    file = tmp_path / "paying.py"
    file.write_text(
        "import gymnasium\n\nclass Paying(gymnasium.Env):\n    max_turns, reward_threshold = 1, 0.5\n\n"
        "    def reset(self, *, seed=None, options=None):\n        return 'Say yes.', {}\n\n"
        "    def step(self, action):\n        return 'Done.', float(action == 'yes'), True, False, {}\n"
    )
    spec = EnvSpec("mixture", {"environments": [KEYS, {"id": f"{file}:Paying"}]})
    seed = next(seed for seed in range(50) if drawn(spec, seed).id != "KeyChain-v0")
    env = make(spec)
    env.reset(seed)
    assert env.step("yes").success
    env.reset(seed)
    assert not env.step("no").success
    assert not env.has_expert  # this one has none, and so the mixture has not for all


def test_demonstrations_name_the_environment_they_are_from_and_are_played_again_there(tokenizer) -> None:
    played, failures = demonstrate(BOTH, Dialogues(tokenizer), range(8), max_turns=12)
    assert len(played) == 8 and not failures
    assert {t.env_id for t in played} == {"KeyChain-v0", "GuessNumber-v0"}
    for trajectory in played:
        options = optimal_at_turns(trajectory)
        assert all(o.is_optimal(turn.text) for o, turn in zip(options, trajectory.turns, strict=True))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "wanted kwargs of the form environments:"),
        ({"environments": []}, "wanted kwargs of the form"),
        ({"environments": [KEYS], "more": 1}, "wanted kwargs of the form"),
        ({"environments": ["KeyChain-v0"]}, "wanted entries as in environments:"),
        ({"environments": [{**KEYS, "wieght": 1}]}, "wanted entries as in"),
        ({"environments": [{**KEYS, "weight": 0}]}, "the weight of 'KeyChain-v0' is a number > 0; found 0"),
        ({"environments": [{"id": "mixture", "kwargs": {}}]}, "a mixture in a mixture"),
        ({"environments": [{"id": "KeyChian-v0"}]}, "unknown environment 'KeyChian-v0'"),
    ],
)
def test_what_is_no_mixture_is_refused(kwargs, message) -> None:
    with pytest.raises(UserError, match=message):
        check_environment(EnvSpec("mixture", kwargs))
