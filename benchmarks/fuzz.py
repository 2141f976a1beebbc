"""Whether anything that a model can write breaks a bundled environment, or is rewarded without being an action.

    python benchmarks/fuzz.py --actions 1000000 --seed 0
    python benchmarks/fuzz.py --actions 20000 --env SqlDesk --env MiniFS

All bundled environments in all difficulties get the same number of actions, half of them through Gymnasium as they
are, half through `AgentEnv`, which sanitises them first. They are a mix: random bytes, NUL, lone surrogates, 200 kB of
text, 5,000 digits, unbalanced tags, broken JSON, calls with arguments of the wrong kind and with hostile texts, legal
and expert actions with a few characters changed, and every fourth a legal or expert one as it is, so that episodes get
somewhere. The same seed gives the same actions.

Counted are *crashes* (anything raised, or a result that breaks the contract), *stalls* (more than a second for a
reset, a step, the expert or the legal actions, twice in the same place) and *garbage rewarded*: a reward or a success
for a text in which no well-formed action can be found, that is neither a call of one of the environment's tools that
fits its schema, nor one of the words it takes. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

import gymnasium
from fuzz_actions import garbage, is_action, mutated

from trpd_agents.progress import Progress
from trpd_agents.textenv import AgentEnv, make
from trpd_agents.textenv.resolve import bundled_ids

STALL = 1.0  # seconds
KINDS = ("crash", "stall", "garbage rewarded")
MOST_SHOWN = 20  # findings that are printed in full


class Fuzz:
    """One environment under fire, and what came of it."""

    def __init__(self, env_id: str, sanitised: bool, seed: int):
        self.env_id, self.sanitised = env_id, sanitised
        self.rng = Random(f"{seed} {env_id} {sanitised}")
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.findings: list[str] = []
        self.episode = 0
        self.history: list[str] = []

    def run(self, actions: int, shown: Callable[[int], None]) -> None:
        env: Any = self._make()
        running = False
        for done in range(actions):
            if done % 500 == 0:
                shown(done)
            action = ""
            try:
                if not running:
                    self.history.clear()
                    self.episode += 1
                    self._timed(env, "reset", seed=self.episode)
                action = self._action(env)
                running = not self._step(env, action)
            except Exception as error:  # whatever it is, it is what this is looking for
                self._found("crash", f"{type(error).__name__}: {error!s:.200} after {action!r:.200}")
                env, running = self._make(), False
            self.counts["actions"] += 1
            self.history.append(action)
        self.counts["episodes"] = self.episode
        env.close()

    def _make(self) -> Any:
        return make(self.env_id) if self.sanitised else gymnasium.make(self.env_id, disable_env_checker=True).unwrapped

    def _action(self, env: Any) -> str:
        kind = self.rng.random()
        if kind < 0.4:
            return garbage(self.rng)
        expert = self._timed(env, "expert") if kind > 0.85 or 0.4 < kind < 0.5 else None
        proper = expert or self.rng.choice(self._timed(env, "legal_actions") or [""])
        return proper if kind > 0.75 else mutated(proper, self.rng)

    def _step(self, env: Any, action: str) -> bool:
        """Take a step, check all it gives back, and say whether the episode has ended."""
        if isinstance(env, AgentEnv):
            step = self._timed(env, "step", action)
            observation, reward, terminated, truncated = step.observation, step.reward, step.terminated, step.truncated
            ok, success = step.ok, step.success
        else:
            observation, reward, terminated, truncated, info = self._timed(env, "step", action)
            ok, success = info["ok"], info["success"]
        flags = {type(flag) for flag in (terminated, truncated, ok, success)}
        if not isinstance(observation, str) or flags != {bool} or not math.isfinite(reward):
            raise TypeError(f"step gave {(observation, reward, terminated, truncated, ok, success)!r:.300}")
        observation.encode()
        self.counts["refused"] += not ok
        if reward > 0 or success:
            self.counts["successes"] += 1
            before = self._before()
            legal = [*before.legal_actions(), *filter(None, [before.expert()])]
            if not is_action(action, env.tools, legal):
                self._found("garbage rewarded", repr(action)[:300])
        return terminated or truncated

    def _before(self) -> Any:
        """The state before the present action, by playing this episode again on another instance."""
        env: Any = self._make()
        env.reset(seed=self.episode)
        for action in self.history:
            env.step(action)
        return env

    def _timed(self, env: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of `env`. A stall counts when it comes again in the same place: other processes cause some."""
        started = time.perf_counter()
        result = getattr(env, name)(*args, **kwargs)
        seconds = time.perf_counter() - started
        if seconds > STALL:
            again = self._make() if name == "reset" else self._before()
            started = time.perf_counter()
            getattr(again, name)(*args, **kwargs)
            seconds = min(seconds, time.perf_counter() - started)
            if seconds > STALL:
                self._found("stall", f"{seconds:.1f} s for {name} {args!r:.200}")
        self.slowest = max(self.slowest, seconds)
        return result

    def _found(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        how = "AgentEnv" if self.sanitised else "Gymnasium"
        self.findings.append(f"{kind} in {self.env_id} through {how}, episode {self.episode}: {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, default=1_000_000, help="over all environments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--env", action="append", help="only this one, in all difficulties, such as SqlDesk; repeatable"
    )
    options = parser.parse_args()
    by_name: dict[str, list[str]] = {}
    for env_id in bundled_ids():
        by_name.setdefault(env_id.removeprefix("trpd/").split("-")[0], []).append(env_id)
    names_of = {env_id: name for name, ids in by_name.items() for env_id in ids}
    if unknown := set(options.env or ()) - set(by_name):
        parser.error(f"--env {', '.join(sorted(unknown))}: one of {', '.join(by_name)} wanted")
    names = options.env or list(by_name)
    fuzzes = [Fuzz(env_id, s, options.seed) for name in names for env_id in by_name[name] for s in (False, True)]
    seconds: dict[str, float] = defaultdict(float)
    each = max(1, round(options.actions / len(fuzzes)))
    with Progress().phase("fuzz", len(fuzzes) * each) as shown:
        for number, fuzz in enumerate(fuzzes):
            started = time.perf_counter()
            fuzz.run(each, lambda done, before=number * each: shown.update(before + done))
            seconds[names_of[fuzz.env_id]] += time.perf_counter() - started
        shown.update(len(fuzzes) * each)
    heads = ["environment", "actions", "episodes", "successes", "refused", "slowest (ms)", "us/action", *KINDS]
    print("\n|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    total: Counter[str] = Counter()
    for name in names:
        own = [fuzz for fuzz in fuzzes if fuzz.env_id in by_name[name]]
        counts = sum((fuzz.counts for fuzz in own), Counter[str]())
        total += counts
        _row(name, counts, max(fuzz.slowest for fuzz in own), seconds[name])
    _row("all", total, max(fuzz.slowest for fuzz in fuzzes), sum(seconds.values()))
    findings = [finding for fuzz in fuzzes for finding in fuzz.findings]
    print(f"\n{sum(seconds.values()):.0f} s, seed {options.seed}")
    for finding in findings[:MOST_SHOWN]:
        print(finding.encode("ascii", "backslashreplace").decode())
    return 1 if findings else 0


def _row(name: str, counts: Counter[str], slowest: float, seconds: float) -> None:
    shown = [f"{counts[key]:,}" for key in ("actions", "episodes", "successes")]
    share = f"{counts['refused'] / max(1, counts['actions']):.0%}"
    per_action = f"{seconds / max(1, counts['actions']) * 1e6:.0f}"
    found = [str(counts[kind]) for kind in KINDS]
    print("|", " | ".join([name, *shown, share, f"{slowest * 1e3:.0f}", per_action, *found]), "|")


if __name__ == "__main__":
    sys.exit(main())
