"""textarena's games behind the same contract as every other environment, and without a trace outside it."""

from __future__ import annotations

import random
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv import AgentEnv, Step, check_environment, make
from trpd_agents.textenv.textarena_env import TextArenaEnv
from trpd_agents.textenv.textarena_games import horizon, single_player

SLOW = {"Sudoku-v0-hard", "RushHour-v0"}  # to reset
QUICK = [game for game in single_player() if game not in SLOW]


def play(env: AgentEnv, seed: int, policy: Any) -> tuple[list[str], list[Step]]:
    """Observations and steps of one episode; `policy` maps the observations so far to an action."""
    observations = [env.reset(seed)]
    steps: list[Step] = []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        steps.append(env.step(policy(observations)))
        observations.append(steps[-1].observation)
    return observations, steps


def test_binary_search_from_the_text_alone_wins_guess_the_number() -> None:
    env = make("textarena/GuessTheNumber-v0")
    assert env.max_turns == 10
    for seed in range(40):
        low, high, guess = 1, 20, 0

        def bisect(observations: list[str]) -> str:
            nonlocal low, high, guess
            if "higher" in observations[-1] and guess:
                low = guess + 1
            elif "lower" in observations[-1] and guess:
                high = guess - 1
            guess = (low + high) // 2
            return f"I say [{guess}]"

        observations, steps = play(env, seed, bisect)
        assert steps[-1].success
        assert "between 1 and 20" in observations[0]  # the rules come first
        assert "between 1 and 20" not in "".join(observations[1:])  # and once
        assert "I say" not in "".join(observations)  # an action is not echoed


def test_random_play_of_frozen_lake_is_paid_but_fails() -> None:
    env = make("textarena/FrozenLake-v0")
    chance = random.Random(0)
    ends = []
    for seed in range(40):
        _, steps = play(env, seed, lambda _: f"[{chance.choice(['up', 'down', 'left', 'right'])}]")
        ends.append(steps[-1])
    assert sum(end.reward for end in ends) > 2  # partial rewards...
    assert sum(bool(end.success) for end in ends) <= 4  # ...are not success
    assert all(end.success == (end.reward == 1.0) for end in ends)


DRAWS_WHILE_PLAYING = {
    "2048-v0-ultra-easy": ["[up]", "[left]", "[down]", "[right]"],
    "Bandit-v0": ["[red]", "[blue]"],
    "Blackjack-v0": ["[hit]", "[stand]"],
    "Minesweeper-v0-small": [f"[{cell // 5} {cell % 5}]" for cell in range(25)],
}


def global_state() -> tuple[Any, list[int], int]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2]


@pytest.mark.parametrize("game", DRAWS_WHILE_PLAYING)
def test_interleaved_games_change_neither_each_other_nor_the_caller(game: str) -> None:
    actions = DRAWS_WHILE_PLAYING[game]

    def policy(observations: list[str]) -> str:
        return actions[(len(observations) - 1) % len(actions)]

    alone = [play(make(f"textarena/{game}"), seed, policy)[0] for seed in (3, 4)]
    envs = [make(f"textarena/{game}") for _ in alone]
    together = [[env.reset(seed)] for env, seed in zip(envs, (3, 4), strict=True)]
    running = {0, 1}
    while running:
        for i in sorted(running):
            random.random(), np.random.random()  # the caller draws too, which is no business of the games
            before = global_state()
            step = envs[i].step(policy(together[i]))
            assert global_state() == before
            together[i].append(step.observation)
            if step.terminated or step.truncated:
                running.remove(i)
    assert together == alone
    assert together[0] != together[1]


def test_a_used_environment_starts_afresh() -> None:
    env = make("textarena/Mastermind-v0")
    first = env.reset(1)
    env.step("[1 2 3 4]")
    assert env.reset(1) == first
    assert env.step("[1 2 3 4]").observation.count("Submitted") == 1


def test_invalid_moves_are_not_ok_and_two_in_a_row_lose() -> None:
    env = make("textarena/Mastermind-v0")
    env.reset(0)
    first = env.step("no brackets")
    assert not first.ok and not first.terminated and "invalid move" in first.observation
    assert env.step("[1 2 3 4]").ok
    assert not env.step("[1 2 3 4]").ok  # the same guess again
    last = env.step("[9 9 9 9]")
    assert last.terminated and not last.ok and last.success is False


def test_losing_by_an_invalid_move_is_no_success_whatever_it_pays() -> None:
    env = make("textarena/Mastermind-v0", success_reward=0.25)
    env.reset(0)
    assert not env.step("[1 2 3 4]").terminated  # finds at least two of the digits 1 to 6
    env.step("x")
    last = env.step("x")
    assert last.terminated and last.reward >= 0.25 and last.success is False


