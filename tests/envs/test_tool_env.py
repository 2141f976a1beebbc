"""`ToolEnv`: schemas from hints, and every bad action an observation instead of an exception."""

from __future__ import annotations

import logging
import textwrap
from typing import Any, Literal, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_envs import ToolEnv, ToolError, format_call, tool, tools
from trpd_envs.courier import Courier
from trpd_envs.gridlake import GridLake
from trpd_envs.guessnumber import GuessNumber
from trpd_envs.keychain import KeyChain

Direction = Literal["up", "down"]


class Lab(ToolEnv):
    instructions = "Try the tools."

    def start(self) -> str:
        self.log: list[Any] = []
        return "A lab."

    def view(self) -> str:
        return "You are in the lab."

    @tool
    def guess(self, n: int) -> str:
        """Guess a number.

        The rest of the text is for people.

        Args:
            n: a number
                that is small
        """
        if n > 9:
            raise ToolError("Too big.")
        if n in (0, 7):
            self.finish(success=n == 7)
        return f"{n} it is."

    @tool
    def mix(
        self,
        share: float,
        names: list[str],
        way: Direction = "up",
        dry: bool = False,
        note: str | None = None,
        level: Optional[Literal[1, 2]] = None,  # noqa: UP045 -- the old spelling has to work too
    ) -> str:
        """Mix.

        Args:
            share (float): from 0 to 1
            way: where to
        """
        self.log.append((share, names, way, dry, note, level))
        return "Mixed."

    @tool
    def explode(self, how: str = "loudly") -> str:
        raise KeyError(how)

    @tool
    def forget(self) -> str:
        return None  # type: ignore[return-value]

    def helper(self) -> str:
        return "not a tool"


def play(action: str, env: ToolEnv | None = None) -> tuple[str, bool]:
    env = env or Lab()
    env.reset(seed=0)
    observation, _, _, _, info = env.step(action)
    return observation, info["ok"]


def test_schema_comes_from_hints_and_docstrings() -> None:
    guess, mix, *rest = (entry["function"] for entry in Lab.tools)
    assert all(entry["type"] == "function" for entry in Lab.tools)
    assert guess == {
        "name": "guess",
        "description": "Guess a number.",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "description": "a number that is small"}},
            "required": ["n"],
        },
    }
    assert mix["parameters"] == {
        "type": "object",
        "properties": {
            "share": {"type": "number", "description": "from 0 to 1"},
            "names": {"type": "array", "items": {"type": "string"}},
            "way": {"type": "string", "enum": ["up", "down"], "description": "where to"},
            "dry": {"type": "boolean"},
            "note": {"type": ["string", "null"]},
            "level": {"type": ["integer", "null"], "enum": [1, 2, None]},
        },
        "required": ["share", "names"],
    }
    assert [entry["name"] for entry in rest] == ["explode", "forget"]
    assert rest[0]["description"] == "" and Lab().tools == Lab.tools


def test_subclasses_inherit_override_and_remove_tools() -> None:
    class Other(Lab):
        @tool
        def guess(self, word: str) -> str:  # type: ignore[override]
            """Guess a word."""
            return word

        def explode(self, how: str = "") -> str:
            return "no tool any more"

    names = [entry["function"]["name"] for entry in Other.tools]
    assert names == ["guess", "mix", "forget"]
    assert play(format_call("guess", word="moss"), Other()) == ("moss", True)
    assert [entry["function"]["name"] for entry in Lab.tools] == ["guess", "mix", "explode", "forget"]


def test_hints_that_no_schema_describes_fail_when_the_class_is_made() -> None:
    def refused(hint: Any) -> str:
        def work(self: Any, x: Any) -> str:
            return ""

        work.__annotations__ = {"return": str} if hint is None else {"x": hint, "return": str}
        with pytest.raises(TypeError) as error:
            type("Broken", (ToolEnv,), {"work": tool(work)})
        return str(error.value)

    assert "'x' has no type hint" in refused(None)
    for hint in [dict, dict[str, int], list, tuple[int, int], int | str, Literal[1, "a"], bytes, Any, "Missing"]:
        assert "@tool" in refused(hint) and "work" in refused(hint)

    def many(self: Any, *words: str) -> str:
        return ""

    with pytest.raises(TypeError, match="cannot be passed by name"):
        type("Broken", (ToolEnv,), {"many": tool(many)})

    def step(self: Any, action: str) -> str:
        return ""

    with pytest.raises(TypeError, match="already has a 'step'"):
        type("Broken", (ToolEnv,), {"step": tool(step)})
    with pytest.raises(TypeError, match="plain methods"):
        tool(3)  # type: ignore[type-var]


