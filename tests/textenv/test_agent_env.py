"""`AgentEnv` gives well-formed values or a typed failure, whatever the environment underneath does."""

from __future__ import annotations

import pickle
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv import AgentEnv, EnvSpec, Step
from trpd_agents.textenv.agent_env import ACTION_LIMIT, clean_action
from trpd_agents.textenv.time_limit import TimeExpired, call_within

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")


class Scripted(gymnasium.Env):
    """Returns what it is told to: `reset` gives `first` and `step` gives `result`, called when they are callable."""

    def __init__(self, result: Any = None, first: Any = ("start", {}), **attributes: Any):
        self.result = result
        self.first = first
        self.actions: list[str] = []
        for name, value in attributes.items():
            setattr(self, name, value)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.first() if callable(self.first) else self.first

    def step(self, action: str) -> Any:
        self.actions.append(action)
        return self.result() if callable(self.result) else self.result


def driven(result: Any = None, **attributes: Any) -> AgentEnv:
    env = AgentEnv(Scripted(result, **attributes), EnvSpec("test/Scripted-v0"))
    env.reset(0)
    return env


def failure(call: Callable[[], Any]) -> EnvironmentFailure:
    with pytest.raises(EnvironmentFailure) as caught:
        call()
    assert "test/Scripted-v0" in caught.value.message
    return caught.value


GOOD = ("seen", 0.5, False, False, {"success": False})


def test_a_good_step_comes_through_as_plain_python_values() -> None:
    env = driven((np.str_("seen"), np.float32(0.5), np.True_, np.False_, {"success": np.True_, "ok": np.False_}))
    step = env.step("go")
    assert step == Step("seen", 0.5, True, False, ok=False, success=True)
    assert [type(value) for value in vars(step).values()] == [str, float, bool, bool, bool, bool, *[type(None)] * 3]


def test_draws_are_taken_in_and_other_things_of_that_name_left_alone() -> None:
    drawn = driven(("seen", 0.0, True, False, {"success": False, "draw": np.True_, "seat": "window", "endings": [1]}))
    step = drawn.step("go")
    assert step.draw is True and step.seat is None and step.endings is None
    assert driven(("seen", 0.0, True, False, {"success": False, "draw": "a card"})).step("go").draw is None


def test_optional_attributes_have_defaults() -> None:
    env = driven(GOOD)
    assert (env.instructions, env.tools, env.has_expert, env.expert(), env.max_turns) == ("", [], False, None, None)
    assert env.step("x").ok is True


def test_optional_attributes_are_read_anew_after_each_reset() -> None:
    env = driven(GOOD, instructions="one", tools=[{"name": "a"}], expert=lambda: "act", max_turns=7)
    assert (env.instructions, env.tools, env.has_expert, env.expert(), env.max_turns) == (
        "one", [{"name": "a"}], True, "act", 7,
    )  # fmt: skip
    env.env.unwrapped.instructions = "two"  # type: ignore[attr-defined]
    assert env.instructions == "two"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"instructions": 3}, "`instructions` is a string; found int"), ({"tools": "hammer"}, "`tools` is a list")],
)
def test_wrong_optional_attributes_are_user_errors(attributes: dict[str, Any], message: str) -> None:
    env = driven(GOOD, **attributes)
    with pytest.raises(UserError, match=message):
        _ = env.instructions, env.tools


@pytest.mark.parametrize("limit", [0, True, "ten", 2.5])
def test_a_turn_limit_is_a_positive_number(limit: Any) -> None:
    with pytest.raises(UserError, match="`max_turns` is a positive number of turns"):
        driven(GOOD, max_turns=limit)


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        ((3, 0.0, False, False, {}), "bad_observation", "observation of type int; wanted str"),
        ((b"x", 0.0, False, False, {}), "bad_observation", "type bytes"),
        (("x", 0.0, False, {}), "bad_observation", "a tuple of 4; wanted (observation, reward, terminated, truncated"),
        ("xxxxx", "bad_observation", "step returned str"),
        (None, "bad_observation", "step returned NoneType"),
        (("x", float("nan"), False, False, {}), "bad_reward", "nan"),
        (("x", float("inf"), False, False, {}), "bad_reward", "inf"),
        (("x", "1", False, False, {}), "bad_reward", "'1'; wanted a finite number"),
        (("x", None, False, False, {}), "bad_reward", "None"),
        (("x", np.zeros(2), False, False, {}), "bad_reward", "array"),
        (("x", 0.0, 1, False, {}), "bad_flag", "terminated is 1 of type int; wanted True or False"),
        (("x", 0.0, False, None, {}), "bad_flag", "truncated is None"),
        (("x", 0.0, False, False, None), "bad_flag", "info of type NoneType"),
        (("x", 0.0, True, False, {"success": "yes"}), "bad_flag", "info[\"success\"] is 'yes'"),
        (("x", 0.0, False, False, {"ok": 1}), "bad_flag", 'info["ok"] is 1'),
        (("x", 1.0, True, False, {}), "bad_flag", 'ended without info["success"]'),
    ],
)
def test_a_broken_step_is_a_failure_of_its_kind(result: Any, kind: str, message: str) -> None:
    env = driven(result)
    found = failure(lambda: env.step("x"))
    assert found.kind == kind
    assert message in found.message


