"""Attention of queries to keys under a mask, for every architecture whose layers ask transformers' interface for it.

Layers differ in three ways besides their sizes: how far back a token sees (`sliding_window`, in the mask), a cap on the
attention logits (`softcap`, Gemma 2), and a logit for attending to nothing (`s_aux`, the sinks of gpt-oss). Kernels
know neither of the last two, so those are computed as they are defined. Invariant: the result is that of the
architecture's own attention, whichever way it is computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import dropout as drop
from transformers.integrations.sdpa_attention import sdpa_attention_forward

MANY = 2048
"""Keys that one call reads for each head. From there on, on a CPU, two matrix products per row are faster than SDPA for
one query each: 1.1 to 1.25 times, 0.6 times at a hundred. Heads that share keys it packs, and is faster throughout."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention `[B, Q, A, E]` of `query` `[B, A, Q, D]` to `key` `[B, G, K, D]` and `value` `[B, G, K, E]`.

    A heads share G. `mask` `[B or 1, A or 1, Q, K]` is True where a token is seen, or is added to the logits; without
    one, attention is causal. `s_aux` is `[A]`. `kwargs` are for transformers' `sdpa`.
    """
    alone = query.shape[2] == 1 and query.shape[1] == key.shape[1] and query.device.type == "cpu"
    if softcap is None and s_aux is None and not (alone and key.shape[0] * key.shape[2] >= MANY):
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **kwargs)[0]
    return _by_definition(query, key, value, mask, dropout, scaling, softcap, s_aux)


def band(queries: int, window: int, device: torch.device) -> torch.Tensor:
    """Bool `[queries, queries + window - 1]`: what consecutive tokens see of the keys that end with their own.

    A token sees itself and the `window - 1` before it.
    """
    ones = torch.ones(queries, queries + window - 1, dtype=torch.bool, device=device)
    return ones.triu().tril(window - 1)


def _by_definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    batch, heads, width, size = query.shape
    groups = key.shape[1]
    together = query.reshape(batch, groups, heads // groups * width, size)  # keys are read where they lie, once
    logits = (together * (size**-0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    logits = logits.view(batch, heads, width, key.shape[2])
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    if mask is None:
        mask = torch.ones(logits.shape[2:], dtype=torch.bool, device=query.device).tril(key.shape[2] - width)
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    if s_aux is not None:
        nothing = s_aux.to(logits.dtype).view(1, heads, 1, 1).expand(batch, heads, width, 1)
        logits = torch.cat([logits, nothing], dim=3)
    weights = logits.softmax(-1, dtype=torch.float32).to(value.dtype)
    if s_aux is not None:
        weights = weights[..., :-1]
    if dropout:
        weights = drop(weights, dropout)
    found = weights.reshape(batch, groups, heads // groups * width, -1) @ value
    return found.view(batch, heads, width, -1).transpose(1, 2)
