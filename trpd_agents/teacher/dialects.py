"""Two ways in which servers give the log-probabilities of a prompt, and how to read them.

`prompt_logprobs` is vLLM's: per position of the prompt a mapping from token ids to log-probabilities, in which the
prompt's own token always is. `echo` is that of the classic completions API: the prompt comes back with its
log-probabilities, the top tokens by name.

Invariant: what is read at a position is about the token that was sent at that position, or `BadAnswer` is raised:
nothing is aligned by counting from an end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from trpd_agents.teacher.http import BadAnswer
from trpd_agents.trajectory import Scores

MINUS_INFINITY = -9999.0  # what vLLM writes for it, because JSON has no infinity
_BY_ID = "token_id:"


class Dialect(StrEnum):
    PROMPT_LOGPROBS = "prompt_logprobs"
    ECHO = "echo"


def scoring_request(dialect: Dialect, model: str, tokens: Sequence[int], top_k: int) -> dict[str, Any]:
    """Ask for the log-probabilities of `tokens`, and of the `top_k` most likely ones at each position."""
    body = {"model": model, "prompt": [int(token) for token in tokens], "temperature": 0, "n": 1}
    # At least one: some servers take 0 for "none at all".
    if dialect is Dialect.PROMPT_LOGPROBS:
        return {**body, "max_tokens": 1, "prompt_logprobs": max(1, top_k)}
    asked = {"echo": True, "logprobs": max(1, top_k), "max_tokens": 0, "return_tokens_as_token_ids": True}
    return {**body, **asked}


def only_choice(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The one completion in an answer."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadAnswer(f"the answer has no single completion: choices is {choices!r:.80}")
    return choices[0]


def read_scores(
    dialect: Dialect, answer: Mapping[str, Any], tokens: np.ndarray, positions: np.ndarray, top_k: int
) -> Scores:
    """What `answer`, to a `scoring_request` for `tokens` `[T]`, says at `positions` `[n]`, each from 1 to T - 1.

    Raises:
        BadAnswer: not as many positions or top tokens as were asked for, or about other tokens.
    """
    read = _read_prompt_logprobs if dialect is Dialect.PROMPT_LOGPROBS else _read_echo
    found = read(only_choice(answer), tokens, positions, top_k)
    scores = Scores(np.asarray(positions, dtype=np.int64), np.array([own for own, _ in found], dtype=np.float32))
    if top_k and len(positions):
        tops = [_top(top, top_k, int(t)) for (_, top), t in zip(found, positions, strict=True)]
        scores.top_ids = np.array([[token for token, _ in top] for top in tops], dtype=np.int32)
        scores.top_lt = np.array([[value for _, value in top] for top in tops], dtype=np.float32)
    return scores


Found = list[tuple[float, dict[int, float]]]
"""Per position: the log-probability of the token itself, and those of the top tokens by id; nats."""


def _read_prompt_logprobs(choice: Mapping[str, Any], tokens: np.ndarray, positions: np.ndarray, top_k: int) -> Found:
    given = _column(choice, "prompt_logprobs", len(tokens))
    found: Found = []
    for t in positions.tolist():
        here = given[t]
        if not isinstance(here, dict):
            raise BadAnswer(f"no log-probabilities at position {t} of {len(tokens)}: found {here!r:.80}")
        try:
            top = {int(token): nats(entry["logprob"]) for token, entry in here.items()}
        except (KeyError, TypeError, ValueError):
            raise BadAnswer(f"log-probabilities by token id wanted at position {t}, found {here!r:.80}") from None
        own = int(tokens[t])
        if own not in top:
            raise BadAnswer(
                f"the log-probabilities at position {t} are not about the token that was sent there ({own}), but about "
                f"{sorted(top)[:5]}: they are shifted, or the server read other tokens"
            )
        found.append((top[own], top))
    return found


def _read_echo(choice: Mapping[str, Any], tokens: np.ndarray, positions: np.ndarray, top_k: int) -> Found:
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        raise BadAnswer(f"the answer has no log-probabilities: logprobs is {logprobs!r:.80}")
    own = _column(logprobs, "token_logprobs", len(tokens))
    names = _column(logprobs, "tokens", len(tokens))
    tops = _column(logprobs, "top_logprobs", len(tokens)) if top_k else []
    found: Found = []
    for t in positions.tolist():
        named = token_id(names[t])
        if named is not None and named != int(tokens[t]):
            raise BadAnswer(
                f"the log-probability at position {t} is not about the token that was sent there ({int(tokens[t])}), "
                f"but about {named}: it is shifted, or the server read other tokens"
            )
        top: dict[int, float] = {}
        for name, value in (tops[t] or {}).items() if top_k else ():
            if (token := token_id(name)) is None:
                raise BadAnswer(
                    f"the top tokens come by their texts (such as {name!r}), of which several ids can have the same; "
                    "ids are wanted (return_tokens_as_token_ids)"
                )
            top[token] = nats(value)
        found.append((nats(own[t]), top))
    return found


def _column(holder: Mapping[str, Any], name: str, length: int) -> list[Any]:
    given = holder.get(name)
    if not isinstance(given, list) or len(given) != length:
        got = f"{len(given)} entries" if isinstance(given, list) else repr(given)[:80]
        raise BadAnswer(f"{name}: one entry for each of the {length} tokens that were sent wanted, found {got}")
    return given


def _top(given: Mapping[int, float], top_k: int, position: int) -> list[tuple[int, float]]:
    """The `top_k` most likely, in that order. A server adds the prompt's own token where it is not among them."""
    if len(given) < top_k:
        raise BadAnswer(f"{top_k} top tokens were asked for, but at position {position} there are {len(given)}")
    # NaN compares with nothing: last, where it is seen if it is among the top_k
    return sorted(given.items(), key=lambda item: -math.inf if math.isnan(item[1]) else item[1], reverse=True)[:top_k]


def token_id(name: Any) -> int | None:
    """The id in a name like `token_id:42`; None for a token's text."""
    number = name.removeprefix(_BY_ID) if isinstance(name, str) else ""
    return int(number) if number != name and number.isdigit() else None


def nats(value: Any) -> float:
    """A log-probability as it is written: null is NaN, and vLLM's -9999 is minus infinity."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnswer(f"a log-probability wanted, found {value!r:.80}")
    return -math.inf if value <= MINUS_INFINITY else float(value)
