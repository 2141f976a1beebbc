"""The task as an environment of this project."""

from __future__ import annotations

from task import INSTRUCTIONS, answer, make_look, question
from transformers.utils import get_json_schema

from trpd_envs.tools import ToolEnv, tool


class Lookup(ToolEnv):
    """Answers every call of `look`, and is cut off after `turns` of them."""

    instructions = INSTRUCTIONS

    def __init__(self, turns: int = 4, answer_words: int = 5):
        super().__init__(max_turns=turns)
        self.answer_words = answer_words

    def start(self) -> str:
        return question(int(self.np_random.integers(2**31)))

    @tool
    def look(self, key: str) -> str:
        """Look a key up.

        Args:
            key: what to look up
        """
        return answer(key, self.answer_words)


# As transformers reads it from the plain function that TRL is given, so that both sides' prompts are the same tokens.
Lookup.tools = [get_json_schema(make_look(1))]
