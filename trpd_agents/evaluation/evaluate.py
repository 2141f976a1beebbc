"""Playing held-out episodes and saying how often an agent succeeds.

An infrastructure failure is retried with a fresh environment, then counted by kind and left out of every rate; it is
never a failure of the agent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trpd_agents.dialogue import end_ids
from trpd_agents.distributed import World
from trpd_agents.errors import UserError
from trpd_agents.evaluation.statistics import Estimate, mean_pass_at_k, success_rate
from trpd_agents.models import LanguageModel, load_model, pick_device
from trpd_agents.rollout import Collector, Engine, Episode, Limits, Sampling
from trpd_agents.rollout.local_engine import local_engine, plain_notices
from trpd_agents.rollout.seats import OTHER_SEAT
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.textenv.open_pool import open_pool
from trpd_agents.textenv.pool import EnvPool
from trpd_agents.trajectory import Trajectory

HELD_OUT_SEED = 1_000_000  # evaluation seeds start here; training seeds stay below
EVALUATION_STREAM = 0x45564C  # the sampling seed of evaluations: the same draws before and after training


@dataclass(frozen=True)
class Evaluation:
    """How an agent did. Rates are over episodes that the environment did not fail in.

    `outcomes` maps an environment seed to the success flags of its episodes; `errors` counts environment failures by
    kind; `endings` counts why episodes ended, `stops` why actions did. `mean_return` is the mean total reward. `draws`
    counts matches that nobody won, which are no successes; None where there is nothing to draw.
    """

    outcomes: dict[int, list[bool]]
    repeats: int
    errors: dict[str, int]
    endings: dict[str, int]
    stops: dict[str, int]
    mean_return: float
    mean_turns: float
    refused_share: float  # of turns whose action the environment did not accept
    tokens: int  # sampled by the agent
    draws: int | None = None

    @property
    def episodes(self) -> int:
        return sum(len(flags) for flags in self.outcomes.values())

    @property
    def success_rate(self) -> Estimate:
        """Success rate with its 95 % interval: Wilson's, or a bootstrap over seeds when seeds were repeated."""
        return success_rate(self.outcomes)

    def summary(self) -> dict[str, Any]:
        """Plain data: `success_rate`, `interval`, `episodes`, `errors` by kind, and the rest of what was counted."""
        rate = self.success_rate
        draws = {} if self.draws is None else {"draws": self.draws, "draw_rate": self.draws / self.episodes}
        pass_at = {f"pass@{self.repeats}": mean_pass_at_k(self.outcomes, self.repeats)} if self.repeats > 1 else {}
        return {
            "success_rate": rate.mean,
            "interval": [rate.low, rate.high],
            "episodes": self.episodes,
            **pass_at,
            **draws,
            "errors": self.errors,
            "endings": self.endings,
            "stops": self.stops,
            "mean_return": self.mean_return,
            "mean_turns": self.mean_turns,
            "refused_share": self.refused_share,
            "tokens": self.tokens,
        }


