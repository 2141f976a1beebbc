"""The transformers engine: lock-step batches of conversations over one growing key-value cache.

Conversations that start together form a batch and advance together; when some end, the batch is packed. Each token of a
conversation is encoded once. Every draw comes from a counter-based generator keyed by (seed, key, position), so an
episode's tokens are the same whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

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
        self._unfed: dict[int, list[int]] = {}  # sampled, but not yet in the cache

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Continue every request's conversation by one action. Requests of one batch are answered together."""
        fresh = [r.conversation for r in requests if r.conversation not in self._batches]
        if fresh:
            batch = ConversationCache(fresh, self.lm.model.config.get_text_config().num_hidden_layers, self.lm.device)
            for conversation in fresh:
                self._batches[conversation] = batch
                self._unfed[conversation] = []
        completions: dict[int, Completion] = {}
        groups: dict[int, list[Request]] = {}
        for request in requests:
            groups.setdefault(id(self._batches[request.conversation]), []).append(request)
        for group in groups.values():
            completions.update(self._advance(self._batches[group[0].conversation], group, sampling))
        return [completions[r.conversation] for r in requests]

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
        logits = self._feed(batch, feeds)[rows]

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
            logits = self._forward(batch, column, live)[row_index, 0]

        result: dict[int, Completion] = {}
        columns = zip(rows, tokens.tolist(), logprobs.tolist(), counts.tolist(), strict=True)
        for row, ids, values, count in columns:
            conversation = batch.conversations[row]
            ids, values = ids[:count], values[:count]
            self._unfed[conversation] = [ids[-1]]
            stop = Stop.END if ids[-1] in sampling.end_ids else Stop.LENGTH
            result[conversation] = Completion(ids, values, stop)
        return result

    def _feed(self, batch: ConversationCache, feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Encode `feeds` (right-padded) and return the logits `[R, V]` after each row's last token."""
        device = self.lm.device
        sizes = torch.tensor([len(f) for f in feeds])
        width = int(sizes.max())
        ids = np.zeros((len(feeds), width), dtype=np.int64)
        for row, feed in zip(ids, feeds, strict=True):
            row[: len(feed)] = feed
        live = (torch.arange(width) < sizes[:, None]).to(device)
        last = (sizes - 1).clamp(min=0).to(device)
        return self._forward(batch, torch.from_numpy(ids).to(device), live, last[:, None])[:, 0]

    def _forward(
        self, batch: ConversationCache, ids: torch.Tensor, live: torch.Tensor, at: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits `[R, n, V]` at columns `at` `[R, n]` (all columns if None) of new `ids` `[R, W]`, of which `live` are
        real.
        """
        positions = batch.lengths[:, None] + (live.cumsum(1) - 1).clamp(min=0)
        batch.append(live)
        hidden = self.lm.model.base_model(
            input_ids=ids,
            attention_mask=batch.valid.long(),
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
        ).last_hidden_state
        if at is not None:
            hidden = hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return self.lm.logits(hidden).float()


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