@pytest.mark.parametrize("first", ["start", ("start",), (7, {}), ("start", None)])
def test_a_broken_reset_is_a_failure(first: Any) -> None:
    env = AgentEnv(Scripted(GOOD, first=first), EnvSpec("test/Scripted-v0"))
    assert failure(lambda: env.reset(0)).kind in {"bad_observation", "bad_flag"}


@pytest.mark.parametrize("error", [ValueError("no such door"), SystemExit(3), RecursionError()])
def test_an_exception_names_itself_and_the_line_of_the_users_code(error: BaseException) -> None:
    def fall_over() -> None:
        raise error

    line = fall_over.__code__.co_firstlineno + 1
    env = driven(fall_over)
    found = failure(lambda: env.step("x"))
    assert found.kind == "step_raised"
    assert f"{type(error).__name__}" in found.message and str(error) in found.message
    assert f"test_agent_env.py:{line}, in fall_over" in found.message
    env = AgentEnv(Scripted(GOOD, first=fall_over), EnvSpec("test/Scripted-v0"))
    assert failure(lambda: env.reset(0)).kind == "reset_raised"


def test_the_line_is_the_users_even_when_a_library_raised() -> None:
    def fall_over() -> None:
        re.compile("(")

    assert "in fall_over" in failure(lambda: driven(fall_over).step("x")).message


