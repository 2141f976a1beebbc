"""One conversation as token ids, by deltas.

Invariant: a conversation is `start`, then actions exactly as they were sampled, each followed by `observe`;
concatenating these ids gives the whole conversation, and no id ever changes afterwards. Text is only tokenised once,
when it is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from trpd_agents.dialogue.encode import Encoder, Framer
from trpd_agents.dialogue.layout import find_layout
from trpd_agents.errors import UserError


class Dialogue:
    """How a policy with `tokenizer` talks with an environment that has `instructions` and `tools`.

    `instructions` become the system message, without outer white space. `tools` are JSON schemas of functions.
    Nothing here depends on an episode: one object serves any number of them.

    Attributes:
        instructions, tools: as they were given.
        observation_role: role of every observation after the first, "tool" or "user".
        end_id: the token that ends an assistant turn in this template.
        end_ids: every token that ends one: `end_id` and the tokenizer's own end token.
        notes: what a reader should know about how the template is used; may be empty.

    Raises `UserError` if the tokenizer has no chat template, or one that cannot be fed by deltas; the message shows
    what differs.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, instructions: str = "", tools: Sequence[dict[str, Any]] = ()
    ):
        name = tokenizer.name_or_path or "this tokenizer"
        if not tokenizer.chat_template:
            raise UserError(
                f"{name} has no chat template: use an instruction-tuned model, or set tokenizer.chat_template "
                "(trpd_agents.dialogue.CHAT_TEMPLATE is one for tokenizers that have <|im_start|> and <|im_end|>)"
            )
        layout = find_layout(tokenizer, instructions, tools)
        encoder = Encoder(tokenizer)
        _refuse_control_tokens(encoder, instructions, tools)
        self.tokenizer = tokenizer
        self.instructions = instructions
        self.tools = list(tools)
        self.layout = layout
        self.observation_role = layout.way.observation_role
        self.notes = list(layout.notes)

        ending = encoder.first_control_token(layout.bridge)
        last = encoder.first_control_token(layout.tail)
        ends = [e[0] for e in (ending, last) if e is not None]
        if tokenizer.eos_token_id is not None:
            ends.append(tokenizer.eos_token_id)
        if not ends:
            raise UserError(f"{name} has no end token: neither its chat template nor eos_token ends an assistant turn")
        if ending is None:
            self.notes.append("the template writes no token at the end of an assistant turn; eos_token ends it")
        elif last is None and ending[0] != tokenizer.eos_token_id:
            token = tokenizer.convert_ids_to_tokens(ending[0])
            self.notes.append(f"the template ends an assistant turn with {token!r}, the beginning of the next message")
        self.end_id: int = ends[0]
        self.end_ids: set[int] = set(ends)

        encoder.guard(layout.bridge + layout.prompt + layout.first_prompt + layout.tail)
        self._encoder = encoder
        self._framer = Framer(encoder)
        self._first = self._framer.frame(layout.head, layout.first_prompt)
        after_end = layout.bridge if ending is None else ending[1]
        self._after_end = self._framer.frame(after_end, layout.prompt)
        self._after_cut = self._framer.frame(layout.bridge, layout.prompt)
        self._lead = self._framer.frame(layout.lead, "")

    def start(self, observation: str) -> list[int]:
        """Ids from the beginning of the conversation to where the first action starts."""
        return self._framer.fill(self._first, self.layout.way.first_prefix + observation)

    def answer(self, text: str) -> list[int]:
        """Ids of an action that was written, not sampled (an expert's demonstration), end token included.

        They begin with what the template itself puts before an answer, such as an empty `<think>` block, if anything.
        """
        return [*self._lead.before, *self._encoder.plain(self._lead.near + text), self.end_id]

    def observe(self, observation: str, *, ended: bool) -> list[int]:
        """Ids to feed after an action: the rest of its turn, the observation, and the next generation prompt.

        `ended` says that the action's last id is one of `end_ids`; without it (an action cut off by its length limit)
        the end token is the first of the ids returned.
        """
        return self._framer.fill(self._after_end if ended else self._after_cut, observation)

    def text(self, action_ids: Sequence[int]) -> str:
        """An action as text, without the end token that it was ended by.

        Any other special token stays visible: what the model wrote is what the environment is given, and an action
        with a stray `<|im_start|>` in it must not look like one without.
        """
        ids = list(action_ids)
        if ids and ids[-1] in self.end_ids:
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _refuse_control_tokens(encoder: Encoder, instructions: str, tools: Sequence[dict[str, Any]]) -> None:
    special = [token.content for token in encoder.tokenizer.added_tokens_decoder.values() if token.special]
    spelled = [token for token in special if token in instructions or token in str(tools)]
    if spelled:
        name = encoder.tokenizer.name_or_path or "the tokenizer"
        raise UserError(
            f"the instructions or tools contain {', '.join(spelled)}, which {name} reads as control tokens; "
            "write them differently"
        )