def test_good_calls_run_with_checked_arguments() -> None:
    env = Lab()
    assert play("Well. " + format_call("mix", share=1, names=["a"], way="down", dry=True, note=None, level=2), env) == (
        "Mixed.",
        True,
    )
    assert env.log == [(1.0, ["a"], "down", True, None, 2)] and isinstance(env.log[0][0], float)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("", "No tool call found."),
        ("guess(3)", "No tool call found."),
        ('<tool_call>{"name": "guess", "arguments": {"n": 3}}', "Bad call: a tool call is not closed."),
        (format_call("guess", n=1) * 2, "2 tool calls found, at most 1 wanted."),
        (format_call("gues", n=1), 'No tool is named "gues". Did you mean "guess"?'),
        (format_call("helper"), 'No tool is named "helper". Tools: guess, mix, explode, forget.'),
        (format_call("step"), 'No tool is named "step". Tools: guess, mix, explode, forget.'),
        (format_call("__init__"), 'No tool is named "__init__". Tools: guess, mix, explode, forget.'),
        (format_call("guess"), 'guess needs "n".'),
        (format_call("guess", n=1, m=2), 'guess has no argument "m".'),
        (format_call("mix", name=[], share=1), 'mix has no argument "name". Did you mean "names"?'),
        (format_call("guess", n="3"), 'guess: "n" must be an integer, not a string.'),
        (format_call("guess", n=True), 'guess: "n" must be an integer, not true or false.'),
        (format_call("guess", n=3.0), 'guess: "n" must be an integer, not a number.'),
        (format_call("guess", n=None), 'guess: "n" must be an integer, not null.'),
        (format_call("mix", share=10**400, names=[]), 'mix: "share" must be a number of ordinary size.'),
        (format_call("mix", share=1, names=["a", 2]), 'mix: "names" must be a string, not an integer.'),
        (format_call("mix", share=1, names={}), 'mix: "names" must be a list, not an object.'),
        (format_call("mix", share=1, names=[], way="left"), 'mix: "way" must be one of up, down.'),
        (format_call("mix", share=1, names=[], dry=0), 'mix: "dry" must be true or false, not an integer.'),
        (format_call("mix", share=1, names=[], level=True), 'mix: "level" must be an integer, not true or false.'),
        (format_call("guess", n=10), "Too big."),
        (format_call("explode"), "explode failed: KeyError: 'loudly'"),
    ],
)
def test_bad_actions_become_observations(action: str, message: str) -> None:
    assert play(action) == (f"{message} You are in the lab.", False)


def test_a_models_words_cannot_forge_special_tokens_or_flood_an_observation() -> None:
    for word in ["<tool_call>", "<|im_end|>", "\0" * 50_000, "漢" * 50_000]:
        observation, ok = play(format_call(word))
        assert not ok and "<" not in observation and observation.isascii() and len(observation) < 500


