"""What the bundled environments tell a teacher at the reset is true and sufficient."""

from __future__ import annotations

import pytest

from trpd_envs.courier import Courier
from trpd_envs.gridlake import GridLake
from trpd_envs.guessnumber import GuessNumber
from trpd_envs.keychain import KeyChain
from trpd_envs.tools import format_call

ARGUMENT = {"go": "room", "take": "item", "drop": "item"}


@pytest.mark.parametrize("locking", [True, False])
def test_the_way_of_the_courier_leads_to_the_target_as_fast_as_the_expert(locking) -> None:
    for seed in range(40):
        env = Courier(rooms=6, items=3, locking=locking)
        _, info = env.reset(seed=seed)
        steps = info["hint"].removeprefix("The way is: ").removesuffix(".").split(", ")
        for step in steps:
            name, _, thing = step.partition(" ")
            result = env.step(format_call(name, **{ARGUMENT[name]: thing}))
        assert result[4] == {"success": True, "ok": True}
        env.reset(seed=seed)
        turns = 0
        while (action := env.expert()) is not None:
            env.step(action)
            turns += 1
        assert turns == len(steps)


def test_the_chain_and_its_value() -> None:
    for seed in range(20):
        env = KeyChain()
        _, info = env.reset(seed=seed)
        keys, value = info["hint"].removeprefix("The chain is ").removesuffix(".").split("; its value is ")
        for key in keys.split(", "):
            assert env.step(format_call("lookup", key=key))[4]["ok"]
        assert env.step(format_call("submit", value=value))[4]["success"]


def test_the_secret_number() -> None:
    env = GuessNumber()
    _, info = env.reset(seed=3)
    assert env.step(info["hint"].removeprefix("The secret is ").removesuffix("."))[4]["success"]


def test_only_a_reset_tells_and_only_where_there_is_something_to_tell() -> None:
    env = GuessNumber()
    env.reset(seed=0)
    assert "hint" not in env.step("1")[4]
    assert "hint" not in GridLake().reset(seed=0)[1]  # the whole lake is in sight anyway
