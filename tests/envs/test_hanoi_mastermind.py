"""The two controls: Hanoi's expert is as short as breadth-first search, and no code of Mastermind takes too long."""

from __future__ import annotations

from collections import Counter, deque
from itertools import permutations, product
from typing import Any

import pytest

from trpd_envs.hanoi import PEGS, Hanoi
from trpd_envs.mastermind import Mastermind

GARBAGE = ["", "\0", "A", "A A", "A D", "AB", "1 2", "A B C", "²", "٣ ٤ ١ ٢", "-1 2 3 4", "9" * 5000, "A " * 100_000]


def distances(disks: int, goal: int) -> dict[tuple[int, ...], int]:
    """Moves to the full peg from every state, breadth first, by the rules of the game alone."""
    full = (goal,) * disks
    found = {full: 0}
    queue = deque([full])
    while queue:
        state = queue.popleft()
        for disk, target in product(range(disks), range(3)):
            smaller = state[:disk]
            if target != state[disk] and state[disk] not in smaller and target not in smaller:
                after = (*state[:disk], target, *state[disk + 1 :])
                if after not in found:
                    found[after] = found[state] + 1
                    queue.append(after)
    return found


@pytest.mark.parametrize("disks", [2, 3, 5])
def test_hanoi_expert_takes_a_shortest_way_from_every_state(disks: int) -> None:
    env = Hanoi(disks=disks)
    for goal in range(3):
        away = distances(disks, goal)
        assert len(away) == 3**disks
        for state, needed in away.items():
            env.reset(seed=0)
            env.pegs, env.goal = list(state), goal
            if not needed:
                continue
            nearer = []
            for action in env.legal_actions():
                source, target = (PEGS.index(name) for name in action.split(" "))
                disk = state.index(source)
                nearer += [action] * (away[(*state[:disk], target, *state[disk + 1 :])] == needed - 1)
            assert env.optimal_actions() == nearer == [env.expert()]
            env.turn = env.max_turns - needed
            assert env.expert() == nearer[0]
            env.turn += 1
            assert env.expert() is None and env.optimal_actions() == [] and env.legal_actions()


def test_hanoi_starts_anywhere_but_never_near_the_end() -> None:
    starts = set()
    for seed in range(60):
        env = Hanoi()
        observation, info = env.reset(seed=seed)
        assert observation == f"Bring all disks to {PEGS[env.goal]}. {env.view()}" and "hint" not in info
        assert 4 <= distances(3, env.goal)[tuple(env.pegs)] <= 7
        starts.add((env.goal, *env.pegs))
    assert len(starts) > 25


def test_hanoi_rules_and_spellings() -> None:
    env = Hanoi(disks=3, max_turns=30)
    env.reset(seed=0)
    env.pegs, env.goal = [0, 0, 0], 2
    assert env.view() == "A: 3 2 1. B: empty. C: empty."
    assert env.step("A C")[0] == "A: 3 2. B: empty. C: 1."
    observation, reward, terminated, _, info = env.step("A C")
    assert observation == f"Disk 2 cannot be put on C. {env.view()}" and not info["ok"] and not terminated
    assert env.step("B A")[0] == f"No disk is on B. {env.view()}"
    for spelling in [" a b\n", "C to B", "B->C", "c,b."]:
        assert env.step(spelling)[4]["ok"], spelling
    assert env.view() == "A: 3. B: 2 1. C: empty."
    for action in ["A C", "B A", "B C", "A C"]:
        observation, reward, terminated, _, info = env.step(action)
    assert terminated and reward == 1.0 and info["success"] and env.legal_actions() == []


@pytest.mark.parametrize("make", [Hanoi, Mastermind])
def test_garbage_is_refused_and_answered_shortly(make: Any) -> None:
    env = make(max_turns=1000)
    env.reset(seed=0)
    before = env.expert()
    for action in GARBAGE:
        observation, _, _, _, info = env.step(action)
        assert not info["ok"] and observation.startswith("Answer with") and len(observation) < 200
    assert env.expert() == before


def naive_answer(guess: str, code: str) -> str:
    in_place = sum(a == b for a, b in zip(guess, code, strict=True))
    return f"{in_place} in place, {(Counter(guess) & Counter(code)).total() - in_place} elsewhere."


def test_mastermind_answers() -> None:
    env = Mastermind(max_turns=400)
    for secret in ["1234", "6153"]:
        env.reset(seed=0)
        env.secret = secret
        for guess in map("".join, permutations("123456", 4)):
            observation, _, _, _, info = env.step(" ".join(guess))
            assert info["ok"]
            if guess == secret:
                assert observation == f"{' '.join(guess)} is right." and env.success
                break
            assert observation == f"{' '.join(guess)}: {naive_answer(guess, secret)}"


def test_mastermind_spellings_and_refusals() -> None:
    env = Mastermind(max_turns=30)
    env.reset(seed=0)
    env.secret = "6543"
    for guess in ["1234", " 1, 2,3 4.\n", "1 2 3 4"]:
        assert env.step(guess)[0] == "1 2 3 4: 0 in place, 2 elsewhere."
    for guess in ["1 2 3", "1 2 3 4 5", "1 1 2 3", "1 2 3 7", "0 1 2 3", "1 2 3 x"]:
        assert env.step(guess)[0] == "Answer with 4 different digits from 1 to 6."


@pytest.mark.parametrize(("length", "digits"), [(2, 2), (2, 9), (3, 4), (3, 6), (4, 6), (5, 5)])
def test_mastermind_expert_finds_every_code_in_the_least_turns_that_are_allowed(length: int, digits: int) -> None:
    env = Mastermind(length=length, digits=digits, max_turns=length + digits)
    for code in map("".join, permutations("123456789"[:digits], length)):
        env.reset(seed=0)
        env.secret = code
        told: list[tuple[str, str]] = []
        while (action := env.expert()) is not None:
            guess = action.replace(" ", "")
            assert all(naive_answer(old, guess) == answer for old, answer in told)
            told.append((guess, naive_answer(guess, code)))
            env.step(action)
        assert env.success and env.turn <= 9


def test_mastermind_expert_says_none_when_its_guesses_would_come_too_late() -> None:
    env = Mastermind()
    given_up = 0
    for seed in range(40):
        env.reset(seed=seed)
        while env.turns_left > 2:
            env.step("no guess")
        if (action := env.expert()) is None:
            given_up += 1
            continue
        while action is not None:
            env.step(action)
            action = env.expert()
        assert env.success
    assert 20 < given_up < 40


def test_mastermind_hint_and_what_is_legal() -> None:
    env = Mastermind(length=5, digits=8)
    _, info = env.reset(seed=1)
    legal = env.legal_actions()
    assert len(set(legal)) == 1000 and legal == sorted(legal) and (legal[0], legal[-1]) == ("1 2 3 4 5", "8 7 6 5 4")
    assert env.step(info["hint"].removeprefix("The code is ").removesuffix("."))[4]["success"]
    small = Mastermind()
    small.reset(seed=0)
    assert len(set(small.legal_actions())) == 360 and small.expert() in small.legal_actions()
    assert small.step(small.legal_actions()[-1])[4]["ok"]


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (Hanoi, {"disks": 1}),
        (Hanoi, {"disks": 11}),
        (Hanoi, {"max_turns": 6}),
        (Mastermind, {"length": 1}),
        (Mastermind, {"length": 6}),
        (Mastermind, {"digits": 3}),
        (Mastermind, {"digits": "6"}),
        (Mastermind, {"max_turns": 9}),
    ],
)
def test_knobs(make: Any, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(kwargs))}=.*wanted"):
        make(**kwargs)
