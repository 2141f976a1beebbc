"""Log-probabilities of given tokens under a model, at explicit positions, in bounded memory.

Used by the teacher and by an engine's own `logprobs`. The score written at position t is of the token at t, given the
tokens before t: hidden state t - 1 predicts it. Peak memory is a chunk of positions times the vocabulary, never length
times vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trpd_agents.batching import micro_batches, position_chunk
from trpd_agents.models import LanguageModel
from trpd_agents.trajectory import Scores


def pad_ids(sequences: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Right-padded int64 `[B, T]`. The padding id is 0: causal attention never lets a real token see it."""
    width = max(len(s) for s in sequences)
    ids = np.zeros((len(sequences), width), dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(ids).to(device)


@torch.inference_mode()
def score_tokens(
    lm: LanguageModel,
    sequences: Sequence[np.ndarray],
    positions: Sequence[np.ndarray],
    *,
    top_k: int = 0,
    entropy: bool = False,
    keep_hidden: bool = False,
    token_budget: int = 4096,
) -> list[Scores]:
    """Score `sequences[i][positions[i]]` under `lm`.

    Args:
        sequences: token ids, int `[T_i]` each.
        positions: int `[n_i]` each, every one >= 1 (the first token has no prefix to be predicted from).
        top_k: how many of the most likely tokens to return per position; 0 for none.
        entropy: whether to return the entropy of the whole distribution per position, in nats.
        keep_hidden: keep the hidden states `[n_i, H]` that predict the scored tokens.
        token_budget: tokens in one forward pass, padding included.
    """
    results: list[Scores | None] = [None] * len(sequences)
    needed = [
        int(p.max()) if len(p) else 0 for p in positions
    ]  # hidden states up to the last scored token's predecessor
    chunk = position_chunk(lm.vocab_size)
    for group in micro_batches(needed, token_budget):
        ids = pad_ids([sequences[i][: needed[i]] for i in group], lm.device)
        hidden = lm.hidden(ids)
        rows = torch.from_numpy(np.repeat(np.arange(len(group)), [len(positions[i]) for i in group])).to(lm.device)
        at = torch.from_numpy(np.concatenate([positions[i] for i in group])).to(lm.device)
        tokens = np.concatenate([np.asarray(sequences[i], dtype=np.int64)[positions[i]] for i in group])
        predictors = hidden[rows, at - 1]
        found = _read_off(
            lm, predictors, torch.from_numpy(tokens).to(lm.device), top_k=top_k, entropy=entropy, chunk=chunk
        )
        start = 0
        for i in group:
            span = slice(start, start + len(positions[i]))
            results[i] = Scores(
                positions=np.asarray(positions[i], dtype=np.int64),
                **{name: values[span] for name, values in found.items()},
                hidden=predictors[span].clone() if keep_hidden else None,
            )
            start = span.stop
    empty = np.zeros(0, dtype=np.float32)
    return [r or Scores(np.zeros(0, dtype=np.int64), empty) for r in results]


def _read_off(
    lm: LanguageModel, predictors: torch.Tensor, tokens: torch.Tensor, *, top_k: int, entropy: bool, chunk: int
) -> dict[str, np.ndarray]:
    """The wanted fields of `Scores` for n positions, `[n]` or `[n, k]`, from distributions of a chunk at a time."""
    parts: dict[str, list[torch.Tensor]] = {"lt": []}
    for hidden, token in zip(predictors.split(chunk), tokens.split(chunk), strict=True):
        logp = lm.logits(hidden).float().log_softmax(-1)
        parts["lt"].append(logp.gather(-1, token[:, None])[:, 0])
        if top_k:
            values, ids = logp.topk(top_k, dim=-1)
            parts.setdefault("top_lt", []).append(values)
            parts.setdefault("top_ids", []).append(ids.int())
        if entropy:
            parts.setdefault("entropy", []).append(torch.special.entr(logp.exp_()).sum(-1))
    return {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