def test_every_action_spends_a_turn() -> None:
    env = make("textarena/Mastermind-v0", max_turns=4)
    assert "You have 4 turns" in env.reset(0)
    assert env.max_turns == 4
    steps = [env.step(action) for action in ("x", "[1 2 3 4]", "x", "[2 3 4 5]")]
    assert [step.truncated or step.terminated for step in steps] == [False, False, False, True]
    assert steps[-1].success is False


def test_arguments_reach_the_game() -> None:
    assert "code that is 3 digits long, each digit from 1 to 4" in make(
        "textarena/Mastermind-v0", code_length=3, num_numbers=4
    ).reset(0)
    assert make("textarena/2048-v0", target_tile=8).max_turns == 8
    assert make("textarena/Bandit-v0", num_turns=3).max_turns == 4  # the conclusion is one more


def test_reasons_in_place_of_rewards_and_swapped_arguments_are_understood() -> None:
    for game in ("Countdown-v0", "Cryptarithm-v0", "Slitherlink-v0", "ThreeCardMonte-v0"):
        env = make(f"textarena/{game}")
        assert len(env.reset(0)) > 40
        step = env.step("hello")
        assert not step.ok and not step.terminated and "hello" not in step.observation.splitlines()
        step = env.step("hello")
        assert step.terminated and step.success is False and step.reward == 0.0


def test_a_game_that_raises_ends_as_a_failed_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("textarena/GuessTheNumber-v0")
    env.reset(0)
    state = random.getstate()

    def explode(action: str) -> None:
        random.random()
        raise IndexError("off the board")

    monkeypatch.setattr(env.env.unwrapped._played, "step", explode)  # type: ignore[attr-defined]
    step = env.step("[5]")
    assert (step.terminated, step.ok, step.success, step.reward) == (True, False, False, 0.0)
    assert "IndexError: off the board" in step.observation
    assert random.getstate() == state


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")
def test_a_game_that_hangs_is_a_timeout_and_gives_the_random_state_back(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("textarena/GuessTheNumber-v0")
    env.reset(0)
    env.seconds = 0.2
    state, out = random.getstate(), sys.stdout
    monkeypatch.setattr(env.env.unwrapped._played, "step", lambda action: time.sleep(20))  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFailure, match="took more than 0.2 s"):
        env.step("[5]")
    assert random.getstate() == state and sys.stdout is out


def test_games_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    env = make("textarena/LogicPuzzle-v0")
    env.reset(0)
    env.step("hello")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("game", QUICK)
def test_every_listed_game_keeps_the_contract(game: str) -> None:
    env = make(f"textarena/{game}")
    first = env.reset(1)
    assert first and env.reset(1) == first
    assert horizon(game, env.env.unwrapped._played) == env.max_turns  # type: ignore[attr-defined]
    for action in ("", "7" * 5000, "[up]", "[1 2]"):
        step = env.step(action)
        if step.terminated or step.truncated:
            break
    assert step.success is not None


def refusal(game: str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        make(f"textarena/{game}", **kwargs)
    return str(caught.value)


def test_games_that_cannot_be_played_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "present")
    assert "Did you mean 'Mastermind-v0'" in refusal("Mastermnd-v0")
    assert "for several players" in refusal("SecretMafia-v0")
    with pytest.raises(UserError, match="for several players"):
        TextArenaEnv("TicTacToe-v0")
    assert "no episode can succeed" in refusal("FifteenPuzzle-v0")
    assert "a reset can take longer" in refusal("Sokoban-v0-medium")
    assert "online language model" in refusal("TwentyQuestions-v0-hardcore")
    if sys.version_info < (3, 12):
        assert "needs a newer Python" in refusal("UltimateTexasHoldem-v0")


def test_wrong_arguments() -> None:
    message = refusal("Mastermind-v0", code_lenth=3)
    assert "takes no argument 'code_lenth'; it accepts: code_length, num_numbers" in message
    assert "Did you mean 'code_length'" in message
    assert "at least 1" in refusal("Mastermind-v0", max_turns=0)
    assert "cannot be started" in refusal("Mastermind-v0", code_length=9)


@pytest.mark.parametrize("game", ["FrozenLake-v0", "Mastermind-v0", "GuessTheNumber-v0", "Bandit-v0"])
def test_they_pass_the_check_before_training(game: str) -> None:
    check_environment(f"textarena/{game}")
