"""Scripted players: perfect where they are said to be, and the search sees what an exhaustive one sees."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from trpd_agents.textenv import AgentEnv, Step, make
from trpd_agents.textenv.two_player_connect_four import best_columns
from trpd_agents.textenv.two_player_experts import SCRIPTED, nim, tic_tac_toe

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def last_step(env: AgentEnv, seed: int, pick: Any = None) -> Step:
    """The end of an episode by the expert, or by what `pick` chooses of the optimal actions."""
    env.reset(seed)
    while True:
        optimal = env.optimal_actions()
        assert optimal[0] == env.expert() and set(optimal) <= set(env.legal_actions())
        step = env.step(pick(optimal) if pick else optimal[0])
        assert step.ok
        if step.terminated:
            return step


def test_nobody_beats_the_player_of_tic_tac_toe() -> None:
    chance = random.Random(0)
    for seat in (0, 1):
        env = make("textarena/TicTacToe-v0", opponent="scripted", seat=seat)
        assert all(last_step(env, seed, chance.choice).draw for seed in range(10))
        ends = [last_step(make("textarena/TicTacToe-v0", seat=seat), seed, chance.choice) for seed in range(30)]
        assert not any(end.reward < 0 for end in ends)
        assert sum(bool(end.success) for end in ends) >= (28 if seat == 0 else 24)


@cache
def value(cells: str, own: str) -> int:
    """Plain minimax for the side to move, written from the rules."""
    other = "O" if own == "X" else "X"
    if any(all(cells[k] == other for k in line) for line in LINES):
        return -1
    free = [k for k in range(9) if cells[k] == " "]
    return max((-value(cells[:k] + own + cells[k + 1 :], other) for k in free), default=0)


def test_every_move_in_tic_tac_toe_keeps_the_value_of_its_position() -> None:
    chance = random.Random(3)
    seen = set()
    for _ in range(150):
        cells, seat = " " * 9, 0
        while True:
            own = "OX"[seat]
            if value(cells, own) == -1 and any(len({cells[k] for k in line} - {" "}) == 1 for line in LINES):
                if any(cells[a] == cells[b] == cells[c] != " " for a, b, c in LINES):
                    break
            if " " not in cells:
                break
            board = [[cells[3 * r + c].strip() for c in range(3)] for r in range(3)]
            game = SimpleNamespace(state=SimpleNamespace(current_player_id=seat, game_state={"board": board}))
            moves = [int(move[1]) for move in tic_tac_toe(game)]
            other = "XO"[seat]
            for k in moves:
                assert -value(cells[:k] + own + cells[k + 1 :], other) == value(cells, own)
            seen.add((cells, seat))
            k = chance.choice([k for k in range(9) if cells[k] == " "])
            cells, seat = cells[:k] + own + cells[k + 1 :], 1 - seat
    assert len(seen) > 300


def test_nim_is_won_by_whoever_can_win_it() -> None:
    @cache
    def wins(piles: tuple[int, ...]) -> bool:
        return any(
            not wins((*piles[:i], left, *piles[i + 1 :])) for i, pile in enumerate(piles) for left in range(pile)
        )

    for piles in product(range(4), range(5), range(6)):
        if not any(piles):
            continue
        game = SimpleNamespace(state=SimpleNamespace(game_state={"piles": list(piles)}))
        moves = [tuple(map(int, move.strip("[]").split())) for move in nim(game)]
        assert moves and all(1 <= take <= piles[i] for i, take in moves)
        for i, take in moves:
            assert wins(piles) == (not wins((*piles[:i], piles[i] - take, *piles[i + 1 :])))
    for seat in (0, 1):
        env = make("textarena/Nim-v0", opponent="scripted", seat=seat)  # 3, 4 and 5: the first player wins
        assert all(bool(last_step(env, seed).success) == (seat == 0) for seed in range(10))


def drop(board: list[list[str]], column: int, mark: str) -> list[list[str]]:
    row = max(r for r in range(len(board)) if board[r][column] == ".")
    after = [list(cells) for cells in board]
    after[row][column] = mark
    return after


def four(board: list[list[str]], mark: str) -> bool:
    own = {(r, c) for r, cells in enumerate(board) for c, cell in enumerate(cells) if cell == mark}
    ways = ((0, 1), (1, 0), (1, 1), (1, -1))
    return any(all((r + k * d, c + k * e) in own for k in range(4)) for r, c in own for d, e in ways)


def forced(board: list[list[str]], own: str, depth: int) -> int:
    """1 if the side to move wins within `depth` moves whatever happens, -1 if it loses, else 0."""
    other = "O" if own == "X" else "X"
    results = []
    for column in [c for c in range(len(board[0])) if board[0][c] == "."]:
        after = drop(board, column, own)
        if four(after, own):
            return 1
        results.append(-forced(after, other, depth - 1) if depth > 1 else 0)
    return max(results, default=0)


def test_connect_four_sees_every_forced_win_and_loss_within_its_depth() -> None:
    chance = random.Random(5)
    decided = 0
    for _ in range(100):
        board, own = [["."] * 5 for _ in range(4)], "X"
        for _ in range(chance.randrange(8, 15)):
            free = [c for c in range(5) if board[0][c] == "."]
            if not free or four(board, "X") or four(board, "O"):
                break
            board, own = drop(board, chance.choice(free), own), "O" if own == "X" else "X"
        free = [c for c in range(5) if board[0][c] == "."]
        if not free or four(board, "X") or four(board, "O"):
            continue
        other = "O" if own == "X" else "X"
        worth = forced(board, own, 4)
        decided += worth != 0
        for column in best_columns(board, own, depth=4):
            after = drop(board, column, own)
            assert (1 if four(after, own) else -forced(after, other, 3)) == worth
    assert decided >= 10


def test_connect_four_wins_now_rather_than_later_and_knows_a_full_board() -> None:
    board = [list(row) for row in (".......", ".......", ".......", "O......", "O.....O", "XXX...O")]
    assert best_columns(board, "X") == [3]
    assert 3 in best_columns(board, "O")  # which must be stopped
    assert best_columns([["X", "O", "X", "O"]] * 4, "X") == []


@pytest.mark.parametrize(
    ("game", "least"),
    [
        ("ConnectFour-v0", 8),
        ("IteratedPrisonersDilemma-v0", 8),
        ("KuhnPoker-v0-extreme", 7),
        ("Nim-v0", 8),
        ("PigDice-v0", 7),
    ],
)
def test_scripted_players_beat_random_ones(game: str, least: int) -> None:
    env = make(f"textarena/{game}")
    assert sum(bool(last_step(env, seed).success) for seed in range(8)) >= least


def test_every_scripted_player_is_an_opponent() -> None:
    for base in SCRIPTED:
        env = make(f"textarena/{base}-v0", opponent="scripted")
        assert env.has_expert
        last_step(env, 1)
    assert not make("textarena/Othello-v0").has_expert
