"""Whole episodes: well-formed values, a verdict, an end, and what happens after it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.checks.finding import Finding, error, ok, warning
from trpd_agents.textenv.checks.probe import WATCHED, Probe, first_difference, play_script
from trpd_agents.textenv.time_limit import TimeExpired, call_within

_LONG = 1000  # turns: more than this many without an end are not played out


def episodes(probe: Probe) -> Iterator[Finding]:
    """Reset and step return what they should, and instructions and tools can be read after each reset."""
    turns = []
    for seed in probe.within(WATCHED):
        probe.note(f"the episode of seed {seed}")
        turns.append(len(probe.record(seed)[0]))
    with probe.made() as env:
        env.reset(0)
        told = env.instructions, env.tools
        try:
            json.dumps(told[1])
        except (TypeError, ValueError) as problem:
            yield error(
                f"`tools` cannot be written as JSON: {problem}",
                "Chat templates and recorded trajectories hold the tools as JSON.",
                "Use dicts, lists, strings, numbers, booleans and None alone.",
            )
    without = "" if told[0].strip() else "; there are no instructions, so the first observation has to say everything"
    yield ok(f"{len(turns)} episodes of {min(turns)} to {max(turns)} turns are well-formed{without}")


def success(probe: Probe) -> Iterator[Finding]:
    """Every episode says whether it was a success."""
    found = set()
    for seed in probe.within(WATCHED):
        found.add(probe.record(seed)[1].success)
    with probe.made() as env:
        threshold = env.reward_threshold
    if None in found:
        yield error(
            'no info["success"] up to the last turn that was played, and no reward_threshold',
            "Success rates are counted from it. Without it nobody can tell a success from a failure.",
            'Return info["success"] (True or False) with every step, or register the environment with a '
            "reward_threshold.",
        )
        return
    source = 'info["success"]' if threshold is None else f"a total reward of {threshold:g}"
    yield ok(f"told by {source}")


def turn_limit(probe: Probe) -> Iterator[Finding]:
    """An episode in which nothing is achieved comes to an end."""
    with probe.made() as env:
        own, asked = env.max_turns, probe.settings.max_turns
        limits = [limit for limit in (own, asked) if limit is not None]
        seats = env.seats  # a limit is one of each player's turns
        if not limits:
            yield error(
                "there is no turn limit",
                "An agent that achieves nothing plays for ever, and a run does not start.",
                "Give the class an attribute max_turns and return truncated=True on the last turn, or register it "
                "with max_episode_steps. (--max-turns checks it with a limit of the run's.)",
            )
            return
        limit = min(limits)
        probe.note(f"{limit * seats} times the action 'hello'")
        env.reset(0)
        played, ended = 0, False
        for turn in probe.within(range(1, min(limit * seats, _LONG) + 1)):
            step = env.step("hello")
            played, ended = turn, step.terminated or step.truncated
            if ended:
                break
    if ended or limit != own:
        yield ok(f"{limit} turns" + (f"; 'hello' ended it after {played}" if ended and played < limit * seats else ""))
    elif played == limit * seats:
        yield error(
            f"a limit of {limit} turns is declared, but the episode had not ended after {played} steps",
            "Episodes go on after the turn that the agent was told is its last, or never end in another framework.",
            f"Return truncated=True on turn {limit}, or register it with max_episode_steps={limit}.",
        )
    else:
        yield ok(f"{limit} turns are declared; {played} were played, which is not enough to see the end")


def step_after_end(probe: Probe) -> Iterator[Finding]:
    """A step after the end raises or stays ended; it never goes on as if nothing had happened."""
    actions, episode = probe.record(0)
    if not episode.ended:
        yield ok("the episode did not end in the turns that were played, so there was nothing to try")
        return
    with probe.made() as env:
        play_script(env, 0, actions)
        probe.note("a step after the end of an episode")
        try:
            _, reward, terminated, truncated, info = call_within(env.seconds, env.env.step, actions[-1])
        except TimeExpired as expired:
            raise EnvironmentFailure("timeout", f"a step after the end took too long: {blame(expired)}") from None
        except Exception as refusal:
            yield ok(f"refused with {type(refusal).__name__}")
            return
    before = episode.success
    if float(reward) > 0 or (info.get("success", before) and not before):
        yield error(
            f"a step after the end was played: reward {float(reward):g}, success {info.get('success')}",
            "A framework that steps once too often counts a success or a reward that does not exist.",
            "Raise gymnasium.error.ResetNeeded in step() when no episode is running.",
        )
    elif not (terminated or truncated):
        yield warning(
            "a step after the end goes on as if the episode were still running",
            "trpd_agents never does that, but in a framework that does by mistake the mistake stays hidden.",
            "Raise gymnasium.error.ResetNeeded in step() when no episode is running, or return terminated=True.",
        )
    else:
        yield ok("stays ended")


def reset_mid_episode(probe: Probe) -> Iterator[Finding]:
    """A reset starts anew whatever was played before it on the same instance."""
    used_up, other = probe.record(1)[0], probe.record(0)
    for turns, when in ((1, "in mid-episode"), (len(used_up), "after an episode")):
        with probe.made() as env:
            play_script(env, 1, used_up[:turns])
            probe.note(f"a reset {when}")
            again = play_script(env, 0, other[0])
        if difference := first_difference(probe.replay(0, other[0]), again):
            yield error(
                f"after a reset {when} the episode of seed 0 is not the one of a new instance: {difference}",
                "Frameworks that reuse instances, as vectorised environments do, train on episodes that leak into "
                "each other.",
                "Set every attribute of the episode anew in reset().",
            )
            return
    yield ok("a reset starts anew, in mid-episode and after the end")
