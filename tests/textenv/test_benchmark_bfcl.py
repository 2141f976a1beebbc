"""BFCL multi-turn: our verdict is the package's, a text is never run, and a request ends as the protocol says."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("bfcl_eval", reason="bfcl_eval is not installed")
pytest.importorskip("mpmath", reason="mpmath is not installed")

from trpd_agents.errors import UserError  # noqa: E402
from trpd_agents.textenv import AgentEnv, make  # noqa: E402
from trpd_envs import format_call, parse_calls  # noqa: E402

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
# Tasks whose reference calls what the task's own tools do not allow.
UNPLAYABLE = {"multi_turn_base_173", "multi_turn_miss_func_49", "multi_turn_miss_func_173"}
UNPLAYABLE |= {"multi_turn_miss_param_173", "multi_turn_long_context_173"}


def task_id(env: AgentEnv) -> str:
    return env.env.unwrapped._task["id"]


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_reference_succeeds_on_every_playable_task(category: str) -> None:
    env = make(f"bfcl/multi_turn_{category}-v0")
    played = set()
    for seed in range(200):
        env.reset(seed)
        step = None
        while (action := env.expert()) is not None:
            step = env.step(action)
        played.add(task_id(env))
        assert bool(step and step.success) == (task_id(env) not in UNPLAYABLE), task_id(env)
    assert len(played) == 200


def upstream(task: dict[str, Any], turns: list[list[list[str]]], name: str) -> bool:
    """The package's own verdict on calls written in its own way."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    return multi_turn_checker(turns, task["ground_truth"], task, "multi_turn_base", name)["valid"]


def test_verdicts_are_those_of_the_package() -> None:
    """Players that leave out a call of the reference, add one, or say a call twice."""
    chance = random.Random(0)
    verdicts = []
    env = make("bfcl/multi_turn_base-v0")
    for seed in range(60):
        env.reset(seed)
        task = env.env.unwrapped._task
        turns: list[list[list[str]]] = [[]]
        step = None
        while step is None or not (step.terminated or step.truncated):
            action = env.expert() or "That is all."
            draw = chance.random()
            if draw < 0.06 and parse_calls(action):
                action = "I would rather not."
            elif draw < 0.12:
                action = format_call("ls") if "GorillaFileSystem" in task["involved_classes"] else action
            if calls := parse_calls(action):
                turns[-1].append(
                    [f"{c.name}({', '.join(f'{k}={v!r}' for k, v in c.arguments.items())})" for c in calls]
                )
            else:
                turns.append([])
            step = env.step(action)
        assert step.success == upstream(task, turns[:-1], f"player{seed}"), task["id"]
        verdicts.append(step.success)
    assert 5 < sum(verdicts) < 55


def test_an_answer_without_a_call_brings_the_next_request_and_tools() -> None:
    env = make("bfcl/multi_turn_miss_func-v0")
    env.reset(3)
    before = {tool["function"]["name"] for tool in env.tools}
    assert "find" not in before
    assert "More tools" in env.step("I cannot do that.").observation
    assert {tool["function"]["name"] for tool in env.tools} == before | {"find", "ls"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("cdd", {"folder": "x"}), 'Did you mean "cd"'),
        (("cd", {"path": "x"}), 'no argument "path"'),
        (("cd", {}), 'needs "folder"'),
        (("cd", {"folder": 3}), "must be a string"),
        (("_load_scenario", {"scenario": {}}), "No tool is named"),
        (("__class__", {}), "No tool is named"),
        (("cd", {"folder": "__import__('os')"}), "error"),
    ],
)
def test_bad_calls_are_answered(call: tuple[str, dict[str, Any]], said: str) -> None:
    env = make("bfcl/multi_turn_base-v0")
    env.reset(0)
    step = env.step(format_call(call[0], **call[1]))
    assert said in step.observation and not step.ok and not step.terminated


def test_several_calls_are_run_in_order_and_too_many_turns_fail() -> None:
    env = make("bfcl/multi_turn_base-v0")
    env.reset(0)
    step = env.step(format_call("cd", folder="document") + format_call("mkdir", dir_name="temp"))
    assert step.ok and json.loads(step.observation.splitlines()[0]) == {"current_working_directory": "document"}
    for _ in range(19):
        assert not env.step(format_call("pwd")).terminated
    last = env.step(format_call("pwd"))
    assert last.terminated and not last.success and "More than 20" in last.observation


def test_a_part_of_the_tasks_can_be_kept_apart() -> None:
    env = make("bfcl/multi_turn_base-v0", tasks=[150, 153])
    ids = []
    for seed in range(4):
        env.reset(seed)
        ids.append(task_id(env))
    assert ids == [f"multi_turn_base_{number}" for number in (150, 151, 152, 150)]
    for wrong in ([3, 3], [0, 201], [1], "all"):
        with pytest.raises(UserError, match="0 <= first < end <= 200"):
            make("bfcl/multi_turn_base-v0", tasks=wrong)


def test_huge_numbers_do_not_stall_it() -> None:
    env = make("bfcl/multi_turn_base-v0")
    seed = next(s for s in range(200) if env.reset(s) and "MathAPI" in env.env.unwrapped._task["involved_classes"])
    env.reset(seed)
    for arguments in ({"base": 10, "exponent": 10**9}, {"base": 10.0, "exponent": -(10**9)}):
        step = env.step(format_call("power", **arguments))
        assert "at most 1000" in step.observation and not step.ok
    step = env.step(format_call("square_root", number=2, precision=10**9))
    assert "at most 1000" in step.observation
