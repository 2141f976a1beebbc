"""The plain engine: any causal language model, through nothing but its own forward pass.

It serves models whose conversations the one key-value cache of the transformers engine cannot hold: those that have
recurrent layers, or bring their own attention. Conversations go on from what the model remembers of them; where it
cannot be told that, all of a conversation is encoded again for every token. Every draw is keyed by (seed, key,
position), so an episode's tokens are the same whatever it shares a batch with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trpd_agents.conversation_states import EncodedAgain, Remembered, advance
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.rollout.model_engine import ModelEngine
from trpd_agents.rollout.prefixes import WORTHWHILE, shared_length, twins
from trpd_agents.rollout.sampling import sample
from trpd_agents.trajectory import Stop


class PlainEngine(ModelEngine):
    """Samples from a `LanguageModel`."""

    def __init__(self, lm: LanguageModel):
        super().__init__(lm)
        self._kind: type[Remembered] | type[EncodedAgain] = Remembered if lm.remembers else EncodedAgain
        self._memories: dict[int, Any] = {}
        # What conversations began with in common, by weights of which version, and what is remembered of that.
        self._beginning: tuple[int, list[int], Any] | None = None

    def release(self, conversations: Sequence[int]) -> None:
        super().release(conversations)
        for conversation in conversations:
            self._memories.pop(conversation, None)
        if not self._memories:
            self._beginning = None

    def _encode(
        self, requests: Sequence[Request], feeds: Sequence[Sequence[int]], tails: Sequence[int]
    ) -> torch.Tensor:
        memories = [self._memories.get(r.conversation) for r in requests]
        # Tokens whose hidden states are wanted have to be encoded: a generation wants the last one's.
        begins = [i for i, memory in enumerate(memories) if memory is None and tails[i] <= 1]
        first = {i: begins[at] for i, at in zip(begins, twins([(tails[i], *feeds[i]) for i in begins]), strict=True)}
        alike = [first.get(i, i) for i in range(len(requests))]
        own = [i for i, same in enumerate(alike) if same == i]
        left = self._begin([i for i in own if i in first], memories, feeds)
        found, after = self._advance([memories[i] for i in own], [left[i] for i in own], [tails[i] for i in own])
        place = {i: at for at, i in enumerate(own)}
        for request, same in zip(requests, alike, strict=True):
            if (memory := after[place[same]]) is not None:
                self._memories[request.conversation] = memory
        states = [found[place[same]] for same in alike]
        return torch.cat(states) if states else torch.empty(0, device=self.lm.device)

    def _begin(self, fresh: Sequence[int], memories: list[Any], feeds: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Let `fresh` conversations begin with what they have in common; what is left to be fed of all `feeds`.

        What is remembered of that is put into `memories`.
        """
        left = list(feeds)
        new = [i for i in fresh if not self._go_on(i, memories, left)]
        if len(new) > 1 and (length := shared_length([feeds[i][:-1] for i in new])) >= WORTHWHILE:
            common = list(feeds[new[0]][:length])
            _, (memory,) = self._advance([None], [common], [0])
            self._beginning = self.version, common, memory
            for i in new:
                self._go_on(i, memories, left)
        return left

    def _go_on(self, i: int, memories: list[Any], left: list[Sequence[int]]) -> bool:
        """Whether conversation `i` begins with the known beginning, and more; then it goes on from there."""
        if self._beginning is None:
            return False
        version, common, memory = self._beginning
        size = len(common)
        if version != self.version or len(left[i]) <= size or list(left[i][:size]) != common:
            return False
        memories[i], left[i] = memory, left[i][size:]
        return True

    def _advance(
        self, memories: Sequence[Any], feeds: Sequence[Sequence[int]], tails: Sequence[int]
    ) -> tuple[list[torch.Tensor], list[Any]]:
        self.encoded += sum(map(len, feeds))
        return advance(self._kind, self.lm, memories, feeds, tails)

    def _decode(self, requests: Sequence[Request], hidden: torch.Tensor, sampling: Sampling) -> list[Completion]:
        device = self.lm.device
        keys = torch.tensor([r.key for r in requests], dtype=torch.int64, device=device)
        tokens: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        who = list(range(len(requests)))  # of each row: its request
        rows = self._kind(self.lm, [self._memories.pop(r.conversation) for r in requests])
        while who:
            at = torch.tensor(rows.lengths, device=device)
            token, logprob = sample(self.lm.logits(hidden), sampling, keys[who], at)
            for i, new, value in zip(who, token.tolist(), logprob.tolist(), strict=True):
                tokens[i].append(new)
                logprobs[i].append(value)
            kept = []
            for row, i in enumerate(who):
                if tokens[i][-1] in sampling.end_ids or len(tokens[i]) == sampling.max_new_tokens:
                    self._memories[requests[i].conversation] = rows.memory(row)
                    self._unfed[requests[i].conversation] = tokens[i][-1:]
                else:
                    kept.append(row)
            if not kept:
                break
            if len(kept) < len(who):
                rows.keep(kept)
                who, token = [who[row] for row in kept], token[kept]
            hidden = rows.feed(token[:, None])[:, -1]
            self.encoded += len(who)
        stops = [Stop.END if said[-1] in sampling.end_ids else Stop.LENGTH for said in tokens]
        return [Completion(*found) for found in zip(tokens, logprobs, stops, strict=True)]
