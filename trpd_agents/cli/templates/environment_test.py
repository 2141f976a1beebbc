"""NewEnv keeps the contract of a text environment, and can be solved: `python -m pytest test_new_env.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from trpd_agents.textenv import make
from trpd_agents.textenv.checks import Verdict, examine

ENV = f"{Path(__file__).with_name('new_env.py')}:NewEnv"


def test_the_check_finds_nothing_wrong() -> None:
    found = [finding for finding in examine(ENV) if finding.verdict in (Verdict.ERROR, Verdict.WARNING)]
    assert found == [], "\n".join(f"{finding.check}: {finding.found} {finding.fix}" for finding in found)


@pytest.mark.parametrize("seed", range(10))
def test_the_expert_solves_it(seed: int) -> None:
    env = make(ENV)
    env.reset(seed)
    while (action := env.expert()) is not None:
        step = env.step(action)
    assert step.success and step.terminated and step.reward == 1


def test_nonsense_is_refused_and_ends_at_the_turn_limit() -> None:
    env = make(ENV)
    env.reset(0)
    assert env.max_turns is not None
    steps = [env.step("nonsense") for _ in range(env.max_turns)]
    assert not any(step.ok or step.success or step.reward for step in steps)
    assert [step.truncated for step in steps] == [False] * (env.max_turns - 1) + [True]
