"""What is found out about a server before its scores are believed: names, token ids, alignment, determinism.

Each question has an answer that a wrong server would get wrong, and none trusts what a server says about itself where
it can be measured:

- *names*: the model is served under the name that is asked for, and its context is long enough;
- *token ids*: every id of the student's is in the server's vocabulary, what the server calls a token is what the
  student's tokenizer calls it, and where the server tokenises, it does so as the student does;
- *alignment*: a token that the server generates greedily is, once it is part of the prompt, the most likely one at its
  own position;
- *determinism*: the same question asked alone and in a crowd has the same answer, within `NOISE_LIMIT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trpd_agents.teacher.dialects import Dialect, only_choice, read_scores, scoring_request
from trpd_agents.teacher.generation import generated_ids, generation_request
from trpd_agents.teacher.http import BadAnswer, Endpoint, Refused
from trpd_agents.trajectory import Scores

NOISE_LIMIT = 0.2
"""Nats: the largest difference between two answers to one question. bfloat16 differs by a few hundredths."""

SAME_MODEL_LIMIT = 0.1
"""Nats: the largest mean difference, over the probe's tokens, to what the same server said at the start."""

_TEXTS = (
    "Say which key opens the door, and why the other two do not.",
    'Call one: <tool_call>{"name": "open", "arguments": {"door": 7}}</tool_call>',
    "Zwölf Boxkämpfer, 1,234.5 km \u2192 東京 \U0001f600\n\n\tdef f(x):\n        return x**2  # ...",
)
_IDS = 64  # special tokens, and others from all over the vocabulary, whose names are compared
_CROWD = 4  # times that the question is asked again, at once
_ALIGNED = 3  # texts that are continued greedily


@dataclass(frozen=True)
class Probe:
    """What was found. `tokens` int32 `[T]` and `lt` float32 `[T - 1]`, nats, say later whether it is still the same."""

    dialect: Dialect
    noise: float  # nats, the largest difference between answers to one question
    tokens: np.ndarray
    lt: np.ndarray

    def summary(self) -> str:
        return f"scores through {self.dialect}, repeats itself to {self.noise:.2g} nats"


def probe(
    endpoint: Endpoint, model: str, tokenizer: PreTrainedTokenizerBase, *, top_k: int = 0, max_tokens: int = 0
) -> Probe:
    """Question the server at `endpoint` about `model`.

    Args:
        tokenizer: the student's, whose ids will be sent.
        top_k: how many of the most likely tokens will be asked for.
        max_tokens: of the longest sequence that will be sent.

    Raises:
        EndpointError: it does not answer, or not as a teacher of this student would.
    """
    check_names(endpoint, model, max_tokens)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in _TEXTS]
    said = np.array([token for ids in texts for token in ids], dtype=np.int32)
    dialect = find_dialect(endpoint, model, said[:8], top_k)
    check_ids(endpoint, model, tokenizer, dialect)
    asked = scoring_request(dialect, model, said.tolist(), top_k)
    answers = [endpoint.post("completions", asked), *endpoint.post_all("completions", [asked] * _CROWD)]
    scores = [read_scores(dialect, answer, said, _all_of(said), top_k) for answer in answers]
    _check_values(scores[0])
    noise = max(difference(scores[0].lt, other.lt).max() for other in scores[1:])
    if not noise <= NOISE_LIMIT:
        raise BadAnswer(
            f"the same tokens scored {_CROWD + 1} times differ by up to {noise:.3g} nats (at most {NOISE_LIMIT} "
            "wanted): several models behind one address, or a much lower precision; serve one model, without "
            "quantised caches"
        )
    for ids in texts[:_ALIGNED]:
        _check_alignment(endpoint, model, dialect, ids)
    return Probe(dialect, float(noise), said, scores[0].lt)


