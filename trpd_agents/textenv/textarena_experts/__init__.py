"""Scripted solvers for textarena's games, one file each: what is optimal and what is allowed in a game in progress."""

from trpd_agents.textenv.textarena_experts import (
    frozen_lake,
    guess_the_number,
    hangman,
    lights_out,
    mastermind,
    peg_jump,
    rush_hour,
    set_cards,
    slitherlink,
    sokoban,
    sudoku,
    three_card_monte,
    tower_of_hanoi,
    word_ladder,
    word_search,
    wordle,
)
from trpd_agents.textenv.textarena_experts.expert import MOST_LEGAL, Expert

EXPERTS: dict[str, Expert] = {
    "FrozenLake": frozen_lake.EXPERT,
    "GuessTheNumber": guess_the_number.EXPERT,
    "Hangman": hangman.EXPERT,
    "LightsOut": lights_out.EXPERT,
    "Mastermind": mastermind.EXPERT,
    "PegJump": peg_jump.EXPERT,
    "RushHour": rush_hour.EXPERT,
    "Set": set_cards.EXPERT,
    "Slitherlink": slitherlink.EXPERT,
    "Sokoban": sokoban.EXPERT,
    "Sudoku": sudoku.EXPERT,
    "ThreeCardMonte": three_card_monte.EXPERT,
    "TowerOfHanoi": tower_of_hanoi.EXPERT,
    "WordLadder": word_ladder.EXPERT,
    "WordSearch": word_search.EXPERT,
    "Wordle": wordle.EXPERT,
}

__all__ = ["EXPERTS", "MOST_LEGAL", "Expert"]