def test_keyboard_interrupt_is_not_an_environment_failure() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    env = driven(interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.step("x")


def test_without_optimal_actions_they_are_what_the_expert_says() -> None:
    env = driven(GOOD)
    assert env.optimal_actions() == env.legal_actions() == [] and not env.has_legal_actions
    assert driven(GOOD, expert=lambda: "act").optimal_actions() == ["act"]
    assert driven(GOOD, expert=lambda: None).optimal_actions() == []
    env = driven(GOOD, expert=lambda: "act", optimal_actions=lambda: ("act", "dance"), legal_actions=lambda: ["sing"])
    assert env.optimal_actions() == ["act", "dance"] and env.legal_actions() == ["sing"] and env.has_legal_actions


@pytest.mark.parametrize("name", ["optimal_actions", "legal_actions"])
@pytest.mark.parametrize("answer", [None, "act", ["act", None], {"act": 1}, 3])
def test_optimal_and_legal_actions_are_lists_of_texts(name: str, answer: Any) -> None:
    env = driven(GOOD, expert=lambda: "act", **{name: lambda: answer})
    assert f"{name}() returned" in failure(getattr(env, name)).message


@pytest.mark.parametrize("answer", [3, b"x"])
def test_an_expert_answers_text_or_none(answer: Any) -> None:
    env = driven(GOOD, expert=lambda: answer)
    assert "expert() returned" in failure(env.expert).message


def test_success_from_the_reward_threshold() -> None:
    env = driven(("x", 0.1, False, False, {}))
    assert env.step("x").success is None  # neither the environment nor a threshold says anything yet
    env.reward_threshold = 1.0
    successes = [env.step("x").success for _ in range(9)]
    assert successes == [False] * 8 + [True]  # ten times 0.1 counts as 1, in spite of rounding


def test_info_success_goes_before_the_reward_threshold() -> None:
    env = driven(("x", 5.0, True, False, {"success": False}), reward_threshold=1.0)
    assert env.step("x").success is False


def test_total_reward_starts_anew_with_each_episode() -> None:
    env = driven(("x", 0.6, True, False, {}), reward_threshold=1.0)
    assert env.step("x").success is False
    env.reset(1)
    assert env.step("x").success is False


def test_stepping_outside_an_episode_is_refused() -> None:
    env = driven(("x", 0.0, True, False, {"success": True}))
    env.step("x")
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("x")


def test_close_does_not_raise() -> None:
    env = driven(GOOD)
    env.env.close = lambda: 1 / 0  # type: ignore[method-assign, assignment]
    env.close()


@given(st.text(st.characters(codec=None) | st.sampled_from("\0\ud800\udfff"), max_size=50))
def test_actions_reach_the_environment_encodable_and_without_nul(text: str) -> None:
    env = driven(GOOD)
    env.step(text)
    (received,) = env.env.unwrapped.actions  # type: ignore[attr-defined]
    received.encode("utf-8")
    assert "\0" not in received and len(received) == len(text)
    assert all(a == b for a, b in zip(received, text, strict=True) if b != "\0" and not "\ud800" <= b <= "\udfff")


def test_actions_are_clipped() -> None:
    assert clean_action("7" * 5000) == "7" * ACTION_LIMIT
    assert clean_action("short é 漢\n") == "short é 漢\n"


def test_observations_can_be_encoded() -> None:
    env = driven(("a\ud800b", 0.0, False, False, {}))
    assert env.step("x").observation == "a\ufffdb"


def test_specs_are_plain_data() -> None:
    spec = EnvSpec("trpd/KeyChain-v0", {"length": 3})
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(UserError, match="non-empty string"):
        EnvSpec("")
    with pytest.raises(UserError, match="mapping from names to values; found"):
        EnvSpec("x", ["a"])  # type: ignore[arg-type]


# Time limits


def sleeps() -> None:
    time.sleep(20)


def spins() -> None:
    while True:
        pass


def swallows() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


@needs_timer
@pytest.mark.parametrize("stuck", [sleeps, spins, swallows])
def test_a_step_that_does_not_return_is_a_timeout(stuck: Callable[[], None]) -> None:
    env = driven(stuck)
    env.seconds = 0.2
    started = time.monotonic()
    found = failure(lambda: env.step("x"))
    assert found.kind == "timeout" and "took more than 0.2 s" in found.message
    assert f"in {stuck.__name__}" in found.message
    assert 0.15 < time.monotonic() - started < 2


@needs_timer
def test_a_reset_that_does_not_return_is_a_timeout() -> None:
    env = AgentEnv(Scripted(GOOD, first=sleeps), EnvSpec("test/Scripted-v0"), seconds=0.1)
    assert failure(lambda: env.reset(0)).kind == "timeout"


@needs_timer
def test_code_that_catches_everything_is_interrupted_again() -> None:
    def stubborn() -> None:
        for _ in range(2):
            try:
                time.sleep(20)
            except BaseException:
                continue
        time.sleep(20)

    started = time.monotonic()
    with pytest.raises(TimeExpired):
        call_within(0.1, stubborn)
    assert time.monotonic() - started < 3


@needs_timer
def test_handler_and_outer_timer_are_put_back() -> None:
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert call_within(0.1, lambda: 5) == 5
        with pytest.raises(TimeExpired):
            call_within(0.2, time.sleep, 5)
        with pytest.raises(ZeroDivisionError):
            call_within(5, lambda: 1 / 0)
        assert not rang
        while not rang and time.monotonic() < started + 2:
            time.sleep(0.01)
        assert rang and 0.25 < rang[0] - started < 0.45  # the 0.2 s spent inside count
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_timer
def test_no_timer_is_left_running() -> None:
    env = driven(GOOD)
    env.step("x")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_outside_the_main_thread_there_is_no_limit_and_no_error() -> None:
    results: list[Any] = []

    def outlast() -> str:
        time.sleep(0.05)
        return "done"

    thread = threading.Thread(target=lambda: results.append(call_within(0.01, outlast)))
    thread.start()
    thread.join()
    assert results == ["done"]


def test_driving_costs_little() -> None:
    env = driven(GOOD)
    best = min(_seconds_per_step(env) for _ in range(5))
    assert best < 300e-6  # a few microseconds for the limit, some for the checks; generous for a busy machine


def _seconds_per_step(env: AgentEnv) -> float:
    started = time.perf_counter()
    for _ in range(200):
        env.step("x")
    return (time.perf_counter() - started) / 200
