"""textarena's games behind the same contract as every other environment, and without a trace outside it."""

from __future__ import annotations

import importlib
import random
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv import AgentEnv, Step, check_environment, make
from trpd_agents.textenv.textarena_env import TextArenaEnv, _horizon
from trpd_agents.textenv.textarena_games import GAMES, NEEDS_DATA, SEED_HAS_NO_EFFECT, base_name

SLOW = {"Sudoku-v0-hard", "RushHour-v0"}  # to reset; played elsewhere by hand
QUICK = [game for game in GAMES if game not in SLOW]


def play(env: AgentEnv, seed: int, policy: Any) -> tuple[list[str], list[Step]]:
    """Observations and steps of one episode; `policy` maps the observations so far to an action."""
    observations = [env.reset(seed)]
    steps: list[Step] = []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        steps.append(env.step(policy(observations)))
        observations.append(steps[-1].observation)
    return observations, steps


@pytest.mark.parametrize(
    ("game", "most_turns"),
    [("GuessTheNumber-v0", 5), ("Mastermind-v0", 7), ("FrozenLake-v0", 10), ("FrozenLake-v0-random", 10)],
)
def test_experts_always_succeed(game: str, most_turns: int) -> None:
    env = make(f"textarena/{game}")
    assert env.has_expert
    for seed in range(25):
        _, steps = play(env, seed, lambda _: env.expert())
        assert steps[-1].success and steps[-1].reward == 1.0 and len(steps) <= most_turns
        assert all(step.ok for step in steps) and not any(step.reward for step in steps[:-1])


@pytest.mark.parametrize(
    "game", ["GuessTheNumber-v0", "Mastermind-v0", "FrozenLake-v0", "FrozenLake-v0-random", "FrozenLake-v0-hardcore"]
)
def test_any_optimal_action_leads_to_success_and_legal_ones_are_accepted(game: str) -> None:
    chance = random.Random(0)
    several = 0
    for seed in range(12):
        env = make(f"textarena/{game}")
        env.reset(seed)
        ended = False
        while not ended:
            optimal, legal = env.optimal_actions(), env.legal_actions()
            assert optimal[0] == env.expert() and set(optimal) <= set(legal) and len(set(legal)) == len(legal)
            several += len(optimal) > 1
            action = chance.choice(optimal)
            last = env.step(action)
            ended = last.terminated
        assert last.success
        assert env.optimal_actions() == env.legal_actions() == [] and env.expert() is None
        env.reset(seed)
        while legal := env.legal_actions():
            assert env.step(chance.choice(legal)).ok
    assert several or game == "Mastermind-v0"


def test_a_shortest_way_over_the_lake_stays_one_whichever_move_is_taken() -> None:
    env = make("textarena/FrozenLake-v0", num_holes=2)
    chance = random.Random(1)
    for seed in range(20):
        lengths = set()
        for _ in range(4):
            _, steps = play(env, seed, lambda _: chance.choice(env.optimal_actions()))
            lengths.add(len(steps))
        assert len(lengths) == 1


def test_a_fall_into_a_hole_leaves_nothing_to_do() -> None:
    env = make("textarena/FrozenLake-v0")
    fallen = 0
    for seed in range(20):
        env.reset(seed)
        for action in ("[right]", "[right]", "[down]"):
            last = env.step(action)
            if last.terminated:
                break
        if last.terminated:
            fallen += 1
            assert env.expert() is None and env.optimal_actions() == []
    assert fallen


def test_more_codes_than_a_choice_is_made_from_are_not_listed() -> None:
    env = make("textarena/Mastermind-v0", code_length=3)
    env.reset(0)
    assert len(env.legal_actions()) == 120
    env.step("[1 2 3]")
    assert len(env.legal_actions()) == 119 and "[1 2 3]" not in env.legal_actions()
    large = make("textarena/Mastermind-v0", code_length=6, num_numbers=9)
    large.reset(0)
    assert large.legal_actions() == [] and large.expert()


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


@pytest.mark.parametrize("game", ["FrozenLake-v0", "Mastermind-v0"])
def test_experts_take_over_from_any_state(game: str) -> None:
    openings = {"FrozenLake-v0": ["[right]", "[down]"], "Mastermind-v0": ["[6 5 4 3]", "[1 2 3 6]"]}[game]
    env = make(f"textarena/{game}")
    saved = 0
    for seed in range(15):
        env.reset(seed)
        if any((last := env.step(action)).terminated for action in openings):
            continue
        while not last.terminated:
            action = env.expert()
            assert action is not None
            last = env.step(action)
        saved += bool(last.success)
        assert last.success
    assert saved >= 5


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
    for action in ("", "7" * 5000, "[up]", "[1 2]"):
        step = env.step(action)
        if step.terminated or step.truncated:
            break
    assert step.success is not None


@pytest.mark.parametrize("game", QUICK)
def test_the_table_of_games_agrees_with_the_package(game: str) -> None:
    measured = TextArenaEnv(game)
    measured._played = measured._start(0)
    assert _horizon(game, measured._played) == GAMES[game] == measured.max_turns


@pytest.mark.parametrize("game", sorted(SEED_HAS_NO_EFFECT))
def test_seeds_without_effect_are_known(game: str) -> None:
    env = make(f"textarena/{game}-v0")
    assert len({env.reset(seed) for seed in range(4)}) == 1


@pytest.mark.parametrize(
    "game", ["FrozenLake-v0", "Sudoku-v0", "Slitherlink-v0", "Secretary-v0", "Set-v0", "LightsOut-v0"]
)
def test_other_seeds_have_one(game: str) -> None:
    assert base_name(game) not in SEED_HAS_NO_EFFECT
    env = make(f"textarena/{game}")
    assert len({env.reset(seed) for seed in range(4)}) > 1


def refusal(game: str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        make(f"textarena/{game}", **kwargs)
    return str(caught.value)


def test_games_that_cannot_be_played_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "present")
    assert "Did you mean 'Mastermind-v0'" in refusal("Mastermnd-v0")
    assert "for several players" in refusal("TicTacToe-v0")
    assert "no episode can succeed" in refusal("FifteenPuzzle-v0")
    assert "its reset does not finish" in refusal("Sokoban-v0-medium")
    assert "online language model" in refusal("TwentyQuestions-v0-hardcore")
    if sys.version_info < (3, 12):
        assert "needs a newer Python" in refusal("UltimateTexasHoldem-v0")


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk: Any = importlib.import_module("nltk")

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr(nltk, "download", no_network)
    monkeypatch.setattr(nltk.data, "path", [])
    for game in NEEDS_DATA[::3]:
        sys.modules.pop(f"textarena.envs.{base_name(game)}.env", None)
        message = refusal(game)
        assert "NLTK data 'words'" in message and "python -m nltk.downloader words" in message


def test_wrong_arguments() -> None:
    message = refusal("Mastermind-v0", code_lenth=3)
    assert "takes no argument 'code_lenth'; it accepts: code_length, num_numbers" in message
    assert "Did you mean 'code_length'" in message
    assert "at least 1" in refusal("Mastermind-v0", max_turns=0)
    assert "cannot be started" in refusal("Mastermind-v0", code_length=9)


@pytest.mark.parametrize("game", ["FrozenLake-v0", "Mastermind-v0", "GuessTheNumber-v0", "Bandit-v0"])
def test_they_pass_the_check_before_training(game: str) -> None:
    check_environment(f"textarena/{game}")
