"""What may be done with a model, found out by trying it: architectures are too many to know by name, and they change.

Invariant: what passes here gives each token the state that its sequence alone would give it, at every length that the
model is made for. Short sequences show whether states flow where they must not; how far back each layer sees is read
off the rule by which transformers makes its mask, since real windows are too long to be tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from trpd_agents.attention import attend
from trpd_agents.conversation_cache import ConversationCache
from trpd_agents.conversation_states import Remembered, advance
from trpd_agents.feeding import plan_feed
from trpd_agents.memory import out_of_memory
from trpd_agents.packing import ATTENTION as PACKED

if TYPE_CHECKING:
    from trpd_agents.models import LanguageModel

WATCHED = "trpd_watched"  # the attention implementation that reports what it is told
UNLIMITED = 1 << 15  # tokens; how far a layer's view is followed in a model that names no limit
UNFIT = (TypeError, RuntimeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError)
"""What models raise that do not know what they are given."""

logger = logging.getLogger(__name__)


def packs_right(lm: LanguageModel) -> bool:
    """Whether `lm` encodes sequences right that share a row, some of them their beginnings."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, lm.vocab_size, n) for n in (19, 5, 24)]
    sequences.append(np.concatenate([sequences[2][:20], sequences[1]]))
    with _trying(lm):
        wanted = [_alone(lm, ids) for ids in sequences]
        try:
            with using(lm.model.config, PACKED):
                states, columns = lm.encode_packed(sequences)
        except UNFIT as error:
            return _unfit(lm, error)
    return all(_same(states[torch.from_numpy(at).to(lm.device)], w) for at, w in zip(columns, wanted, strict=True))


def caches_right(lm: LanguageModel) -> bool:
    """Whether `lm` goes on right with several conversations of a cache, which are given different numbers of tokens."""
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, lm.vocab_size, n) for n in (27, 12, 18)]
    cache = ConversationCache(lm.model.config.get_text_config().num_hidden_layers, lm.device)
    cache.join([0, 1, 2])
    with _trying(lm):
        wanted = [_alone(lm, ids) for ids in sequences]
        for rows, counts in (([0, 2], [19, 17]), ([0, 1], [7, 11]), ([0, 1, 2], [1, 1, 1])):
            past = cache.lengths[rows].tolist()
            feed = plan_feed(rows, past, counts, lm.device, lm.model.dtype)
            spans = [(rows[i], slice(past[i], past[i] + counts[i])) for i in feed.order]
            ids = torch.from_numpy(np.concatenate([sequences[row][span] for row, span in spans])).to(lm.device)
            try:
                states = lm.extend(ids, feed, cache)
            except UNFIT as error:
                return _unfit(lm, error)
            if not _same(states, torch.cat([wanted[row][span] for row, span in spans])):
                return False
            cache.lengths[rows] += counts
    return True


def remembers_right(lm: LanguageModel) -> bool:
    """Whether `lm` goes on right from what it remembers of conversations, put side by side and taken apart again."""
    rng = np.random.default_rng(2)
    sequences = [rng.integers(0, lm.vocab_size, n).tolist() for n in (27, 12, 18)]
    memories: list[Any] = [None] * len(sequences)
    ends = [0] * len(sequences)
    with _trying(lm):
        wanted = [_alone(lm, np.array(ids)) for ids in sequences]
        for counts in ([19, 0, 3], [0, 7, 3], [6, 4, 11], [1, 1, 1]):
            starts, ends = ends, [end + count for end, count in zip(ends, counts, strict=True)]
            spans = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
            feeds = [ids[span] for ids, span in zip(sequences, spans, strict=True)]
            try:
                found, memories = advance(Remembered, lm, memories, feeds, counts)
            except UNFIT as error:
                return _unfit(lm, error)
            for states, alone, span in zip(found, wanted, spans, strict=True):
                if len(states) and not _same(states, alone[span]):
                    return False
    return True


