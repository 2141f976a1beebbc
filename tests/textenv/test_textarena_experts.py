"""Solvers of textarena's games: they win, whichever of their actions is taken and wherever they take over."""

from __future__ import annotations

import random
import zlib
from itertools import product
from typing import Any

import pytest

from trpd_agents.textenv import AgentEnv, Step, make
from trpd_agents.textenv.textarena_experts import EXPERTS
from trpd_agents.textenv.textarena_experts.wordle import answer
from trpd_agents.textenv.textarena_games import base_name, single_player

# Game -> seeds that are played, and the most turns an expert needs: measured, a little above where chance decides.
MOST_TURNS: dict[str, tuple[int, int]] = {
    "FrozenLake-v0": (20, 10),
    "FrozenLake-v0-hardcore": (30, 14),
    "FrozenLake-v0-random": (30, 10),
    "GuessTheNumber-v0": (30, 5),
    "GuessTheNumber-v0-hardcore": (30, 6),
    "Hangman-v0": (30, 14),
    "LightsOut-v0": (30, 15),
    "Mastermind-v0": (30, 7),
    "Mastermind-v0-hard": (10, 9),
    "PegJump-v0": (3, 13),
    "RushHour-v0": (2, 30),
    "Set-v0": (5, 20),
    "Slitherlink-v0": (30, 16),
    "Sokoban-v0": (6, 30),
    "Sudoku-v0": (5, 21),
    "ThreeCardMonte-v0": (30, 1),
    "TowerOfHanoi-v0": (2, 7),
    "TowerOfHanoi-v0-hard": (2, 31),
    "WordLadder-v0": (6, 7),
    "WordLadder-v0-hard": (3, 15),
    "WordSearch-v0": (30, 5),
    "WordSearch-v0-hardcore": (30, 5),
    "Wordle-v0": (30, 6),
    "Wordle-v0-long": (30, 6),
    "Wordle-v0-hardcore": (3, 6),
}
# Nothing that is allowed makes them impossible within the turns that these tests leave.
FORGIVING = [
    "GuessTheNumber-v0",
    "Hangman-v0",
    "LightsOut-v0",
    "Mastermind-v0",
    "Slitherlink-v0",
    "TowerOfHanoi-v0",
    "WordLadder-v0",
    "WordSearch-v0",
    "Wordle-v0",
]
# There, mistakes last: an expert that says it can still win has to be right.
LASTING = ["FrozenLake-v0", "FrozenLake-v0-hardcore", "PegJump-v0", "Sokoban-v0"]


def finish(env: AgentEnv, choose: Any) -> list[Step]:
    """The expert's steps to the end, or to where it knows nothing more; every action is optimal and allowed."""
    steps: list[Step] = []
    while optimal := env.optimal_actions():
        legal = env.legal_actions()
        assert optimal[0] == env.expert() and len(set(optimal)) == len(optimal) and len(set(legal)) == len(legal)
        assert set(optimal) <= set(legal) or (not legal and base_name(env.spec.id).endswith("Mastermind"))
        steps.append(env.step(choose(optimal)))
        assert steps[-1].ok
        if steps[-1].terminated or steps[-1].truncated:
            break
    assert env.optimal_actions() == env.legal_actions() == [] or not steps or not steps[-1].success
    return steps


def test_every_expert_is_tested() -> None:
    assert {base_name(game) for game in MOST_TURNS} == set(EXPERTS)
    assert set(MOST_TURNS) <= set(single_player())


@pytest.mark.parametrize("game", MOST_TURNS)
def test_experts_always_succeed_with_any_of_their_actions(game: str) -> None:
    seeds, most = MOST_TURNS[game]
    env = make(f"textarena/{game}")
    chance = random.Random(zlib.crc32(game.encode()))
    for seed in range(seeds):
        env.reset(seed)
        steps = finish(env, (lambda optimal: optimal[0]) if seed % 2 else chance.choice)
        assert steps[-1].success, seed
        assert len(steps) <= most, seed
        assert not any(step.reward for step in steps[:-1])


@pytest.mark.parametrize("game", FORGIVING)
def test_experts_take_over_after_legal_mistakes(game: str) -> None:
    env = make(f"textarena/{game}")
    chance = random.Random(1)
    for seed in range(12):
        env.reset(seed)
        for _ in range(2):
            last = env.step(chance.choice(env.legal_actions()))
            assert last.ok
            if last.terminated:  # by luck
                break
        else:
            last = finish(env, chance.choice)[-1]
        assert last.success, seed


