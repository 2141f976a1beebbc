"""BabyAI in words: the words are true of the world, hold nothing unseen, and its bot survives whatever was done."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("minigrid", reason="minigrid is not installed")

from trpd_agents.errors import UserError  # noqa: E402
from trpd_agents.textenv import make  # noqa: E402
from trpd_agents.textenv.benchmarks.babyai import WORDS  # noqa: E402
from trpd_agents.textenv.benchmarks.babyai_view import name  # noqa: E402

LINE = re.compile(r"- (.+?), (?:(\d+) steps? ahead)?(?: and )?(?:(\d+) steps? to the (left|right))?$")


def test_every_thing_said_to_be_seen_is_there_and_as_described() -> None:
    env = make("babyai/BossLevel-v0")
    chance = random.Random(3)
    said = 0
    for seed in range(6):
        observation = env.reset(seed)
        level = env.env.unwrapped._level
        for _ in range(40):
            for line in observation.splitlines():
                if found := LINE.match(line):
                    side = int(found[3] or 0) * (-1 if found[4] == "left" else 1)
                    cell = level.agent_pos + level.dir_vec * int(found[2] or 0) + level.right_vec * side
                    assert name(level.grid.get(*cell)) == found[1], (seed, line)
                    said += 1
            assert ("You carry nothing." in observation) == (level.carrying is None)
            step = env.step(chance.choice(env.legal_actions()))
            if step.terminated:
                break
            observation = step.observation
    assert said > 100


def test_what_is_hidden_changes_nothing_in_the_words() -> None:
    env = make("babyai/Open-v0")
    env.reset(0)
    game: Any = env.env.unwrapped
    level = game._level
    before = game.view()
    _, seen = level.gen_obs_grid()
    corner = level.agent_pos + level.dir_vec * 6 - level.right_vec * 3
    view = {tuple(corner - level.dir_vec * j + level.right_vec * i) for i in range(7) for j in range(7) if seen[i, j]}
    for x in range(level.grid.width):
        for y in range(level.grid.height):
            if (x, y) not in view:
                level.grid.set(x, y, None)
    assert game.view() == before


def test_an_action_is_accepted_if_and_only_if_it_is_listed() -> None:
    env = make("babyai/BossLevel-v0")
    chance = random.Random(0)
    refused = 0
    for seed in range(5):
        env.reset(seed)
        for _ in range(60):
            legal, word = env.legal_actions(), chance.choice(WORDS)
            step = env.step(f"  {word.upper()}. ")
            if step.terminated:
                break
            assert step.ok == (word in legal), (seed, word)
            refused += not step.ok
    assert refused > 20


def test_the_expert_takes_over_after_anything(capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(0)
    won = 0
    for seed in range(20):
        env = make("babyai/GoToLocal-v0")
        env.reset(seed)
        for _ in range(10):  # an expert that is asked in between follows what is done against its advice
            env.expert()
            step = env.step(chance.choice(env.legal_actions()))
            if step.terminated:
                break
        while not (step.terminated or step.truncated) and (action := env.expert()) is not None:
            step = env.step(action)
        won += bool(step.success)
    assert won >= 18  # a box that was the goal may have been opened
    assert capsys.readouterr().out == ""


def test_an_unknown_level_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'GoToLocal-v0'"):
        make("babyai/GoToLocl-v0")
