"""What an episode costs: seconds, tokens, and what it leaves behind in the process."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from trpd_agents.textenv.checks.finding import Finding, error, ok, warning
from trpd_agents.textenv.checks.probe import WATCHED, Probe, play_script

T = TypeVar("T")

CONTEXT = 2048  # tokens of a conversation: the default of rollout.max_tokens
_CHARACTERS = 4  # per token, roughly, in English text; less in numbers, tables and other languages
_NEAR = 0.5  # of the time limit: a busy machine is easily twice as slow
_EPISODES = 5  # after which what is left behind is counted


def speed(probe: Probe) -> Iterator[Finding]:
    """Time to make, to reset and to step, against the limit for a reset or a step."""
    making, resets, steps = [], [], []
    for seed in probe.within(WATCHED):
        actions, _ = probe.record(seed)
        start = time.perf_counter()
        with probe.made() as env:
            making.append(time.perf_counter() - start)
            resets.append(_seconds(lambda env=env, seed=seed: env.reset(seed))[0])  # type: ignore[misc]
            for action in actions:
                taken, step = _seconds(lambda env=env, action=action: env.step(action))  # type: ignore[misc]
                steps.append(taken)
                if step.terminated or step.truncated:
                    break
    limit = probe.settings.seconds
    figures = (
        f"making {_shown(making)}, reset {_shown(resets)}, step {_shown(steps)} (median and longest; the limit is "
        f"{limit:g} s)"
    )
    slowest = max(*resets, *steps)
    if slowest > _NEAR * limit:
        yield warning(
            f"{figures}: {slowest:.2g} s comes near the limit",
            "On a busy machine it goes past it; then the episode counts as an environment failure and is lost.",
            "Do what is slow once, at import or in a cache outside the episode, and make resets and steps faster.",
        )
    else:
        yield ok(figures)


def size(probe: Probe) -> Iterator[Finding]:
    """A whole conversation fits into the context of a model."""
    longest, observation = 0, 0
    for seed in probe.within(WATCHED):
        actions, episode = probe.record(seed)
        with probe.made() as env:
            env.reset(seed)
            system = len(env.instructions) + len(str(env.tools) if env.tools else "")
        characters = system + sum(map(len, [*actions, *episode.observations]))
        longest = max(longest, characters)
        observation = max(observation, *map(len, episode.observations))
    tokens = longest // _CHARACTERS
    figures = (
        f"the longest conversation had {longest} characters, about {tokens} tokens; the longest observation "
        f"{observation} characters"
    )
    if tokens > CONTEXT:
        yield warning(
            f"{figures}; the default context is {CONTEXT} tokens (rollout.max_tokens)",
            "An episode that fills the context ends there, as a failure.",
            "Shorten observations (say what changed, not everything), or raise rollout.max_tokens and use a model that "
            "reads so much.",
        )
    else:
        yield ok(figures)


def leaks(probe: Probe) -> Iterator[Finding]:
    """Closing an environment gives back its files, threads and processes."""
    actions, _ = probe.record(0)
    _play(probe, actions)  # what is opened once and kept, such as a cache, is no leak
    before = _held()
    played = 0
    for _ in probe.within(range(_EPISODES)):
        _play(probe, actions)
        played += 1
    more = {what: number - before[what] for what, number in _held().items() if number > before[what]}
    if more:
        yield error(
            f"after {played} episodes there are more: {', '.join(f'{n} {what}' for what, n in more.items())}",
            "A run plays tens of thousands of episodes in a process, each on a new instance, and ends with 'too many "
            "open files' or out of memory.",
            "Close in close() what __init__ and reset() open.",
        )
    else:
        yield ok(f"nothing is left of {played} episodes")


def _play(probe: Probe, actions: list[str]) -> None:
    with probe.made() as env:
        play_script(env, 0, actions)


def _held() -> dict[str, int]:
    """How many files, threads and child processes this process has. Where the platform does not say, none."""
    gc.collect()
    deadline = time.monotonic() + 0.5
    while threading.active_count() > 2 and time.monotonic() < deadline:
        time.sleep(0.02)  # threads that are about to end
    held = {"threads": threading.active_count()}
    descriptors = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)
    if descriptors is not None:
        held["open files"] = len(os.listdir(descriptors))
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.is_file():
        held["child processes"] = len(children.read_text().split())
    return held


def _seconds(function: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def _shown(seconds: list[float]) -> str:
    def unit(value: float) -> str:
        return f"{value:.2g} s" if value >= 1 else f"{1e3 * value:.2g} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"

    return f"{unit(statistics.median(seconds))} and {unit(max(seconds))}"
