"""The transformers engine: lock-step batches of conversations over one growing key-value cache.

Conversations that start together form a batch and advance together; when some end, the batch is packed. Each token of a
conversation is encoded once, the last one only when something follows it. Every draw comes from a counter-based
generator keyed by (seed, key, position), so an episode's tokens are the same whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trpd_agents.batching import position_chunk
from trpd_agents.counter_rng import uniform
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.cache import ConversationCache
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.scoring import score_tokens
from trpd_agents.trajectory import Scores, Stop


class TransformersEngine:
    """Samples from a `LanguageModel`. It shares the model's weights: after an update in place nothing is copied."""

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.version = 0
        self._batches: dict[int, ConversationCache] = {}
        self._unfed: dict[int, list[int]] = {}  # a conversation's last token, not yet in the cache

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Continue every request's conversation by one action. Requests of one batch are answered together."""
        completions: dict[int, Completion] = {}
        for batch, group in self._grouped(requests):
            completions.update(self._advance(batch, group, sampling))
        return [completions[r.conversation] for r in requests]

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        """Encode tokens that are given; float32 `[counts[i]]`, nats: the log-probabilities of the last ones of each.

        Raises:
            ValueError: a count asks for tokens that were not given, or for a conversation's first one, which nothing
                predicts.
        """
        wanted = {r.conversation: count for r, count in zip(requests, counts, strict=True)}
        found: dict[int, np.ndarray] = {}
        for batch, group in self._grouped(requests):
            found.update(self._take_in(batch, group, wanted))
        return [found[r.conversation] for r in requests]

    def release(self, conversations: Sequence[int]) -> None:
        gone = set(conversations)
        batches = {id(b): b for c in gone if (b := self._batches.pop(c, None)) is not None}
        for conversation in gone:
            self._unfed.pop(conversation, None)
        for batch in batches.values():
            staying = set(batch.conversations) - gone
            if staying:
                batch.keep(staying)

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        own = self.lm.model.state_dict()
        if any(state[name].data_ptr() != tensor.data_ptr() for name, tensor in own.items()):
            self.lm.model.load_state_dict(dict(state))
        self.version = version

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0
    ) -> list[Scores]:
        return score_tokens(self.lm, sequences, positions, top_k=top_k)

    def _grouped(self, requests: Sequence[Request]) -> list[tuple[ConversationCache, list[Request]]]:
        """The requests of each batch; conversations that are new form one of their own."""
        fresh = [r.conversation for r in requests if r.conversation not in self._batches]
        if fresh:
            batch = ConversationCache(fresh, self.lm.model.config.get_text_config().num_hidden_layers, self.lm.device)
            for conversation in fresh:
                self._batches[conversation] = batch
                self._unfed[conversation] = []
        groups: dict[int, list[Request]] = {}
        for request in requests:
            groups.setdefault(id(self._batches[request.conversation]), []).append(request)
        return [(self._batches[group[0].conversation], group) for group in groups.values()]

    @torch.inference_mode()
    def _take_in(
        self, batch: ConversationCache, requests: Sequence[Request], wanted: Mapping[int, int]
    ) -> dict[int, np.ndarray]:
        feeds: list[list[int]] = [[] for _ in batch.conversations]
        rows: list[int] = []  # of each wanted token: its row, the column of the token before it, and itself
        columns: list[int] = []
        tokens: list[int] = []
        place = {c: r for r, c in enumerate(batch.conversations)}
        for request in requests:
            conversation, row = request.conversation, place[request.conversation]
            sequence = [*self._unfed[conversation], *request.tokens]
            count = wanted[conversation]
            if not 0 <= count <= min(len(request.tokens), len(sequence) - 1):
                raise ValueError(
                    f"counts: found {count} for conversation {conversation}, wanted at most its "
                    f"{len(request.tokens)} new tokens, each with one before it"
                )
            feeds[row], self._unfed[conversation] = sequence[:-1], sequence[-1:]
            rows += [row] * count
            columns += range(len(sequence) - 1 - count, len(sequence) - 1)
            tokens += sequence[len(sequence) - count :]
        if not any(feeds):
            return {r.conversation: np.zeros(0, dtype=np.float32) for r in requests}
        at = torch.tensor([rows, columns], dtype=torch.int64, device=self.lm.device)
        predictors = self._encode(batch, *self._padded(feeds))[at[0], at[1]]
        target = torch.tensor(tokens, dtype=torch.int64, device=self.lm.device)
        chunk = position_chunk(self.lm.vocab_size)
        parts = [
            self.lm.logits(hidden).float().log_softmax(-1).gather(-1, token[:, None])[:, 0]
            for hidden, token in zip(predictors.split(chunk), target.split(chunk), strict=True)
        ]
        ends = np.cumsum([wanted[r.conversation] for r in requests])
        values = np.split(torch.cat(parts).cpu().numpy(), ends[:-1])
        return {r.conversation: found for r, found in zip(requests, values, strict=True)}

    @torch.inference_mode()
    def _advance(
        self, batch: ConversationCache, requests: Sequence[Request], sampling: Sampling
    ) -> dict[int, Completion]:
        device = self.lm.device
        asked = {r.conversation: r for r in requests}
        rows = [r for r, c in enumerate(batch.conversations) if c in asked]
        feeds: list[list[int]] = []
        for conversation in batch.conversations:
            request = asked.get(conversation)
            feeds.append([] if request is None else [*self._unfed[conversation], *request.tokens])
        logits = self._next(batch, *self._padded(feeds))[rows]

        keys = torch.tensor([asked[batch.conversations[r]].key for r in rows], dtype=torch.int64, device=device)
        lengths = batch.lengths[rows]
        width = len(batch.conversations)
        row_index = torch.tensor(rows, device=device)
        ends = torch.tensor(sorted(sampling.end_ids), device=device)
        tokens = torch.zeros(len(rows), sampling.max_new_tokens, dtype=torch.int64, device=device)
        logprobs = torch.zeros(len(rows), sampling.max_new_tokens, device=device)
        counts = torch.zeros(len(rows), dtype=torch.int64, device=device)
        open_ = torch.ones(len(rows), dtype=torch.bool, device=device)
        for j in range(sampling.max_new_tokens):
            token, logprob = _sample(logits, sampling, keys, lengths + j)
            tokens[:, j] = token
            logprobs[:, j] = logprob
            counts += open_
            open_ &= ~torch.isin(token, ends)
            if j + 1 == sampling.max_new_tokens or not bool(open_.any()):
                break
            column = torch.zeros(width, 1, dtype=torch.int64, device=device)
            column[row_index, 0] = token
            live = torch.zeros(width, 1, dtype=torch.bool, device=device)
            live[row_index, 0] = open_
            logits = self._next(batch, column, live)[row_index]

        result: dict[int, Completion] = {}
        columns = zip(rows, tokens.tolist(), logprobs.tolist(), counts.tolist(), strict=True)
        for row, ids, values, count in columns:
            conversation = batch.conversations[row]
            ids, values = ids[:count], values[:count]
            self._unfed[conversation] = [ids[-1]]
            stop = Stop.END if ids[-1] in sampling.end_ids else Stop.LENGTH
            result[conversation] = Completion(ids, values, stop)
        return result

    def _padded(self, feeds: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """`feeds` right-padded: ids `[R, W]`, and which of them are real."""
        sizes = torch.tensor([len(f) for f in feeds])
        width = int(sizes.max())
        ids = np.zeros((len(feeds), width), dtype=np.int64)
        for row, feed in zip(ids, feeds, strict=True):
            row[: len(feed)] = feed
        return torch.from_numpy(ids).to(self.lm.device), (torch.arange(width) < sizes[:, None]).to(self.lm.device)

    def _encode(self, batch: ConversationCache, ids: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """Hidden states `[R, W, H]` of new `ids` `[R, W]`, of which `live` are real; they are in the cache then."""
        positions = batch.lengths[:, None] + (live.cumsum(1) - 1).clamp(min=0)
        batch.append(live)
        hidden: torch.Tensor = self.lm.model.base_model(
            input_ids=ids,
            attention_mask=batch.valid.long(),
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _next(self, batch: ConversationCache, ids: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """Logits `[R, V]` after each row's last real token."""
        hidden = self._encode(batch, ids, live)
        last = (live.sum(1) - 1).clamp(min=0)
        return self.lm.logits(hidden[torch.arange(len(ids), device=hidden.device), last]).float()


def _sample(
    logits: torch.Tensor, sampling: Sampling, keys: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sampled ids `[R]` and their temperature-1 log-probabilities `[R]`, by inverting the cumulative distribution."""
    logp = logits.log_softmax(-1)
    if sampling.temperature == 0:
        token = logp.argmax(-1)
    else:
        scaled = logp if sampling.temperature == 1 else (logits / sampling.temperature).log_softmax(-1)
        cumulative = scaled.double().exp().cumsum(-1)
        draw = uniform(sampling.seed, keys, positions).to(cumulative.device) * cumulative[:, -1]
        token = torch.searchsorted(cumulative, draw[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return token, logp.gather(-1, token[:, None])[:, 0]
