"""What is wrong with a tool's schema is named, and what is right is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.checks import Finding, Settings, Verdict
from trpd_agents.textenv.checks.actions import GARBAGE, random_call, wrong_calls
from trpd_agents.textenv.checks.child import run_check
from trpd_agents.textenv.checks.probe import Probe
from trpd_envs import Call, parse_calls
from trpd_envs.tools import ToolEnv, tool

ENV = """
    import gymnasium

    class E(gymnasium.Env):
        max_turns = 2
        tools = {tools}
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return "start", {{}}
        def step(self, action):
            return "seen", 0.0, True, False, {{"success": False}}
        def expert(self):
            return {expert!r}
"""
CALL = '<tool_call>{"name": "go", "arguments": {"room": "hall"}}</tool_call>'
ROOM = {"room": {"type": "string"}}


def go(properties: Any = ROOM, required: Any = ("room",), **changes: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": "go", "description": "Go.", "parameters": parameters, **changes}}


@pytest.fixture
def findings(tmp_path: Path) -> Any:
    def check(*tools: Any, expert: str = CALL) -> list[Finding]:
        (tmp_path / "env.py").write_text(dedent(ENV.format(tools=repr(list(tools)), expert=expert)))
        return run_check("tools", Probe(EnvSpec(f"{tmp_path / 'env.py'}:E"), Settings()), {}, [])

    return check


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        (go(name="go to"), "'go to'"),
        (go(name=None), "None"),
        ({"name": "go", "parameters": "room"}, "parameters are not a schema"),
        (go(properties=["room"]), "properties are not a mapping"),
        (go(required=("rom",)), "'rom' is required"),
        (go(properties={"room": "string"}), "'room' has no schema"),
        (go(properties={"room": {"type": "str"}}), "the type 'str'"),
        (go(properties={"room": {}}), "'room' has no type"),
        (go(properties={"room": {"type": "string", "enum": []}}), "not a list of choices"),
        (go(properties={"room": {"type": "integer", "enum": [1, "2"]}}), "offers '2'"),
        (go(properties={"room": {"type": "integer", "enum": [True]}}), "offers True"),
        (go(properties={"room": {"type": "array", "items": {"type": "text"}}}), "its items has the type 'text'"),
        (go(description=3), "description is not a string"),
        ({**go(), "type": "tool"}, "\"type\" is 'tool'"),
    ],
)
def test_a_fault_in_a_schema_is_named(findings: Any, tool: dict[str, Any], told: str) -> None:
    (finding,) = findings(tool)
    assert finding.verdict is Verdict.ERROR and told in finding.found and finding.fix


def test_names_are_taken_once(findings: Any) -> None:
    (finding,) = findings(go(), go())
    assert "two tools are named 'go'" in finding.found


@pytest.mark.parametrize(
    "properties",
    [
        ROOM,
        {"room": {"type": ["string", "null"], "enum": ["hall", None]}},
        {"room": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        {"room": {"enum": ["hall", 3]}},
        {"room": {"type": "object", "properties": {"name": {"type": "string"}}}},
    ],
)
def test_valid_schemas_pass(findings: Any, properties: dict[str, Any]) -> None:
    assert [finding.verdict for finding in findings(go(properties))] == [Verdict.OK]
    assert [finding.verdict for finding in findings(go(properties)["function"])] == [Verdict.OK]  # the bare form


@pytest.mark.parametrize(
    ("expert", "told"),
    [
        (CALL.replace("go", "goto"), "no tool is named 'goto'"),
        (CALL.replace("room", "rom"), "go needs 'room'"),
        (CALL.replace('"hall"', "7"), "must be a string"),
    ],
)
def test_an_expert_that_does_not_keep_to_its_schema_is_told(findings: Any, expert: str, told: str) -> None:
    (finding,) = findings(go(), expert=expert)
    assert finding.verdict is Verdict.WARNING and told in finding.found


def test_a_tool_without_a_description_is_told(findings: Any) -> None:
    (finding,) = findings(go(description=""))
    assert finding.verdict is Verdict.WARNING and "no description" in finding.found


class Everything(ToolEnv):
    """A tool with every kind of argument."""

    def start(self) -> str:
        return "Start in the hall."

    @tool
    def do(self, text: str, whole: int, real: float, flag: bool, items: list[int], maybe: str | None = None) -> str:
        """Do it."""
        return "done"


def test_random_calls_fit_and_wrong_calls_do_not() -> None:
    from random import Random

    env = Everything(max_turns=200)
    env.reset(seed=0)
    rng = Random(0)
    for _ in range(50):
        assert env.step(random_call(env.tools, "Start in the hall.", rng))[0] == "done"
    for label, text in {**GARBAGE, **wrong_calls(env.tools)}.items():
        assert env.step(text)[4]["ok"] is False, label
    called = [call for text in wrong_calls(env.tools).values() for call in parse_calls(text)]
    assert all(isinstance(call, Call) for call in called) and json.dumps([call.name for call in called])  # type: ignore[union-attr]