def check_names(endpoint: Endpoint, model: str, max_tokens: int) -> None:
    """Refuse a server that lists its models without `model`, or gives it less context than is needed."""
    try:
        listed = endpoint.get("models").get("data")
    except Refused as refused:
        if refused.status in (401, 403):
            raise Refused(refused.status, f"{refused}; set api_key_env to the variable that holds the key") from None
        return  # not every server lists its models
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise BadAnswer(f"the server at {endpoint.url} lists no models; the address should end in /v1")
    named = {str(entry.get("id")): entry for entry in listed}
    if model not in named:
        raise BadAnswer(f"the server does not serve a model {model!r}, but {', '.join(map(repr, named)) or 'none'}")
    context = named[model].get("max_model_len")
    if isinstance(context, int) and max_tokens + 1 > context:  # one more: servers insist on generating something
        raise BadAnswer(
            f"the server's context is {context} tokens, but up to {max_tokens} and one more are to be sent; serve with "
            f"--max-model-len {max_tokens + 1}, or lower rollout.max_tokens"
        )


def find_dialect(endpoint: Endpoint, model: str, tokens: np.ndarray, top_k: int) -> Dialect:
    """In which way the server gives the log-probabilities of a prompt."""
    why: dict[Dialect, str] = {}
    for dialect in Dialect:
        for k in dict.fromkeys((top_k, 0)):
            try:
                answer = endpoint.post("completions", scoring_request(dialect, model, tokens.tolist(), k))
                read_scores(dialect, answer, tokens, _all_of(tokens), k)
            except (Refused, BadAnswer) as error:
                why.setdefault(dialect, str(error))
                if isinstance(error, Refused) and error.status in (401, 403, 404):
                    raise
                continue
            if k < top_k:
                raise BadAnswer(
                    f"the server does not give the {top_k} most likely tokens that the method reads "
                    f"({why[dialect]}); serve with --max-logprobs {top_k}, or lower credit.outlier.top_k"
                )
            return dialect
    told = "; ".join(f"{dialect}: {words}" for dialect, words in why.items())
    raise BadAnswer(f"the server gives no log-probabilities of a prompt that is sent as token ids ({told})")


