"""Letting a server generate after token ids, and reading which ids it generated.

Invariant: ids come as ids, never by tokenising a text again; where a server does not say them, `BadAnswer` is raised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trpd_agents.teacher.dialects import Dialect, only_choice, token_id
from trpd_agents.teacher.http import BadAnswer


def generation_request(
    dialect: Dialect,
    model: str,
    tokens: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    seed: int = 0,
    end_ids: Collection[int] = (),
) -> dict[str, Any]:
    """Continue `tokens` by at most `max_tokens`, from the full distribution whatever the server's own defaults are."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": [int(token) for token in tokens],
        "n": 1,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "seed": seed,
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if dialect is Dialect.PROMPT_LOGPROBS:  # vLLM's own words; others refuse what they do not know
        body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": sorted(end_ids)}
    return body


def generated_ids(answer: Mapping[str, Any]) -> list[int]:
    """The ids that were generated, at least one, as the answer says them."""
    choice = only_choice(answer)
    ids = choice.get("token_ids")
    if ids is None:
        logprobs = choice.get("logprobs")
        names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
        ids = [token_id(name) for name in names] if isinstance(names, list) else None
    if not isinstance(ids, list) or not ids or not all(isinstance(token, int) for token in ids):
        raise BadAnswer(
            "the server does not say the ids of the tokens that it generates (return_token_ids, or "
            f"return_tokens_as_token_ids, as vLLM does); found {ids!r:.80}"
        )
    return ids
