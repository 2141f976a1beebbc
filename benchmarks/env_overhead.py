"""What playing an environment through a pool costs beside its own steps: here, and in worker processes.

    python benchmarks/env_overhead.py
    python benchmarks/env_overhead.py --env Courier-v0 --parallel 64 --workers 1 2 4 --write

`parallel` episodes go on at once, all of them one step a round, with the same actions everywhere; where an episode ends
the next one is opened outside of what is measured. The bare loop calls `reset` and `step` of the Gymnasium environment
itself. Times are seconds of the clock, the least of the rounds, which alternate between the paths. Beside them:
the difference to the bare loop per step, which is what a pool adds or, where several workers share the work, saves.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import gymnasium

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv import EnvSpec, Step, make
from trpd_agents.textenv.pool import EnvPool, EpisodeEnv, InProcess
from trpd_agents.textenv.workers import Workers

RESULT = Path(__file__).parent / "results" / "env_overhead.md"
TURNS = 4  # that every episode of the measurement has, whatever is done in it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="GridLake-v0")
    parser.add_argument("--parallel", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    arguments = parser.parse_args()
    spec, parallel = EnvSpec(arguments.env), arguments.parallel
    actions = legal_words(spec, parallel)
    pools: dict[str, EnvPool] = {"in process": InProcess()}
    pools |= {f"{count} worker{'s' * (count > 1)}": Workers(count) for count in arguments.workers}
    paths: dict[str, Callable[[], tuple[float, float]]] = {"bare loop": lambda: bare(spec, actions)}
    paths |= {name: (lambda pool=pool: through(pool, spec, actions)) for name, pool in pools.items()}
    least: dict[str, tuple[float, float]] = {}
    for _ in range(arguments.rounds):
        for name, play in paths.items():
            opening, step = play()
            before = least.get(name, (opening, step))
            least[name] = min(before[0], opening), min(before[1], step)
    for pool in pools.values():
        pool.close()
    text = table(least)
    head = f"`{spec.id}`, {parallel} episodes at once, {TURNS} turns each; {len(os.sched_getaffinity(0))} cores.\n"
    print(f"{head}\n{text}")
    if arguments.write:
        command = "python benchmarks/env_overhead.py"
        RESULT.write_text(f"# What playing through a pool costs\n\n{head}\n{text}\n\n`{command}`\n", encoding="utf-8")


def legal_words(spec: EnvSpec, parallel: int) -> list[list[str]]:
    """`[parallel, TURNS]`: what is said in each episode; what the environment accepts in its first state."""
    words = []
    env = make(spec)
    for seed in range(parallel):
        env.reset(seed)
        words.append([Random(seed + turn).choice(env.legal_actions() or ["go"]) for turn in range(TURNS)])
    env.close()
    return words


def bare(spec: EnvSpec, actions: list[list[str]]) -> tuple[float, float]:
    """Seconds per opening and per step."""
    clock = time.perf_counter()
    envs: list[gymnasium.Env] = [make(spec).env for _ in actions]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    opened = time.perf_counter() - clock
    live, steps = list(range(len(envs))), 0
    clock = time.perf_counter()
    for turn in range(TURNS):
        steps += len(live)
        ended = [envs[i].step(actions[i][turn])[2:4] for i in live]
        live = [i for i, flags in zip(live, ended, strict=True) if not any(flags)]
    return opened / len(envs), (time.perf_counter() - clock) / steps


def through(pool: EnvPool, spec: EnvSpec, actions: list[list[str]]) -> tuple[float, float]:
    """Likewise, with the answers in their hands as the collector has them."""
    clock = time.perf_counter()
    opened: list[EpisodeEnv] = [pool.open(spec, seed) for seed in range(len(actions))]
    assert len(pool.wait()) == len(opened)
    opening = time.perf_counter() - clock
    live, steps = opened, 0
    clock = time.perf_counter()
    for turn in range(TURNS):
        steps += len(live)
        for env in live:
            pool.step(env, actions[env.seed][turn])
        live = [env for env, answer in pool.wait() if goes_on(answer)]
    seconds = time.perf_counter() - clock
    for env in opened:
        env.close()
    return opening / len(opened), seconds / steps


def goes_on(answer: object) -> bool:
    if isinstance(answer, EnvironmentFailure):
        raise answer
    return isinstance(answer, Step) and not answer.terminated and not answer.truncated


def table(least: dict[str, tuple[float, float]]) -> str:
    _, alone = least["bare loop"]
    rows = ["| path | ms per opening | µs per step | of the bare loop | added per step, µs |", "|---|---|---|---|---|"]
    for name, (opening, step) in least.items():
        added = (step - alone) * 1e6
        rows.append(f"| {name} | {opening * 1e3:.2f} | {step * 1e6:.1f} | {step / alone:.1f} | {added:+.1f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