@pytest.mark.parametrize("game", LASTING)
def test_experts_know_what_is_lost(game: str) -> None:
    env = make(f"textarena/{game}")
    chance = random.Random(2)
    won = lost = 0
    for seed in range(8 if game == "Sokoban-v0" else 20):
        env.reset(seed)
        for _ in range(5):
            if legal := env.legal_actions():
                assert env.step(chance.choice(legal)).ok
        if env.optimal_actions():
            assert finish(env, chance.choice)[-1].success, seed
            won += 1
        else:
            lost += 1
    assert won and lost


@pytest.mark.parametrize("game", ["PegJump-v0", "LightsOut-v0", "Slitherlink-v0", "TowerOfHanoi-v0"])
def test_an_optimal_action_is_one_step_less(game: str) -> None:
    """All games that optimal actions lead to end after the same number of turns."""
    env = make(f"textarena/{game}")
    chance = random.Random(3)
    for seed in range(4):
        lengths = set()
        for _ in range(4):
            env.reset(seed)
            lengths.add(len(finish(env, chance.choice)))
        assert len(lengths) == 1


def test_what_is_illegal_is_refused() -> None:
    """The lists of legal actions are complete where a game is small enough to try all of them."""
    directions = [f"[{way}]" for way in ("up", "down", "left", "right")]
    everything = {
        "FrozenLake-v0": directions,
        "Sokoban-v0": directions,
        "TowerOfHanoi-v0": [f"[{a} {b}]" for a, b in product("ABC", repeat=2) if a != b],
        "PegJump-v0": [f"[{a} {b}]" for a, b in product(range(1, 16), repeat=2)],
    }
    for game, actions in everything.items():
        env = make(f"textarena/{game}")
        accepted = set()
        for action in actions:
            env.reset(5)
            if env.step(action).ok:
                accepted.add(action)
        env.reset(5)
        assert accepted == set(env.legal_actions())


def test_hanoi_takes_the_fewest_moves_from_every_position() -> None:
    from types import SimpleNamespace

    from trpd_agents.textenv.textarena_experts.tower_of_hanoi import EXPERT

    def game(pegs: tuple[str, ...]) -> Any:  # pegs[d] holds disk d + 1
        towers = {peg: [d + 1 for d in reversed(range(len(pegs))) if pegs[d] == peg] for peg in "ABC"}
        return SimpleNamespace(state=SimpleNamespace(game_state={"towers": towers}))

    def after(pegs: tuple[str, ...], move: str) -> tuple[str, ...]:
        top = pegs.index(move[1])
        return (*pegs[:top], move[3], *pegs[top + 1 :])

    goal = ("C",) * 4
    distances, edge = {goal: 0}, [goal]
    while edge:  # breadth first, over what the game allows; moves can be taken back
        edge = [
            there
            for pegs in edge
            for there in (after(pegs, move) for move in EXPERT.legal(game(pegs)))
            if distances.setdefault(there, distances[pegs] + 1) > distances[pegs]
            and distances[there] == max(distances.values())
        ]
        edge = list(dict.fromkeys(edge))
        if len(distances) == 81:
            break
    assert len(distances) == 81
    for pegs, left in distances.items():
        moves = EXPERT.optimal(game(pegs))
        assert [distances[after(pegs, move)] for move in moves] == ([left - 1] if left else [])


def test_wordle_is_answered_as_the_game_does() -> None:
    assert answer("sense", "geese") == "XGXGG"
    assert answer("eerie", "there") == "YXYXG"
    env = make("textarena/Wordle-v0")
    env.reset(0)
    game = env.env.unwrapped._played  # type: ignore[attr-defined]
    words = game.word_list[:40]
    for guess, secret in product(words, words):
        game.state.game_state["secret_word"] = secret
        assert list(answer(guess, secret)) == game._evaluate_guess(guess)


def test_a_shortest_way_over_the_lake_stays_one_whichever_move_is_taken() -> None:
    env = make("textarena/FrozenLake-v0", num_holes=2)
    chance = random.Random(1)
    for seed in range(20):
        lengths = set()
        for _ in range(4):
            env.reset(seed)
            lengths.add(len(finish(env, chance.choice)))
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
