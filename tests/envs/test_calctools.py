"""CalcTools: registers are used up, results are exact, and the expert knows every way to the value that is left."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from trpd_envs import format_call
from trpd_envs.calctools import LARGEST, CalcTools

SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def call(env: CalcTools, name: str, *registers: str) -> tuple[str, bool]:
    keys = ("register",) if name == "submit" else ("left", "right")
    observation, _, _, _, info = env.step(format_call(name, **dict(zip(keys, registers, strict=True))))
    return observation, info["ok"]


def started(registers: dict[str, int], value: int, max_turns: int | None = None) -> CalcTools:
    """An episode with these registers, in which nothing is left of the expression that was drawn."""
    env = CalcTools(numbers=len(registers), max_turns=max_turns)
    env.reset(seed=0)
    env.registers, env.value, env.left = dict(registers), value, None
    return env


def read_registers(observation: str) -> dict[str, int]:
    pairs = observation.split("Registers: ")[1].rstrip(".").split(", ")
    return {name: int(value) for name, value in (pair.split(" = ") for pair in pairs)}


def evaluate(order: str, registers: dict[str, int]) -> Fraction:
    """The value of a fully parenthesised text."""
    tokens = re.findall(r"[a-z()+*/-]", order)

    def operand() -> Fraction:
        token = tokens.pop(0)
        if token != "(":
            return Fraction(registers[token])
        value = operation()
        assert tokens.pop(0) == ")"
        return value

    def operation() -> Fraction:
        left = operand()
        if not tokens or tokens[0] == ")":
            return left
        sign, right = tokens.pop(0), operand()
        return {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else Fraction(-1)}[
            sign
        ]

    value = operation()
    assert not tokens
    return value


def results(left: int, right: int) -> Iterator[tuple[str, int]]:
    """Every operation and its result, from the definition."""
    for name, value in [("add", left + right), ("sub", left - right), ("mul", left * right)]:
        if 1 <= value <= LARGEST:
            yield name, value
    if left % right == 0:
        yield "div", left // right


def fewest_calls(numbers: tuple[int, ...], value: int) -> int | None:
    """By trying everything: calls to the submission of the value, None when there is no way."""
    if value in numbers:
        return 1
    found = [None] if len(numbers) < 2 else []
    for i, left in enumerate(numbers):
        for j, right in enumerate(numbers):
            if i != j:
                rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
                found += [fewest_calls((*rest, result), value) for _, result in results(left, right)]
    counted = [calls for calls in found if calls is not None]
    return 1 + min(counted) if counted else None


@pytest.mark.parametrize("numbers", [2, 3, 4, 6])
def test_the_order_has_the_value_that_the_hint_leads_to(numbers: int) -> None:
    operations, values = set(), set()
    for seed in range(30):
        env = CalcTools(numbers=numbers)
        observation, info = env.reset(seed=seed)
        order, registers = observation.split("Order: ")[1].split(". ")[0], read_registers(observation)
        assert set(registers) == set("abcdef"[:numbers]) == set(re.findall("[a-z]", order))
        steps = [step.split(" ") for step in info["hint"].removeprefix("The way is: ").removesuffix(".").split(", ")]
        assert len(steps) == numbers
        for step in steps:
            assert call(env, *step)[1]
            operations.add(step[0])
        assert env.success and evaluate(order, registers) == env.value
        values.add(env.value)
    assert len(values) > 20 and operations >= {"add", "sub", "mul", "submit"}


def test_divisions_occur() -> None:
    env = CalcTools()
    assert sum("/" in env.reset(seed=seed)[0] for seed in range(200)) > 5


@pytest.mark.parametrize("numbers", [2, 3, 4])
def test_ways_are_those_that_trying_everything_finds(numbers: int) -> None:
    rng = random.Random(numbers)
    lost = repaired = 0
    for seed in range(40):
        env = CalcTools(numbers=numbers, max_turns=50)
        env.reset(seed=seed)
        assert fewest_calls(tuple(env.registers.values()), env.value) == numbers
        for _ in range(seed % 3):
            env.step(rng.choice([action for action in env.legal_actions() if "submit" not in action] or [""]))
        needed = fewest_calls(tuple(env.registers.values()), env.value)
        lost += needed is None
        repaired += env.left is None and needed is not None
        left = 0
        while (action := env.expert()) is not None:
            env.step(action)
            left += 1
        assert left == (needed or 0) and env.success == (needed is not None)
    assert lost or numbers == 2
    assert repaired or numbers != 4  # off the expression, and yet to its value


def test_what_is_used_up_is_gone_and_the_result_has_the_next_letter() -> None:
    env = started({"a": 6, "b": 3, "c": 5}, 10)
    assert call(env, "div", "a", "b") == ("Registers: c = 5, d = 2.", True)
    assert call(env, "add", "a", "c") == ("No such register. Registers: c = 5, d = 2.", False)
    assert call(env, "mul", "d", "c") == ("Registers: e = 10.", True)
    assert call(env, "submit", "e") == ("Right.", True) and env.success and env.turn == 4


@pytest.mark.parametrize(
    ("name", "left", "right", "why"),
    [
        ("sub", "b", "a", "3 - 6 is not a whole number"),
        ("sub", "b", "c", "3 - 3 is not a whole number from 1 to 99999"),
        ("div", "b", "a", "3 / 6 is not a whole number"),
        ("mul", "d", "a", "90000 * 6 is not a whole number"),
        ("add", "d", "d", "Two different registers are wanted."),
        ("add", "a", "z", "No such register."),
        ("add", "", "a", "No such register."),
        ("add", "a" * 1000, "b", "No such register."),
    ],
)
def test_a_refused_operation_uses_up_nothing(name: str, left: str, right: str, why: str) -> None:
    env = started({"a": 6, "b": 3, "c": 3, "d": 90_000}, 1)
    before = env.view()
    observation, ok = call(env, name, left, right)
    assert not ok and observation.startswith(why) and observation.endswith(before) and env.view() == before


def test_no_register_ever_holds_what_cannot_be_divided_by() -> None:
    rng = random.Random(5)
    for seed in range(60):
        env = CalcTools(numbers=6, max_turns=30)
        env.reset(seed=seed)
        while not env.over:
            assert all(1 <= value <= LARGEST for value in env.registers.values())
            names = [*env.registers, "q"]
            call(env, rng.choice(list(SIGNS)), rng.choice(names), rng.choice(names))
        assert set(env.registers) <= set("abcdefghijk")


def test_a_wrong_operation_is_answered_like_a_right_one_and_lasts() -> None:
    env = CalcTools(numbers=3, max_turns=30)
    lost = 0
    for seed in range(40):
        env.reset(seed=seed)
        wrong = [action for action in env.legal_actions() if action not in env.optimal_actions()]
        observation, _, _, _, info = env.step(next(action for action in wrong if "submit" not in action))
        assert info == {"success": False, "ok": True} and re.fullmatch(r"Registers: . = \d+, d = \d+\.", observation)
        if env.expert() is None:
            lost += 1
            assert env.optimal_actions() == [] and env.legal_actions()
            assert call(env, "submit", "d") == ("Wrong.", True)
            assert env.over and not env.success
    assert lost > 20


def test_the_value_counts_and_not_how_it_came_to_be() -> None:
    env = started({"a": 4, "b": 2, "c": 7, "d": 2}, 8)
    assert env.optimal_actions() == [
        format_call("mul", left=left, right=right) for left, right in ["ab", "ad", "ba", "da"]
    ]
    call(env, "mul", "a", "d")
    assert env.optimal_actions() == [format_call("submit", register="e")] and env.expert() is not None
    call(env, "submit", "e")
    assert env.success


def test_too_few_turns_are_a_loss() -> None:
    env = CalcTools(numbers=3, max_turns=4)
    env.reset(seed=0)
    env.step("hm")
    assert env.expert() and env.optimal_actions()
    env.step("hm")
    assert env.expert() is None and env.optimal_actions() == [] and env.legal_actions()


@pytest.mark.parametrize(
    "kwargs",
    [{"numbers": 1}, {"numbers": 7}, {"numbers": True}, {"numbers": 5, "max_turns": 4}],
)
def test_knobs(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{list(kwargs)[-1]}=.*wanted"):
        CalcTools(**kwargs)
