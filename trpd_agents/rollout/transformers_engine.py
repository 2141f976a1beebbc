"""The transformers engine: conversations of any age and length side by side in one key-value cache.

Each token of a conversation is encoded once, the last one only when something follows it; what conversations begin with
in common is encoded once for all of them. Conversations join and leave at any call, and rows whose action has ended
leave the decoding. Every draw comes from a counter-based generator keyed by (seed, key, position), so an episode's
tokens are the same whatever it shares a batch with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trpd_agents.conversation_cache import ConversationCache
from trpd_agents.errors import UserError
from trpd_agents.feeding import Feed, passes, plan_feed
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.captured import Capture, CapturedDecode
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.rollout.model_engine import ModelEngine
from trpd_agents.rollout.prefixes import WORTHWHILE, best_donor, shared_length, twins
from trpd_agents.rollout.sampling import sample
from trpd_agents.trajectory import Stop

CROWDED = 0.5  # decoding closes ranks when at most this share of its rows are still open


class TransformersEngine(ModelEngine):
    """Samples from a `LanguageModel` that `caches`.

    With `capture`, the decoding pass is captured and replayed (see `captured`; `CudaGraphs()` on a GPU).
    """

    def __init__(self, lm: LanguageModel, capture: Capture | None = None):
        super().__init__(lm)
        self._cache = ConversationCache(lm.model.config.get_text_config().num_hidden_layers, lm.device)
        self._replayed = None if capture is None else CapturedDecode(self._pass, self._cache, lm.model.dtype, capture)
        self._begun: dict[int, tuple[int, Sequence[int]]] = {}  # with which weights, and with which tokens

    def release(self, conversations: Sequence[int]) -> None:
        super().release(conversations)
        for conversation in conversations:
            self._begun.pop(conversation, None)
        self._cache.leave(conversations)

    # Encoding what was said

    def _encode(
        self, requests: Sequence[Request], feeds: Sequence[Sequence[int]], tails: Sequence[int]
    ) -> torch.Tensor:
        """Take `feeds` into the cache; the hidden states `[sum(tails), H]` of the last `tails[i]` tokens of each.

        Raises:
            UserError: the cache cannot hold the model's conversations.
        """
        if not self.lm.caches:
            raise UserError(
                f"model {self.lm.ref!r} ({type(self.lm.model).__name__}) cannot go on from keys and values alone: it "
                "remembers more of a conversation, or brings its own attention; wanted an engine that encodes "
                "conversations whole, or vLLM"
            )
        names = [r.conversation for r in requests]
        fresh = [i for i, name in enumerate(names) if name not in self._cache]
        self._cache.join([names[i] for i in fresh])
        rows = self._cache.rows(names)
        twin_of = self._begin(fresh, names, rows, feeds, tails)
        past = self._cache.lengths[rows].tolist()
        begins = set(fresh)
        # Of a conversation that begins here, what the cache holds already is its beginning.
        left = [feed[past[i] :] if i in begins else feed for i, feed in enumerate(feeds)]

        jobs = [i for i, feed in enumerate(left) if feed and i not in twin_of]
        parts: list[torch.Tensor] = []
        start: dict[int, int] = {}  # of each request: where its hidden states are in `parts`
        found = 0
        for chosen in passes(jobs, [len(left[i]) for i in jobs]):
            hidden, order = self._feed([rows[i] for i in chosen], [left[i] for i in chosen])
            at: list[int] = []
            end = 0
            for i in (chosen[o] for o in order):
                end += len(left[i])
                at += range(end - tails[i], end)
                start[i] = found
                found += tails[i]
            parts.append(hidden[torch.tensor(at, dtype=torch.int64, device=hidden.device)])
        for source in set(twin_of.values()):
            twins_of_it = [rows[i] for i, s in twin_of.items() if s == source]
            self._cache.share(rows[source], twins_of_it, len(feeds[source]))
        wanted = [start[twin_of.get(i, i)] + t for i in range(len(names)) for t in range(tails[i])]
        if not wanted:
            return torch.empty(0, device=self.lm.device)
        states = torch.cat(parts)
        return states if wanted == list(range(len(states))) else states[torch.tensor(wanted, device=states.device)]

    def _begin(
        self,
        fresh: Sequence[int],
        names: Sequence[int],
        rows: Sequence[int],
        feeds: Sequence[Sequence[int]],
        tails: Sequence[int],
    ) -> dict[int, int]:
        """Give requests `fresh`, whose conversations begin, what others have encoded of their beginnings.

        Returns:
            Of each that is fed the very same as another one: that one, which is to be encoded for both.
        """
        donors = [name for name, (version, _) in self._begun.items() if version == self.version]
        # Tokens whose hidden states are wanted have to be encoded: a generation wants the last one's.
        sharing = [i for i in fresh if tails[i] <= 1 and len(feeds[i]) > WORTHWHILE]
        first = twins([(tails[i], *feeds[i]) for i in sharing])
        twin_of = {i: sharing[f] for i, f in zip(sharing, first, strict=True) if sharing[f] != i}
        alone: list[int] = []
        for i in sharing:
            if i in twin_of:
                continue
            donor, length = best_donor(feeds[i][:-1], [self._begun[name][1] for name in donors])
            if length >= WORTHWHILE:
                self._cache.share(self._cache.rows([donors[donor]])[0], [rows[i]], length)
            else:
                alone.append(i)
        if len(alone) > 1 and (length := shared_length([feeds[i][:-1] for i in alone])) >= WORTHWHILE:
            self._feed([rows[alone[0]]], [feeds[alone[0]][:length]])
            self._cache.share(rows[alone[0]], [rows[i] for i in alone[1:]], length)
        for i in fresh:
            self._begun[names[i]] = (self.version, feeds[i])
        return twin_of

    def _feed(self, rows: Sequence[int], feeds: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[int]]:
        """Hidden states `[N, H]` of the tokens that come next in `rows`, and in which order the feeds were taken."""
        sizes = [len(feed) for feed in feeds]
        past = self._cache.lengths[list(rows)].tolist()
        feed = plan_feed(rows, past, sizes, self.lm.device, self.lm.model.dtype)
        ids = [token for i in feed.order for token in feeds[i]]
        hidden = self._pass(torch.tensor(ids, dtype=torch.int64, device=self.lm.device), feed)
        self._cache.lengths[list(rows)] += sizes
        self.encoded += sum(sizes)
        return hidden, feed.order

    def _pass(self, ids: torch.Tensor, feed: Feed) -> torch.Tensor:
        """Hidden states `[N, H]` of `ids` `[N]`; their keys and values are in the cache then."""
        return self.lm.extend(ids, feed, self._cache)

    # Saying something

    def _decode(self, requests: Sequence[Request], hidden: torch.Tensor, sampling: Sampling) -> list[Completion]:
        """One action of every request's conversation, from the hidden states `[R, H]` of their last tokens."""
        device = self.lm.device
        count = len(requests)
        order = self._to_front([r.conversation for r in requests])
        who = torch.tensor(order, device=device)  # [rows that are computed]: their requests
        state = hidden[who]
        keys = torch.tensor([r.key for r in requests], dtype=torch.int64, device=device)
        ends = torch.tensor(sorted(sampling.end_ids), device=device)
        tokens = torch.zeros(count, sampling.max_new_tokens, dtype=torch.int64, device=device)
        logprobs = torch.zeros(count, sampling.max_new_tokens, device=device)
        counts = torch.zeros(count, dtype=torch.int64, device=device)
        open_ = torch.ones(count, dtype=torch.bool, device=device)
        for j in range(sampling.max_new_tokens):
            at = torch.from_numpy(self._cache.lengths[: len(who)]).to(device)
            token, logprob = sample(self.lm.logits(state), sampling, keys[who], at)
            tokens[who, j], logprobs[who, j] = token, logprob
            counts[who] += open_
            open_ &= ~torch.isin(token, ends)
            left = int(open_.sum())
            if j + 1 == sampling.max_new_tokens or not left:
                break
            if left <= len(who) * CROWDED:
                kept = self._close_ranks(open_.tolist())
                who, token, open_ = who[kept], token[kept], open_[kept]
            state = self._one_more(token)
            self._cache.lengths[: len(who)] += open_.cpu().numpy()
            self.encoded += left

        result: list[Completion] = []
        for request, ids, values, size in zip(
            requests, tokens.tolist(), logprobs.tolist(), counts.tolist(), strict=True
        ):
            self._unfed[request.conversation] = [ids[size - 1]]
            stop = Stop.END if ids[size - 1] in sampling.end_ids else Stop.LENGTH
            result.append(Completion(ids[:size], values[:size], stop))
        return result

    def _one_more(self, token: torch.Tensor) -> torch.Tensor:
        """Hidden states `[R, H]` of `token` `[R]`, one more for each of the first rows."""
        if self._replayed is not None:
            return self._replayed(token)
        rows = len(token)
        past = self._cache.lengths[:rows].tolist()
        return self._pass(token, plan_feed(range(rows), past, [1] * rows, self.lm.device, self.lm.model.dtype))

    def _to_front(self, conversations: Sequence[int]) -> list[int]:
        """Bring conversations into the first rows; for each row, the place of its conversation in the list."""
        rows = self._cache.rows(conversations)
        count = len(rows)
        inside = set(rows)
        self._cache.swap([r for r in range(count) if r not in inside], [r for r in rows if r >= count])
        place = {name: i for i, name in enumerate(conversations)}
        return [place[name] for name in self._cache.conversations[:count]]

    def _close_ranks(self, open_: Sequence[bool]) -> list[int]:
        """Bring the rows that are still open to the front; for each of these, the row it was in."""
        left = sum(open_)
        holes = [r for r in range(left) if not open_[r]]
        movers = [r for r in range(left, len(open_)) if open_[r]]
        self._cache.swap(holes, movers)
        kept = list(range(left))
        for hole, mover in zip(holes, movers, strict=True):
            kept[hole] = mover
        return kept
