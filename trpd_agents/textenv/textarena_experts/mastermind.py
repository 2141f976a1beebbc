"""Mastermind: any code that agrees with every answer, the first in lexical order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice, permutations, product
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import MOST_LEGAL, Expert


def optimal(game: Any) -> list[str]:
    """The first code, in lexical order, that agrees with every answer so far."""
    state = game.state.game_state
    history = [(entry["guess"], entry["black"], entry["white"]) for entry in state["history"]]
    code = _first_consistent([], state["code_length"], state["num_numbers"], state["duplicate_numbers"], history)
    return [] if code is None else [_code(code)]


def legal(game: Any) -> list[str]:
    """Every code that was not tried yet; none where there are more than `MOST_LEGAL`, which is no longer a choice."""
    state = game.state.game_state
    digits, length = range(1, state["num_numbers"] + 1), state["code_length"]
    codes = product(digits, repeat=length) if state["duplicate_numbers"] else permutations(digits, length)
    tried = {tuple(entry["guess"]) for entry in state["history"]}
    listed = list(islice(codes, MOST_LEGAL + 1))
    return [_code(code) for code in listed if code not in tried] if len(listed) <= MOST_LEGAL else []


def _code(code: Iterable[int]) -> str:
    return "[" + " ".join(map(str, code)) + "]"


def _first_consistent(
    code: list[int], length: int, digits: int, repeats: bool, history: list[tuple[list[int], int, int]]
) -> list[int] | None:
    """Depth-first completion of `code`; a beginning that no ending can reconcile with an answer is dropped at once."""
    left = length - len(code)
    for guess, black, white in history:
        same_place = sum(a == b for a, b in zip(code, guess, strict=False))
        common = (Counter(code) & Counter(guess)).total()
        if not black - left <= same_place <= black or not black + white - left <= common <= black + white:
            return None
    if not left:
        return code
    for digit in range(1, digits + 1):
        if repeats or digit not in code:
            found = _first_consistent([*code, digit], length, digits, repeats, history)
            if found is not None:
                return found
    return None


EXPERT = Expert(optimal, legal)
