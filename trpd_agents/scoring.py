"""Log-probabilities of given tokens under a model, at explicit positions, in bounded memory.

Used by the teacher and by an engine's own `logprobs`. The score written at position t is of the token at t, given the
tokens before t: hidden state t - 1 predicts it. Peak memory is a chunk of positions times the vocabulary, never length
times vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from trpd_agents.batching import position_chunk
from trpd_agents.memory import within_memory
from trpd_agents.models import LanguageModel
from trpd_agents.trajectory import Scores


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
        token_budget: tokens in one forward pass. If memory runs out, half as many are tried once.

    Raises:
        RunError: memory ran out with half of the budget, too.
    """
    results: list[Scores | None] = [None] * len(sequences)
    # A token's predecessor predicts it: hidden states are needed up to the last scored token's.
    needed = [np.asarray(s[: int(p.max())] if len(p) else s[:0]) for s, p in zip(sequences, positions, strict=True)]

    def score(token_budget: int) -> None:
        for group in lm.batches(needed, token_budget):
            hidden, rows = lm.encode([needed[i] for i in group])
            at = np.concatenate([row[positions[i] - 1] for i, row in zip(group, rows, strict=True)])
            tokens = np.concatenate([np.asarray(sequences[i], dtype=np.int64)[positions[i]] for i in group])
            predictors = hidden.index_select(0, torch.from_numpy(at).to(lm.device))
            found = _read_off(lm, predictors, torch.from_numpy(tokens).to(lm.device), top_k=top_k, entropy=entropy)
            start = 0
            for i in group:
                span = slice(start, start + len(positions[i]))
                results[i] = Scores(
                    positions=np.asarray(positions[i], dtype=np.int64),
                    **{name: values[span] for name, values in found.items()},
                    hidden=predictors[span].clone() if keep_hidden else None,
                )
                start = span.stop

    with torch.autocast(lm.device.type, torch.bfloat16) if lm.bfloat16 else contextlib.nullcontext():
        within_memory(score, token_budget, phase="scoring")
    empty = np.zeros(0, dtype=np.float32)
    return [r or Scores(np.zeros(0, dtype=np.int64), empty) for r in results]


def _read_off(
    lm: LanguageModel, predictors: torch.Tensor, tokens: torch.Tensor, *, top_k: int, entropy: bool
) -> dict[str, np.ndarray]:
    """The wanted fields of `Scores` for n positions, `[n]` or `[n, k]`, from distributions of a chunk at a time."""
    parts: dict[str, list[torch.Tensor]] = {"lt": []}
    chunk = position_chunk(lm.vocab_size)
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