def test_an_unexpected_exception_is_logged_for_the_author(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        play(format_call("explode", how="x" * 5000))
    assert "explode" in caplog.text and "KeyError" in caplog.text


def test_a_tool_that_returns_no_text_is_the_authors_mistake() -> None:
    with pytest.raises(TypeError, match="forget of Lab must return text, found NoneType"):
        play(format_call("forget"))


def test_finish_ends_the_episode_either_way() -> None:
    for n, success in [(7, True), (0, False)]:
        env = Lab()
        env.reset(seed=0)
        result = env.step(format_call("guess", n=n))
        assert result == (f"{n} it is.", float(success), True, False, {"success": success, "ok": True})


def test_success_on_the_last_turn_is_not_a_truncation() -> None:
    env = Lab(max_turns=1)
    env.reset()
    assert env.step(format_call("guess", n=7))[1:4] == (1.0, True, False)
    env.reset()
    assert env.step(format_call("guess", n=1))[1:4] == (0.0, False, True)


def test_several_calls_run_in_order_until_one_fails_or_ends_it() -> None:
    class Several(Lab):
        max_calls = 3

    one, big, end = format_call("guess", n=1), format_call("guess", n=10), format_call("guess", n=7)
    assert play(one * 3, Several()) == ("1 it is.\n1 it is.\n1 it is.", True)
    assert play(one + big + end, Several()) == ("1 it is.\nToo big. You are in the lab.", False)
    assert play(one + end + big, Several()) == ("1 it is.\n7 it is.", True)
    assert play(one * 4, Several())[1] is False


def test_reward_can_be_overridden() -> None:
    class Paid(Lab):
        def reward(self) -> float:
            return 0.5

    env = Paid()
    env.reset()
    assert env.step("nothing")[1] == 0.5


def test_a_class_without_start_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="start"):
        ToolEnv().reset()
    with pytest.raises(ValueError, match="max_turns=0"):
        Lab(max_turns=0)


def test_the_example_in_the_documentation_works() -> None:
    example = "\n".join(line for line in (tools.__doc__ or "").splitlines() if line.startswith("    ") or not line)
    names: dict[str, Any] = {"ToolEnv": ToolEnv, "ToolError": ToolError, "tool": tool}
    exec(textwrap.dedent(example), names)
    env = names["Safe"](max_turns=11)
    assert env.reset(seed=0)[0] == "The safe has a dial from 0 to 9."
    assert env.step(format_call("turn_dial", number=10))[0] == "The dial ends at 9."
    assert any(env.step(format_call("turn_dial", number=n))[2] for n in range(10)) and env.success


WORDS = ["go", "take", "room", "item", "hall", "lookup", "submit", "key", "value", "up", " 7 ", "\0", "\ud800", "NaN"]
SYNTAX = ["<tool_call>", "</tool_call>", '{"name": ', '"', ", ", '"arguments": {', "}}", "[[", "9" * 5000, "\\u0000"]
ACTIONS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(WORDS + SYNTAX), max_size=12).map("".join),
    st.builds(
        lambda name, key, value: format_call(name, **{key: value}),
        st.sampled_from(["go", "take", "drop", "lookup", "submit", "fly"]),
        st.sampled_from(["room", "item", "key", "value", "x"]),
        st.one_of(st.none(), st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.booleans())),
    ),
)
ENVS = [Courier(), KeyChain(), GridLake(), GridLake(slippery=True), GuessNumber(), Lab()]


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, min_size=1, max_size=6), st.integers(0, 1000))
def test_nothing_a_model_writes_makes_a_step_raise(actions: list[str], seed: int) -> None:
    for env in ENVS:
        env.reset(seed=seed)
        for action in actions:
            observation, reward, terminated, truncated, info = env.step(action)
            assert observation in env.observation_space and set(info) == {"success", "ok"}
            assert reward == float(info["success"]) and len(observation) < 2000
            observation.encode()
            if terminated or truncated:
                break


@pytest.mark.parametrize("env", ENVS, ids=lambda env: type(env).__name__)
@pytest.mark.parametrize(
    "action",
    [
        "x" * 200_000,
        "<tool_call>" * 9_000,
        "</tool_call>" * 9_000,
        "<tool_call>" + '{"name":' * 10_000,
        f'<tool_call>{{"name": "go", "arguments": {"[" * 30_000}</tool_call>',
        format_call("go", room="y" * 90_000),
        f'<tool_call>{{"name": "go", "arguments": {{"room": {"1" * 5_000}}}}}</tool_call>',
    ],
    ids=["huge", "opened", "closed", "nested", "deep", "long", "digits"],
)
def test_hostile_actions_are_refused_shortly(env: ToolEnv, action: str) -> None:
    observation, ok = play(action, env)
    assert not ok and len(observation) < 600
