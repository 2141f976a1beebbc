"""Evaluating a model by name, behind any server with `/v1/chat/completions`.

The system message holds the environment's instructions and, where it has tools, their schemas and the text form of a
call; the model's answer is the action, word for word. That is what local models are given, and it needs no tool support
of the server, which differs between servers and models.

Environments are played in the calling thread, one step at a time, because several of them share global state and their
time limits need it; only requests run in parallel. Invariant: an episode that could not be played, because the
environment fell over or the server refused it, is counted by kind and in no rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from trpd_agents.counter_rng import uniform
from trpd_agents.dialogue.chatml import describe_tools
from trpd_agents.errors import EnvironmentFailure, RunError, UserError
from trpd_agents.evaluation.evaluate import EVALUATION_STREAM, HELD_OUT_SEED, Evaluation, Result, count, turn_limit
from trpd_agents.rollout import Episode
from trpd_agents.teacher.dialects import only_choice
from trpd_agents.teacher.http import BadAnswer, Endpoint, EndpointError, Refused, Unavailable
from trpd_agents.textenv import AgentEnv, EnvSpec, make
from trpd_agents.trajectory import Outcome, Stop

RETRIES = 1  # fresh starts of an episode in which the environment failed
_WRONG = (401, 403, 404)  # the key or the name of the model: no episode can be played
_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "too many tokens")


@dataclass
class _Play:
    """One episode between its first observation and its end."""

    episode: Episode
    attempt: int
    env: AgentEnv
    messages: list[dict[str, str]]
    stops: list[str] = field(default_factory=list)
    reward: float = 0.0
    refused: int = 0  # actions that the environment did not accept
    tokens: int = 0
    success: bool = False
    draw: bool | None = None


def evaluate_endpoint(
    endpoint: Endpoint,
    model: str,
    env: str | EnvSpec,
    episodes: int = 256,
    *,
    repeats: int = 1,
    seed: int = HELD_OUT_SEED,
    temperature: float = 1.0,
    max_turns: int | None = None,
    max_new_tokens: int = 32,
    on_finish: Callable[[Result], None] = lambda _: None,
) -> Evaluation:
    """Play `episodes` environment seeds, `repeats` times each, with `model` behind `endpoint`, and count.

    As many episodes are played at once as `endpoint` takes requests. `tokens` are those that the server says it
    sampled. An episode that outgrows the server's context ends there, like that of a local model.

    Raises:
        UserError: nobody answers, the key or the model's name is wrong, unknown environment, no turn limit anywhere.
        RunError: the server was away for longer than the endpoint's patience.
    """
    spec = env if isinstance(env, EnvSpec) else EnvSpec(env)
    limit = turn_limit(spec, max_turns)
    _require_one_seat(spec)
    _require_server(endpoint)
    plan = [Episode(seed + i, (seed + i) * repeats + r) for i in range(episodes) for r in range(repeats)]
    waiting = deque((episode, 0) for episode in plan)
    results: dict[int, Result] = {}
    asking: dict[Future[dict[str, Any]], _Play] = {}
    asked = _Question(endpoint, model, temperature, max_new_tokens)

    def close(play: _Play, ending: str, error: str | None = None) -> None:
        play.env.close()
        if error is not None and ending == Outcome.ERROR and play.attempt < RETRIES:
            waiting.append((play.episode, play.attempt + 1))
            return
        finish(play.episode, ending, error, play)

    def finish(episode: Episode, ending: str, error: str | None, play: _Play | None = None) -> None:
        success = None if error is not None else bool(play and play.success)
        counted = (play.stops, play.reward, play.refused, play.tokens, play.draw) if play else ([], 0.0, 0, 0)
        results[episode.key] = Result(episode.seed, success, error, ending, *counted)
        on_finish(results[episode.key])

    pool = ThreadPoolExecutor(endpoint.max_parallel)
    try:
        while waiting or asking:
            while waiting and len(asking) < endpoint.max_parallel:
                episode, attempt = waiting.popleft()
                try:
                    play = _open(spec, episode, attempt)
                except EnvironmentFailure as failure:
                    if attempt < RETRIES:
                        waiting.append((episode, attempt + 1))
                    else:
                        finish(episode, Outcome.ERROR, failure.kind)
                    continue
                asking[pool.submit(asked, play.messages, play.episode.key)] = play
            for future in wait(asking, return_when=FIRST_COMPLETED).done if asking else ():
                play = asking.pop(future)
                try:
                    ending = _advance(play, future.result(), limit)
                except EnvironmentFailure as failure:
                    close(play, Outcome.ERROR, failure.kind)
                except Refused as refused:
                    if refused.status in _WRONG:
                        raise
                    if any(words in str(refused).lower() for words in _TOO_LONG):
                        close(play, Outcome.MAX_TOKENS)
                    else:
                        finish(play.episode, Outcome.ERROR, "endpoint_refused")
                        play.env.close()
                except BadAnswer:
                    finish(play.episode, Outcome.ERROR, "endpoint_bad_answer")
                    play.env.close()
                else:
                    if ending is None:
                        asking[pool.submit(asked, play.messages, play.episode.key)] = play
                    else:
                        close(play, ending)
    except EndpointError as error:
        wrong = isinstance(error, Refused)
        raise (UserError if wrong else RunError)(
            f"{model} at {endpoint.url}: {error} (after {len(results)} of {len(plan)} episodes)"
        ) from None
    finally:
        endpoint.close()  # requests that nobody waits for any more end with an error
        pool.shutdown(wait=True, cancel_futures=True)
        for play in asking.values():
            play.env.close()
    return count([results[episode.key] for episode in plan], repeats)


class _Question:
    """Asks for the next message of a conversation."""

    def __init__(self, endpoint: Endpoint, model: str, temperature: float, max_new_tokens: int):
        self._endpoint = endpoint
        self._fixed: dict[str, Any] = {"model": model, "temperature": temperature, "n": 1}
        self._limit = {"max_tokens": max_new_tokens}

    def __call__(self, messages: list[dict[str, str]], key: int) -> dict[str, Any]:
        draw = float(uniform(EVALUATION_STREAM, key, len(messages)))
        body = {**self._fixed, "messages": list(messages), "seed": int(draw * 2**31)}
        limit = self._limit  # other threads may have learnt better by the time this one is refused
        try:
            return self._endpoint.post("chat/completions", body | limit)
        except Refused as refused:
            if "max_completion_tokens" not in str(refused) or "max_tokens" not in limit:
                raise
            # the newer name of the same limit, which some servers insist on
            self._limit = {"max_completion_tokens": limit["max_tokens"]}
            return self._endpoint.post("chat/completions", body | self._limit)


def first_messages(instructions: str, tools: list[dict[str, Any]], observation: str) -> list[dict[str, str]]:
    """The conversation before the first action."""
    system = "\n\n".join(part for part in (instructions, describe_tools(tools) if tools else "") if part)
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": observation}]


def _require_one_seat(spec: EnvSpec) -> None:
    with closing(make(spec)) as env:
        if env.seats > 1:
            raise UserError(
                f"environment {spec.id!r} with {dict(spec.kwargs)!r} asks {env.seats} players for moves, and behind an "
                "endpoint there is one; wanted an opponent inside the environment: opponent=random or scripted"
            )


def _open(spec: EnvSpec, episode: Episode, attempt: int) -> _Play:
    env = make(spec)
    try:
        observation = env.reset(episode.seed)
    except EnvironmentFailure:
        env.close()
        raise
    return _Play(episode, attempt, env, first_messages(env.instructions, env.tools, observation))


def _advance(play: _Play, answer: dict[str, Any], max_turns: int) -> str | None:
    """Give the model's answer to the environment; how the episode ended, None if it goes on."""
    choice = only_choice(answer)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadAnswer(f"a message wanted, found {message!r:.80}")
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise BadAnswer(f"a message with a text wanted, found {text!r:.80}")
    usage = answer.get("usage")
    play.tokens += int(usage.get("completion_tokens") or 0) if isinstance(usage, dict) else 0
    play.stops.append(str(Stop.LENGTH if choice.get("finish_reason") == "length" else Stop.END))
    step = play.env.step(text)
    play.reward += step.reward
    play.refused += not step.ok
    play.success, play.draw = bool(step.success), step.draw
    if step.terminated:
        return Outcome.TERMINATED
    if step.truncated:
        return Outcome.TRUNCATED
    if len(play.stops) >= max_turns:
        return Outcome.MAX_TURNS
    play.messages += [{"role": "assistant", "content": text}, {"role": "user", "content": step.observation}]
    return None


def _require_server(endpoint: Endpoint) -> None:
    """Refuse an address where nobody answers, before any episode is played."""
    patience, endpoint.patience = endpoint.patience, 0.0
    try:
        endpoint.get("models")
    except (Refused, BadAnswer):
        pass  # somebody answers; not every server lists its models
    except Unavailable as error:
        if error.status is not None:
            return  # somebody is there, and busy: that is what patience is for
        raise UserError(f"--endpoint {endpoint.url}: {error}; start the server, or correct the address") from None
    finally:
        endpoint.patience = patience
