"""One `Dialogue` per distinct pair of instructions and tools, which an environment may change by the episode."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from trpd_agents.dialogue import Dialogue


class Dialogues:
    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._made: dict[str, Dialogue] = {}

    def __call__(self, instructions: str, tools: list[dict[str, Any]]) -> Dialogue:
        key = json.dumps([instructions, tools])
        if key not in self._made:
            self._made[key] = Dialogue(self.tokenizer, instructions, tools)
        return self._made[key]
