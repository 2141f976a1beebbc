"""A teacher behind an OpenAI-compatible server that gives log-probabilities of prompts, such as vLLM's.

Trajectories are sent as the token ids they are, up to their last action token; the server adds nothing and tokenises
nothing. Invariant: scores of one run are all of one model. What the server said of a fixed text at the start is asked
for again with every batch, and a server that answers otherwise stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trpd_agents.config.server import ServerTeacherConfig
from trpd_agents.dialogue import check_same_tokens
from trpd_agents.errors import RunError, UserError
from trpd_agents.models import read_outline
from trpd_agents.rollout.engine import Engine
from trpd_agents.teacher.dialects import read_scores, scoring_request
from trpd_agents.teacher.http import BadAnswer, Endpoint, EndpointError, Unavailable
from trpd_agents.teacher.probe import SAME_MODEL_LIMIT, Probe, difference, probe
from trpd_agents.teacher.server_engine import ServerEngine
from trpd_agents.trajectory import Scores, Trajectory


class TeacherServer:
    """A server that has been questioned and found fit to teach. Made by `open_server`."""

    def __init__(self, endpoint: Endpoint, model: str, found: Probe):
        self.endpoint = endpoint
        self.model = model
        self.probe = found
        self.engine: Engine = ServerEngine(endpoint, model, found.dialect, self.score)

    def score(self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0) -> list[Scores]:
        """What the server says of `sequences[i][positions[i]]`, int `[n_i]`, every position at least 1.

        Raises:
            RunError: it is away for too long, answers what was not asked, or is another model by now.
        """
        asked = [i for i, at in enumerate(positions) if len(at)]
        lengths = [int(positions[i].max()) + 1 for i in asked]  # nothing after the last scored token matters
        sent = [np.asarray(sequences[i][:n]) for i, n in zip(asked, lengths, strict=True)]
        results = [Scores(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)) for _ in sequences]
        if not asked:
            return results
        found = self.probe
        bodies = [
            scoring_request(found.dialect, self.model, found.tokens.tolist(), 0),
            *(scoring_request(found.dialect, self.model, tokens.tolist(), top_k) for tokens in sent),
        ]
        with self._in_a_run():
            check, *answers = self.endpoint.post_all("completions", bodies)
            for i, tokens, answer in zip(asked, sent, answers, strict=True):
                results[i] = read_scores(found.dialect, answer, tokens, positions[i], top_k)
            if all(np.isnan(results[i].lt).all() for i in asked):
                raise BadAnswer("every log-probability is NaN: the server's model has broken weights or overflows")
            self._check_same_model(check)
        return results

    def record(self) -> dict[str, Any]:
        """What the server said of the fixed text, to be kept with a run."""
        return {"model": self.model, "tokens": self.probe.tokens.tolist(), "logprobs": self.probe.lt.tolist()}

    def require_same(self, record: Mapping[str, Any]) -> None:
        """Refuse a server that is another than that of `record`, which a run began with.

        Raises:
            UserError: it is.
        """
        if record["tokens"] != self.probe.tokens.tolist():
            return  # made by another version, with another text: nothing to compare
        if changed := _changed(np.array(record["logprobs"], dtype=np.float32), self.probe.lt):
            raise UserError(f"teacher.url={self.endpoint.url}, model {self.model!r}: {changed}")

    def _check_same_model(self, answer: dict[str, Any]) -> None:
        tokens = self.probe.tokens
        now = read_scores(self.probe.dialect, answer, tokens, np.arange(1, len(tokens)), 0).lt
        if changed := _changed(self.probe.lt, now):
            raise BadAnswer(changed)

    @contextmanager
    def _in_a_run(self) -> Iterator[None]:
        try:
            yield
        except EndpointError as error:
            raise RunError(
                f"teacher server at {self.endpoint.url}, model {self.model!r}: {error}. Once it is as it was, go on "
                "with: trpd train --resume RUN_DIR"
            ) from None


def _changed(began_with: np.ndarray, now: np.ndarray) -> str:
    """What is wrong if a server's log-probabilities of the fixed text are too far from the first ones; else nothing."""
    apart = float(difference(began_with, now).mean())
    if apart <= SAME_MODEL_LIMIT:
        return ""
    return (
        f"it is another model than at the start: its log-probabilities of the same text are {apart:.3g} nats per token "
        f"away (at most {SAME_MODEL_LIMIT} wanted); serve the model that the run began with"
    )


class ServerTeacher:
    """Scores with the model behind `server`; `top_k` of its most likely tokens per position, 0 for none."""

    def __init__(self, server: TeacherServer, *, top_k: int = 0):
        self.server = server
        self.top_k = top_k
        self.engine: Engine = server.engine

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        return self.server.score(
            [t.tokens for t in trajectories], [t.action_positions() for t in trajectories], self.top_k
        )

    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        raise TypeError("a server does not give its whole distribution")


def open_server(
    config: ServerTeacherConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    top_k: int = 0,
    max_tokens: int = 0,
    patient: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> TeacherServer:
    """The server of `config`, once it has passed `probe`; `patient` waits for one that is not up yet.

    Args:
        tokenizer: the student's.
        top_k: how many of the most likely tokens the method reads.
        max_tokens: of the longest sequence that will be sent.
        say: is told what was found, and of the server's absences.

    Raises:
        UserError: nobody answers, not as a teacher of this student would, or the two tokenizers differ.
    """
    if config.tokenizer is not None:
        check_same_tokens(tokenizer, read_outline(config.tokenizer).tokenizer)
    endpoint = Endpoint(
        config.url,
        timeout=config.timeout_seconds,
        patience=config.patience_seconds if patient else 0.0,
        max_parallel=config.max_parallel,
        key_env=config.api_key_env,
        say=say,
    )
    try:
        found = probe(endpoint, config.model, tokenizer, top_k=top_k, max_tokens=max_tokens)
    except EndpointError as error:
        hint = ". Start one with: trpd serve-teacher MODEL" if isinstance(error, Unavailable) else ""
        raise UserError(f"teacher.url={config.url}, model {config.model!r}: {error}{hint}") from None
    endpoint.patience = config.patience_seconds
    say(f"teacher server at {config.url}: {config.model} {found.summary()}")
    return TeacherServer(endpoint, config.model, found)
