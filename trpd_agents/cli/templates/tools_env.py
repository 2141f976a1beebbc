"""NewEnv: pay a price exactly, coin by coin, through two tools.

Rules: the first observation names a price, drawn from the episode's seed. `insert` puts in one coin, which cannot be
taken out again; `buy` ends the episode.
Success: `buy` is called when the sum of the coins is the price; reward 1. Horizon: one turn for each coin,
and one more.
What is hard: a sum has to be kept in mind, and a coin too many cannot be undone.

Change the game, and check it with `trpd check new_env.py:NewEnv` after every change.
"""

from __future__ import annotations

from typing import Literal

from trpd_envs import ToolEnv, ToolError, format_call, tool

COINS = (5, 2, 1)


class NewEnv(ToolEnv):
    """The constructor\'s arguments are knobs: `--env-arg most=9` on the command line, `env.kwargs` in a recipe."""

    # The system text: what a model is told before the first observation. The schemas of the tools are added to it.
    instructions = "Put in the price exactly, then buy. Call one tool each turn."

    def __init__(self, most: int = 15, max_turns: int = 12):
        if not 3 <= most <= 20:
            # A ValueError is shown as the user's mistake. Name what was found and what is wanted.
            raise ValueError(f"most={most!r}: wanted a highest price from 3 to 20")
        super().__init__(max_turns)  # after so many steps the episode is truncated, whatever happens
        self.most = most

    def start(self) -> str:
        """Draw a new episode and return the first observation."""
        # Draw from self.np_random alone: it is seeded by reset(seed=...), so the seed decides the episode. Set
        # everything anew that belongs to the episode.
        self.price = int(self.np_random.integers(3, self.most + 1))
        self.paid = 0
        return f"The price is {self.price}."

    # A tool is a method with type hints. Its schema is read from them and from the docstring, and a call is checked
    # against it before the method runs: wrong names, missing arguments and wrong types are answered for you.

    @tool
    def insert(self, coin: Literal[1, 2, 5]) -> str:
        """Put in one coin.

        Args:
            coin: its value
        """
        if self.paid + coin > 2 * self.most:
            # ToolError costs a turn, and its message is the observation; info["ok"] says that the call did not work.
            raise ToolError("The slot is full.")
        self.paid += coin
        return f"You put in {coin}."

    @tool
    def buy(self) -> str:
        """Buy with the coins that were put in. This ends the task."""
        self.finish(success=self.paid == self.price)  # reward 1 for success; override reward() for something else
        return f"You paid {self.paid} for {self.price}."

    # Everything below is optional. Without an expert there is nothing to imitate, and no oracle to learn from.

    def expert(self) -> str | None:
        """The best call in the present state, and None where the task is lost or over. It changes nothing."""
        missing = self.price - self.paid
        if self.over or missing < 0:
            return None
        if missing == 0:
            return format_call("buy")
        return format_call("insert", coin=next(coin for coin in COINS if coin <= missing))

    def legal_actions(self) -> list[str]:
        """What would be accepted now: for demonstrations with mistakes, and to measure how lasting mistakes are."""
        if self.over:
            return []
        return [*(format_call("insert", coin=coin) for coin in COINS), format_call("buy")]
