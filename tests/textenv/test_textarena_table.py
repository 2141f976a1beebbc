"""The table of textarena's games: whole, as the package says, and modest about other versions."""

from __future__ import annotations

import importlib.metadata
import sys
from collections import Counter
from importlib.resources import files

import pytest

from trpd_agents.errors import UserError
from trpd_agents.textenv import list_envs, make, textarena_games
from trpd_agents.textenv.textarena_games import (
    BROKEN,
    FAULTS,
    LIMITS,
    NEEDS_DATA,
    NEEDS_KEY,
    NEEDS_PYTHON,
    PLAYS,
    REMARKS,
    STATUSES,
    SUCCESS_REWARD,
    WORD_GAMES,
    base_name,
    refusal,
    single_player,
    table,
)

NO_EFFECT = {"Countdown", "Cryptarithm", "PegJump", "TowerOfHanoi"}


def test_it_holds_every_game_of_the_version_it_names() -> None:
    from textarena.envs.registration import ENV_REGISTRY

    assert textarena_games.measured_version() == importlib.metadata.version("textarena") == "0.7.4"
    assert textarena_games.other_version() is None
    assert list(table()) == [game for game in ENV_REGISTRY if not game.endswith(("-raw", "-train"))]


def test_its_lines_are_consistent() -> None:
    assert {game.status for game in table().values()} <= set(STATUSES)
    count = Counter(game.status for game in table().values())
    assert count[PLAYS] >= 200 and not count[NEEDS_DATA] and (count[NEEDS_KEY], count[NEEDS_PYTHON]) == (7, 9)
    for game in table().values():
        if game.status == PLAYS:
            assert game.players and game.players[0] <= game.players[1] and game.seed_matters is not None
            assert (game.turns is None) == (game.players[0] > 1)
        else:
            assert game.note
        assert "site-packages" not in game.note
    bases = {base_name(game) for game in table()}
    assert SUCCESS_REWARD.keys() | FAULTS.keys() | LIMITS.keys() | WORD_GAMES <= bases
    assert REMARKS.keys() <= bases | table().keys()
    assert all(table()[game].status == BROKEN for game in table() if base_name(game) in FAULTS)


def test_seeds_without_effect_are_flagged() -> None:
    alone = single_player().values()
    assert {base_name(game.id) for game in alone if not game.seed_matters} == NO_EFFECT
    for game in alone:
        assert ("the seed has no effect" in game.note) == (not game.seed_matters)


@pytest.mark.parametrize("game", sorted(NO_EFFECT))
def test_seeds_without_effect_have_none(game: str) -> None:
    env = make(f"textarena/{game}-v0")
    assert len({env.reset(seed) for seed in range(4)}) == 1


@pytest.mark.parametrize(
    "game", ["FrozenLake-v0", "Sudoku-v0", "Slitherlink-v0", "Secretary-v0", "Set-v0", "LightsOut-v0"]
)
def test_other_seeds_have_one(game: str) -> None:
    env = make(f"textarena/{game}")
    assert len({env.reset(seed) for seed in range(4)}) > 1


def test_another_version_is_told_and_nothing_refused_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("Klondike-v0") and refusal("FifteenPuzzle-v0") and not refusal("Wordle-v0")
    monkeypatch.setattr(textarena_games, "measured_version", lambda: "0.7.3")
    assert textarena_games.other_version() == "0.7.4"
    assert not refusal("FifteenPuzzle-v0")
    env = make("textarena/FifteenPuzzle-v0")
    assert env.max_turns == 200 and env.reset(0)
    with pytest.raises(UserError, match="does not compile"):
        make("textarena/Klondike-v0")
    assert make("textarena/GuessTheNumber-v0").max_turns == 10


def test_a_newer_python_is_only_asked_of_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    assert "Python 3.11" in str(refusal("Chess-v0"))
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert refusal("Chess-v0") is None


def test_the_list_has_them_all() -> None:
    listed = {entry.id: entry for entry in list_envs() if entry.id.startswith("textarena/")}
    assert len(listed) == len(table())
    assert listed["textarena/Mastermind-v0"].expert and not listed["textarena/2048-v0"].expert
    assert listed["textarena/TicTacToe-v0"].players == "2" and listed["textarena/LiarsDice-v0"].players == "2-15"
    assert listed["textarena/Blackjack-v0"].success == "final reward at least 0.5"
    assert listed["textarena/Chess-v0"].status == NEEDS_PYTHON and not listed["textarena/Chess-v0"].success


def test_the_data_file_lies_in_the_package() -> None:
    assert files("trpd_agents.textenv").joinpath("textarena_table.json").is_file()