def check_ids(endpoint: Endpoint, model: str, tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> None:
    """Refuse a server whose ids mean other tokens than the student's."""
    known = sorted(set(tokenizer.get_vocab().values()))
    special = sorted(set(tokenizer.all_special_ids))[: _IDS // 2]
    spread = [known[i] for i in np.linspace(0, len(known) - 1, _IDS // 2).astype(int)]
    tokens = np.array([*spread, *special], dtype=np.int32)
    try:
        answer = endpoint.post("completions", scoring_request(dialect, model, tokens.tolist(), 0))
    except Refused as refused:
        raise Refused(
            refused.status,
            f"the server cannot read the student's token ids, which go up to {known[-1]} ({refused}); serve a model of "
            "the student's family",
        ) from None
    if dialect is Dialect.PROMPT_LOGPROBS:
        read_scores(dialect, answer, tokens, _all_of(tokens), 0)
        _check_spelling(tokenizer, tokens, only_choice(answer)["prompt_logprobs"])
    for text in (*_TEXTS, "".join(tokenizer.convert_ids_to_tokens(special))):
        _check_tokenised(endpoint, model, tokenizer, text)


def _check_spelling(tokenizer: PreTrainedTokenizerBase, tokens: np.ndarray, given: Sequence[Any]) -> None:
    """What the server calls a token must be what the student's tokenizer calls it, spaces and broken bytes aside."""
    differ = []
    for token, here in zip(tokens[1:].tolist(), given[1:], strict=True):
        name = here[str(token)].get("decoded_token")
        ours = [str(tokenizer.decode([token])), str(tokenizer.convert_ids_to_tokens(token))]
        if name and "\ufffd" not in name and _bare(name) not in [_bare(other) for other in ours]:
            differ.append(f"id {token} is {min(ours, key=len)!r} for the student and {name!r} for the server")
    if differ:
        raise BadAnswer(
            f"student and server do not share a vocabulary ({len(differ)} of {len(tokens) - 1} ids compared differ): "
            f"{', '.join(differ[:3])}; serve a model of the student's family"
        )


def _bare(name: str) -> str:
    for space in ("\u0120", "\u2581"):  # how byte-level and SentencePiece vocabularies write a space
        name = name.replace(space, " ")
    return name.strip()


def _check_tokenised(endpoint: Endpoint, model: str, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Where there is `/tokenize` it must read a text as the student does."""
    try:
        found = endpoint.post("/tokenize", {"model": model, "prompt": text, "add_special_tokens": False})
    except (Refused, BadAnswer):
        return
    theirs, ours = found.get("tokens"), list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if isinstance(theirs, list) and theirs != ours:
        raise BadAnswer(
            f"student and server read {text!r} as different tokens: {ours[:12]} and {theirs[:12]}; serve a model of "
            "the student's family with the student's tokenizer"
        )


def _check_values(scores: Scores) -> None:
    if not np.isfinite(scores.lt).any():
        raise BadAnswer("the server gives no finite log-probability for any token of a plain text")
    if (scores.lt > 1e-3).any():
        raise BadAnswer(f"a log-probability of {float(scores.lt.max()):.3g} nats, above 0, is none")


def _check_alignment(endpoint: Endpoint, model: str, dialect: Dialect, ids: Sequence[int]) -> None:
    """Score `ids`, one more token, and another after it, with two tokens in that place: the server's own greedy choice
    and some other. What is said before the place may not depend on which it is; in the place, the greedy choice is the
    most likely one; after it, everything depends on it."""
    place = len(ids)
    asked = generation_request(dialect, model, ids, max_tokens=1, temperature=0.0)
    (chosen, *_) = generated_ids(endpoint.post("completions", asked))
    other = next(token for token in ids if token != chosen)
    requests = [np.array([*ids, token, other], dtype=np.int32) for token in (chosen, other)]

    def score(top_k: int) -> list[Scores]:
        bodies = [scoring_request(dialect, model, tokens.tolist(), top_k) for tokens in requests]
        answers = endpoint.post_all("completions", bodies)
        return [
            read_scores(dialect, answer, tokens, _all_of(tokens), top_k)
            for answer, tokens in zip(answers, requests, strict=True)
        ]

    try:
        greedy, another = score(1)
    except BadAnswer:  # top tokens that are not named by id are not needed here
        greedy, another = score(0)
    own = place - 1  # the place's index among the positions 1, 2, ...
    before = difference(greedy.lt[:own], another.lt[:own])
    wrong = ""
    if greedy.top_lt is not None and another.top_lt is not None:
        before = np.append(before, difference(greedy.top_lt[own], another.top_lt[own]))
        best = float(greedy.top_lt[own, 0])
    else:
        best = float(another.lt[own])
    if not before.max() <= NOISE_LIMIT:
        wrong = f"what is said before a token depends on it ({before.max():.3g} nats)"
    elif not greedy.lt[own] >= best - NOISE_LIMIT:
        wrong = (
            f"token {chosen}, which the server itself chose as the most likely one after {place} tokens, has "
            f"{float(greedy.lt[own]):.3g} nats there and another one {best:.3g}"
        )
    elif greedy.lt[own] == another.lt[own] or greedy.lt[own + 1] == another.lt[own + 1]:
        wrong = "what is said of a token and of the next one does not depend on it"
    if wrong:
        raise BadAnswer(
            f"the scores are not aligned: {wrong}; a server whose scores are off by one, or not its own "
            "log-probabilities, cannot teach"
        )


def _all_of(tokens: np.ndarray) -> np.ndarray:
    """Every position that something precedes."""
    return np.arange(1, len(tokens))


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far two answers are apart, nats; 0 where both are the same infinity or both unknown."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0, np.where(np.isnan(apart), np.inf, apart))
