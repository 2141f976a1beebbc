"""Legal moves in textarena's two-player games of cards, dice and choices; see `opponents` for what they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def kuhn_poker(game: Any) -> list[str]:
    return [f"[{action}]" for action in game.state.game_state["current_legal_action_tree"]]


def briscola(game: Any) -> list[str]:
    return [f"[play {k + 1}]" for k in range(len(_hand(game)))]


def german_whist(game: Any) -> list[str]:
    """Cards that follow suit, by their place in the hand."""
    seat = game.state.current_player_id
    return [f"[play {k + 1}]" for k, card in enumerate(_hand(game)) if game._is_valid_play(seat, card)]


def pure_strategy(game: Any) -> list[str]:
    hand = game.state.game_state["player_hands"][game.state.current_player_id]
    return [f"[{game._val_to_face(card)}]" for card in hand]


def pig_dice(game: Any) -> list[str]:
    return ["[roll]", "[hold]"]


def liars_dice(game: Any) -> list[str]:
    """Doubting the last bid, and bids of no more dice than there are: the rules allow any number."""
    state = game.state.game_state
    dice = sum(state["remaining_dice"].values())
    quantity, face = state["current_bid"]["quantity"], state["current_bid"]["face_value"]
    bids = [
        f"[Bid: {q}, {f}]"
        for q in range(max(quantity, 1), dice + 1)
        for f in range(max(face, 1), 7)
        if (q, f) != (quantity, face)
    ]
    return (["[Call]"] if quantity else []) + bids


def rock_paper_scissors(game: Any) -> list[str]:
    return ["[rock]", "[paper]", "[scissors]"]


def matching_pennies(game: Any) -> list[str]:
    return ["[heads]", "[tails]"]


def prisoners_dilemma(game: Any) -> list[str]:
    """A decision; while the game asks for talk, of which anything is legal, a greeting."""
    return ["[Cooperate]", "[Defect]"] if game.state.game_state["phase"] == "decision" else ["Hello."]


def colonel_blotto(game: Any) -> list[str]:
    """All units shared out over the first three fields: with more fields a part of what is allowed."""
    units, fields = game.num_total_units, game.field_names[:3]
    if len(fields) == 2:
        shares = [(k, units - k) for k in range(units + 1)]
        return [f"[A{a} B{b}]" for a, b in shares]
    return [f"[A{a} B{b} C{units - a - b}]" for a in range(units + 1) for b in range(units + 1 - a)]


CARD_GAMES: dict[str, Callable[[Any], list[str]]] = {
    "Briscola": briscola,
    "ColonelBlotto": colonel_blotto,
    "GameOfPureStrategy": pure_strategy,
    "GermanWhist": german_whist,
    "IteratedMatchingPennies": matching_pennies,
    "IteratedPrisonersDilemma": prisoners_dilemma,
    "IteratedRockPaperScissors": rock_paper_scissors,
    "KuhnPoker": kuhn_poker,
    "LiarsDice": liars_dice,
    "PigDice": pig_dice,
}


def _hand(game: Any) -> list[dict[str, Any]]:
    return game.state.game_state["players"][game.state.current_player_id]["hand"]