def evaluate(
    model: str | LanguageModel,
    env: str | EnvSpec,
    episodes: int = 256,
    *,
    repeats: int = 1,
    seed: int = HELD_OUT_SEED,
    temperature: float = 1.0,
    max_turns: int | None = None,
    max_new_tokens: int = 32,
    max_tokens: int = 2048,
    episode_seconds: float = 600.0,
    device: str = "auto",
    trust_remote_code: bool = False,
    world: World | None = None,
    on_finish: Callable[[Trajectory], None] | None = None,
    engine: Engine | None = None,
    pool: EnvPool | None = None,
    workers: int | Literal["auto"] = "auto",
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Play `episodes` environment seeds, `repeats` times each, and count.

    Args:
        model: a directory, hub id or `builtin:NAME`, or a loaded model.
        env: an id as on the command line, or an `EnvSpec`.
        seed: the first environment seed; the others follow it.
        temperature: 1 plays the policy as it is trained; 0 is greedy.
        max_turns: None for the environment's own limit.
        world: data-parallel ranks that share the episodes; every rank gets the whole result.
        on_finish: called with every finished trajectory of this rank, for progress.
        engine: plays in place of the model's own; the model's tokenizer is used with it.
        pool: where the environments are; it stays open. Without one they are in one of `workers` processes, see
            `open_pool`, which end with the evaluation.
        say: told at the start if the model has to be played by the slower engine.

    Raises:
        UserError: unknown model or environment, or no turn limit anywhere.
    """
    world = world or World()
    spec = env if isinstance(env, EnvSpec) else EnvSpec(env)
    limit = turn_limit(spec, max_turns)
    lm = (
        model
        if isinstance(model, LanguageModel)
        else load_model(model, device=pick_device(device), trust_remote_code=trust_remote_code, processes=world.size)
    )
    if engine is None:
        engine = local_engine(lm)
        if say is not None:
            for line in plain_notices([lm]):
                say(line)
    sampling = Sampling(max_new_tokens, frozenset(end_ids(lm.tokenizer)), temperature, seed=EVALUATION_STREAM)
    limits = Limits(limit, max_tokens, episode_seconds)
    plan = [Episode(seed + i, (seed + i) * repeats + r) for i in range(episodes) for r in range(repeats)]
    with open_pool(workers, share=world.size) if pool is None else nullcontext(pool) as environments:
        collector = Collector(spec, engine, lm.tokenizer, sampling, limits, environments)
        played = collector.collect(world.shard(plan), on_finish=on_finish)
        results = [result_of(t) for t in played if t.id < OTHER_SEAT]  # of a match with itself one seat counts
    return count(world.unshard(results), repeats)


def turn_limit(spec: EnvSpec, max_turns: int | None) -> int:
    """The number of turns an episode may take: the smaller of the caller's and the environment's own limit.

    Raises:
        UserError: neither gives one, so an episode might never end.
    """
    env = make(spec)
    own = env.max_turns
    env.close()
    limits = [limit for limit in (own, max_turns) if limit is not None]
    if not limits:
        raise UserError(
            f"environment {spec.id!r} has no turn limit (max_episode_steps in its registration, or an attribute "
            "max_turns), and none was asked for: set env.max_turns, or --max-turns on the command line"
        )
    return min(limits)


@dataclass(frozen=True)
class Result:
    """What is counted of a trajectory; small enough to send between processes."""

    seed: int
    success: bool | None
    error: str | None
    ending: str
    stops: list[str]
    reward: float
    refused: int
    tokens: int
    draw: bool | None = None


def result_of(trajectory: Trajectory) -> Result:
    return Result(
        seed=trajectory.seed,
        success=trajectory.success,
        error=None if trajectory.error is None else trajectory.error["kind"],
        ending=str(trajectory.outcome),
        stops=[str(turn.stop) for turn in trajectory.turns],
        reward=trajectory.reward,
        refused=sum(not turn.ok for turn in trajectory.turns),
        tokens=int(trajectory.authored("student").sum()),
        draw=trajectory.draw,
    )


def count(played: Sequence[Result], repeats: int) -> Evaluation:
    """The figures of an evaluation from its episodes."""
    scored = [r for r in played if r.error is None]
    outcomes: dict[int, list[bool]] = {}
    for r in scored:
        outcomes.setdefault(r.seed, []).append(bool(r.success))
    turns = sum(len(r.stops) for r in scored)
    drawn = [r.draw for r in scored if r.draw is not None]
    return Evaluation(
        outcomes=outcomes,
        repeats=repeats,
        errors=dict(Counter(r.error for r in played if r.error is not None)),
        endings=dict(Counter(r.ending for r in scored)),
        stops=dict(Counter(stop for r in scored for stop in r.stops)),
        mean_return=float(np.mean([r.reward for r in scored])) if scored else float("nan"),
        mean_turns=turns / len(scored) if scored else float("nan"),
        refused_share=sum(r.refused for r in scored) / turns if turns else 0.0,
        tokens=sum(r.tokens for r in scored),
        draws=sum(drawn) if drawn else None,
    )