def sees_as_told(lm: LanguageModel) -> bool:
    """Whether every layer asks transformers' interface for its attention, once, and tells it how far back it sees.

    That is compared with the mask the layer is given otherwise, at positions up to the longest the model is made for.
    """
    told: list[tuple[int | None, Callable[..., torch.Tensor] | None]] = []
    rules: dict[int, Callable[..., torch.Tensor]] = {}  # by the memory of the mask: a layer may get a part of it
    masks: list[torch.Tensor] = []  # kept, so that no other is put into their memory

    def mask(*, mask_function: Callable[..., torch.Tensor], **how: Any) -> torch.Tensor | None:
        made = sdpa_mask(mask_function=mask_function, **(how | {"allow_is_causal_skip": False}))
        if made is not None:
            rules[made.untyped_storage().data_ptr()] = mask_function
            masks.append(made)
        return made

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        sliding_window: int | None = None,
        **how: Any,
    ) -> tuple[torch.Tensor, None]:
        rule = None if attention_mask is None else rules.get(attention_mask.untyped_storage().data_ptr())
        told.append((sliding_window, rule))
        return attend(module, query, key, value, attention_mask, **how), None

    config = lm.model.config.get_text_config()
    AttentionInterface.register(WATCHED, attention)
    AttentionMaskInterface.register(WATCHED, mask)
    try:
        with _trying(lm), using(lm.model.config, WATCHED):
            lm.hidden(torch.zeros(1, 2, dtype=torch.int64, device=lm.device))  # two: of one, everything is seen
    except UNFIT as error:
        return _unfit(lm, error)
    finally:
        del AttentionInterface._global_mapping[WATCHED], AttentionMaskInterface._global_mapping[WATCHED]
    length = getattr(config, "max_position_embeddings", None) or UNLIMITED
    return len(told) == config.num_hidden_layers and all(
        rule is not None and _follows(rule, window, length, lm.device) for window, rule in set(told)
    )


def _follows(rule: Callable[..., torch.Tensor], window: int | None, length: int, device: torch.device) -> bool:
    """Whether a token sees, by `rule`, itself and the `window - 1` before it; None: all of them."""
    reach = length if window is None else window
    near = {at for at in (0, 1, reach - 1, reach, reach + 1, 2 * reach) if at < length}
    query = torch.tensor(sorted({*near, length // 3, length // 2, length - 1}), device=device)[:, None]
    key = torch.arange(length, device=device)[None]
    zero = torch.tensor(0, device=device)
    seen = rule(zero, zero, query, key).broadcast_to(len(query), length)
    return torch.equal(seen, (key <= query) & (key > query - reach))


@contextmanager
def using(config: Any, attention: str) -> Iterator[None]:
    """A model of `config` takes the attention of this name meanwhile."""
    before = config._attn_implementation
    config._attn_implementation = attention
    try:
        yield
    finally:
        config._attn_implementation = before


def _unfit(lm: LanguageModel, error: Exception) -> Literal[False]:
    """Log why `lm` takes the slower way.

    Raises:
        Exception: `error` itself, if it is about the device and not about the model.
    """
    if out_of_memory(error) or isinstance(error, getattr(torch, "AcceleratorError", ())):
        raise error
    logger.info("%s cannot be fed the fast way: %s: %s", lm.ref, type(error).__name__, error)
    return False


@contextmanager
def _trying(lm: LanguageModel) -> Iterator[None]:
    training = lm.model.training
    lm.model.eval()
    try:
        # In the weights' own precision: what is coarser would hide mistakes, or be taken for one.
        with torch.no_grad(), torch.autocast(lm.device.type, enabled=False):
            yield
    finally:
        lm.model.train(training)


def _alone(lm: LanguageModel, ids: np.ndarray) -> torch.Tensor:
    return lm.hidden(torch.from_numpy(ids)[None].to(lm.device))[0]


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether states `[n, H]` differ by no more than rounding. Half precision rounds so coarsely that an expert router
    may take another turn for a token here and there."""
    half = found.element_size() == 2 or torch.is_autocast_enabled(found.device.type)  # whose result may be float32
    if not half:
        return torch.allclose(found, wanted, atol=1e-3, rtol=1e-3)
    found, wanted = found.float(), wanted.float()
    off = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    return bool((off < 0.1).float().mean() >= 0.9)
