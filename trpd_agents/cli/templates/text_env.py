"""NewEnv: say words in alphabetical order, one each turn.

Rules: the first observation lists words, drawn from the episode's seed. Every action is one of them. A word that comes
too early ends the episode as a failure; anything else that is not one of the words is refused, and costs a turn.
Success: all words are said in order; this ends the episode with reward 1. Horizon: one turn for each word.
What is hard: what was said already has to be kept in mind, and one mistake is final.

Change the game, and check it with `trpd check new_env.py:NewEnv` after every change.
"""

from __future__ import annotations

from trpd_envs import Refused, TextEnv

WORDS = ("apple", "bread", "candle", "desk", "engine", "flute", "garden", "hammer", "island", "jacket")


class NewEnv(TextEnv):
    """The constructor\'s arguments are knobs: `--env-arg words=4` on the command line, `env.kwargs` in a recipe."""

    # The system text: what a model is told before the first observation. Say what to do and how an action looks.
    instructions = "Say all words in alphabetical order, one word each turn."

    def __init__(self, words: int = 3, max_turns: int = 8):
        if not 2 <= words <= min(len(WORDS), max_turns):
            # A ValueError is shown as the user's mistake. Name what was found and what is wanted.
            raise ValueError(f"words={words!r}: wanted 2 to {min(len(WORDS), max_turns)}")
        super().__init__(max_turns)  # after so many steps the episode is truncated, whatever happens
        self.words = words

    def start(self) -> str:
        """Draw a new episode and return the first observation."""
        # Draw from self.np_random alone: it is seeded by reset(seed=...), so the seed decides the episode. Set
        # everything anew that belongs to the episode.
        self.left = [str(word) for word in self.np_random.choice(WORDS, self.words, replace=False)]
        return f"Words: {', '.join(self.left)}."

    def act(self, action: str) -> str:
        """Play one action, any text that a model can write, and return the next observation."""
        word = action.strip().lower()
        if word not in self.left:
            # Refused costs a turn, and its message is the observation; info["ok"] says that the action did not work.
            raise Refused(f"Answer with one of: {', '.join(self.left)}.")
        if word != min(self.left):
            self.finish(success=False)  # ends the episode with this turn
            return f"{word} came too early."
        self.left.remove(word)
        if not self.left:
            self.finish(success=True)  # reward 1; override reward() for something else
            return "All words are said."
        return f"Right, {len(self.left)} to go."

    # Everything below is optional. Without an expert there is nothing to imitate, and no oracle to learn from.

    def expert(self) -> str | None:
        """The best action in the present state, and None where the task is lost or over. It changes nothing."""
        return None if self.over or self.turns_left < len(self.left) else min(self.left)

    def legal_actions(self) -> list[str]:
        """What would be accepted now: for demonstrations with mistakes, and to measure how lasting mistakes are."""
        return [] if self.over else sorted(self.left)
