"""Two-player games against an opponent in the environment: seats, endings, draws, and nothing left to chance."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv import AgentEnv, Step, check_environment, make
from trpd_agents.textenv.textarena_matches import LEGAL_MOVES, horizon, opponents, seat_of, two_player
from trpd_agents.textenv.two_player_env import TwoPlayerEnv
from trpd_agents.textenv.two_player_experts import SCRIPTED


def play(env: AgentEnv, seed: int, policy: Any) -> tuple[list[str], list[Step]]:
    """Observations and steps of one episode; `policy` maps the environment to an action."""
    observations = [env.reset(seed)]
    steps: list[Step] = []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        steps.append(env.step(policy(env)))
        observations.append(steps[-1].observation)
    return observations, steps


def at_random(chance: random.Random) -> Any:
    return lambda env: chance.choice(env.legal_actions())


@pytest.mark.parametrize("base", sorted(LEGAL_MOVES))
def test_every_legal_move_is_accepted_and_every_match_ends(base: str) -> None:
    env = make(f"textarena/{base}-v0")
    chance = random.Random(1)
    for seed in range(4):
        _, steps = play(env, seed, at_random(chance))
        assert all(step.ok for step in steps)
        last = steps[-1]
        assert last.terminated and len(steps) <= env.max_turns
        assert (last.success, last.draw) == (last.reward > 0, last.reward == 0)
        assert not any(step.success or step.draw or step.reward for step in steps[:-1])
        assert env.legal_actions() == []


@pytest.mark.parametrize("game", ["TicTacToe-v0", "Othello-v0-small", "PigDice-v0-short", "LiarsDice-v0-small"])
def test_an_episode_is_a_function_of_its_seed_and_leaves_no_trace(game: str) -> None:
    alone = [play(make(f"textarena/{game}"), seed, at_random(random.Random(seed))) for seed in (3, 4)]
    envs, chances = [make(f"textarena/{game}") for _ in alone], [random.Random(seed) for seed in (3, 4)]
    together = [([env.reset(seed)], []) for env, seed in zip(envs, (3, 4), strict=True)]
    running = {0, 1}
    while running:
        for i in sorted(running):
            random.random(), np.random.random()
            before = random.getstate()
            step = envs[i].step(at_random(chances[i])(envs[i]))
            assert random.getstate() == before
            together[i][0].append(step.observation), together[i][1].append(step)
            running -= {i} if step.terminated else set()
    assert together == alone and together[0] != together[1]


def test_the_seed_decides_the_seat_and_each_seat_is_told_so() -> None:
    env = make("textarena/TicTacToe-v0")
    seats = [seat_of("seed", seed) for seed in range(200)]
    assert 70 < sum(seats) < 130
    for seed in range(12):
        first = env.reset(seed)
        assert f"You are Player {seats[seed]}" in first and f"You are Player {1 - seats[seed]}" not in first
        assert first.count("Current Board") == 1 and ("Player 0 placed" in first) == (seats[seed] == 1)
    for seat in (0, 1):
        assert f"You are Player {seat}" in make("textarena/TicTacToe-v0", seat=seat).reset(5)


def test_the_rules_come_once_the_last_board_alone_and_no_echo_of_the_own_words() -> None:
    env = make("textarena/ConnectFour-v0", seat=0)
    assert "The first to connect" in env.reset(0)
    told = env.step("I drop it in [col 3]").observation
    assert "The first to connect" not in told and "I drop it" not in told
    assert told.count("Board state") == 1 and "Player 1 dropped" in told and "[Player 1] [col" in told


def test_hands_are_not_shown_to_the_other_side() -> None:
    env = TwoPlayerEnv("KuhnPoker-v0", seat=0)
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert env._match is not None
        cards = env._match.game.state.game_state["player_cards"]
        assert f"Your card is: '{'JQK'[cards[0]]}'" in observation
        assert f"Your card is: '{'JQK'[cards[1]]}'" not in observation


def test_a_win_a_loss_and_a_draw_are_told_apart() -> None:
    found: Counter[tuple[bool | None, bool | None, float]] = Counter()
    env = make("textarena/TicTacToe-v0")
    chance = random.Random(0)
    for seed in range(60):
        last = play(env, seed, at_random(chance))[1][-1]
        found[last.success, last.draw, last.reward] += 1
        assert ("draw" in last.observation) == last.draw
    assert set(found) == {(True, False, 1.0), (False, False, -1.0), (False, True, 0.0)}


def test_losing_by_invalid_moves_is_no_draw() -> None:
    env = make("textarena/Nim-v0", seat=0)
    env.reset(0)
    first = env.step("no brackets")
    assert not first.ok and not first.terminated and "invalid move" in first.observation
    assert env.step("[0 1]").ok  # a valid one in between forgives
    assert not env.step("[9 9]").ok
    last = env.step("[9 9]")
    assert last.terminated and (last.success, last.draw, last.ok, last.reward) == (False, False, False, -1.0)


def test_an_action_that_the_game_cannot_process_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("textarena/TicTacToe-v0", seat=0)
    env.reset(0)
    monkeypatch.setattr(env.env.unwrapped._match.game, "step", lambda action: {}[action])  # type: ignore[attr-defined]
    last = env.step("[4]")
    assert last.terminated and (last.success, last.draw, last.ok, last.reward) == (False, False, False, -1.0)
    assert "could not process this action: KeyError" in last.observation


def test_a_refused_move_of_the_opponent_is_the_environments_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEGAL_MOVES, "TicTacToe", lambda game: ["[9]"])
    env = make("textarena/TicTacToe-v0", seat=0)
    env.reset(0)
    with pytest.raises(EnvironmentFailure, match="refuses the opponent's move"):
        env.step("[4]")


def test_where_nobody_can_move_it_is_a_draw() -> None:
    env = make("textarena/UltimateTicTacToe-v0")
    chance = random.Random(2)
    ends = [play(env, seed, at_random(chance))[1][-1] for seed in range(12)]
    stuck = [end for end in ends if "Nobody can move" in end.observation]
    assert stuck and all((end.draw, end.success, end.reward) == (True, False, 0.0) for end in stuck)


def test_every_action_spends_a_turn_and_the_limit_is_no_draw() -> None:
    env = make("textarena/ConnectFour-v0", max_turns=3)
    env.reset(0)
    steps = [env.step(action) for action in ("x", "[col 0]", "x")]
    assert [step.truncated for step in steps] == [False, False, True]
    assert (steps[-1].success, steps[-1].draw) == (False, False)


def test_limits_follow_the_arguments_of_the_game() -> None:
    assert make("textarena/Nim-v0").max_turns == 12
    assert make("textarena/Nim-v0", piles=[1, 2]).max_turns == 3
    assert make("textarena/PigDice-v0-short").max_turns == 25
    assert "pile 1: 2" in make("textarena/Nim-v0", piles=[1, 2]).reset(0)
    longest = TwoPlayerEnv("LiarsDice-v0")
    longest.reset(seed=0)
    assert longest._match is not None and horizon("LiarsDice-v0", longest._match.game) == 100


def refusal(game: str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        make(f"textarena/{game}", **kwargs)
    return str(caught.value)


def test_wrong_arguments_say_what_would_do() -> None:
    assert opponents("TicTacToe-v0") == ["random", "scripted"] and opponents("Othello-v0") == ["random"]
    message = refusal("Othello-v0", opponent="scripted")
    assert "no opponent 'scripted', because no player is scripted" in message
    assert "opponent='random', 'self'" in message and "builtin:NAME" in message
    assert "wanted 0, 1 or 'seed'" in refusal("TicTacToe-v0", seat=2)
    assert "wanted 0, 1 or 'seed'" in refusal("TicTacToe-v0", seat=True)
    assert "at least 1" in refusal("TicTacToe-v0", max_turns=0)
    message = refusal("Nim-v0", pile=[1])
    assert "takes no argument 'pile'" in message and "opponent, seat" in message and "Did you mean 'piles'" in message
    assert "cannot be started with these arguments" in refusal("Othello-v0", board_size=5)
    assert "wanted 'random', 'scripted', 'self' or the name of a model" in refusal("Nim-v0", opponent=3)


@pytest.mark.parametrize("game", ["TicTacToe-v0", "Nim-v0", "ConnectFour-v0", "KuhnPoker-v0", "Breakthrough-v0-tiny"])
def test_they_pass_the_check_before_training(game: str) -> None:
    check_environment(f"textarena/{game}")


def test_the_document_names_every_game_with_an_opponent() -> None:
    text = (Path(__file__).parents[2] / "docs" / "two-player.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"Legal moves are listed for (.*?), in all their variants", text, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == set(LEGAL_MOVES) and f"the {len(LEGAL_MOVES)} below" in text
    (row,) = re.findall(r"^\| `scripted` \|(.*)$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(SCRIPTED)


def test_the_games_for_two_are_those_of_the_table() -> None:
    games = two_player()
    assert {"TicTacToe-v0", "Snake-v0", "WordChains-v0"} <= set(games)
    assert not {"Mastermind-v0", "SecretMafia-v0", "Chess-v0"} & set(games)
    assert all(any(name.startswith(f"{base}-v") for name in games) for base in LEGAL_MOVES)
    for name in ("Snake-v0", "SimpleNegotiation-v0", "WordChains-v0"):
        assert "no opponent 'random', because no legal moves are listed" in refusal(name)
        env = make(f"textarena/{name}", opponent="self")
        env.reset(0)
        assert env.seats == 2 and env.seat in (0, 1) and not env.has_expert
