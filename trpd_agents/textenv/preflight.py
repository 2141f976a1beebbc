"""Plays an environment for a moment before a run depends on it.

Whatever can be found wrong with an environment in about a second is found here, as a `UserError`, and not after an
hour as a run whose episodes all failed.
"""

from __future__ import annotations

import time

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv.agent_env import AgentEnv, Step
from trpd_agents.textenv.mixture import MIXTURE, members
from trpd_agents.textenv.resolve import make
from trpd_agents.textenv.spec import EnvSpec
from trpd_agents.textenv.textarena_matches import SELF
from trpd_envs.tools import format_call

_BUDGET = 0.7  # seconds of play; an episode longer than that is not played to its end
_GARBAGE = ("hello", "", "[1] go north\n\x00 \ud800 é 漢 {}")

ADVICE = {
    "construct_raised": "Its constructor has to return for these arguments.",
    "reset_raised": "reset(seed=...) has to accept any seed of at least 0.",
    "step_raised": "step has to answer any text, however wrong, with an observation; say what was wrong in it and set "
    'info["ok"] = False.',
    "bad_observation": "Observations are strings, reset returns two values and step five, as in gymnasium.Env.",
    "bad_reward": "Rewards are finite numbers.",
    "bad_flag": 'terminated, truncated, info["success"] and info["ok"] are True or False.',
    "timeout": "Make resets and steps faster, or raise the time limit of a step (env.step_seconds).",
    "worker_died": "It must neither crash nor exit, and stay below env.memory_mb.",
    "not_restored": "Draw everything random from what reset(seed=...) seeds, so that an episode can be played again.",
}


def check_environment(spec: EnvSpec | str, seeds: int = 3, max_turns: int | None = None) -> None:
    """Make the environment, play `seeds` short episodes (the first with its expert, if it has one) and close it.

    `max_turns` is the run's own turn limit; without it the environment must have one. Raises `UserError` for an
    environment that cannot be made, breaks the contract of `AgentEnv`, never says whether an episode succeeded, has
    no turn limit, or goes on past the limit it declares.
    """
    spec = EnvSpec(spec) if isinstance(spec, str) else spec
    if spec.id == MIXTURE:
        for member in members(spec):
            check_environment(member.spec, seeds, max_turns)
        return
    name = spec.id
    try:
        env = make(spec)
    except EnvironmentFailure as failure:
        raise _user_error(name, "being made", failure) from failure
    try:
        if env.seats > 1 and (opponent := spec.kwargs.get("opponent", SELF)) != SELF:
            from trpd_agents.models import resolve_model  # which loads torch, and no process that plays needs that

            resolve_model(opponent)
        limit = _limit(env, max_turns)
        deadline = time.monotonic() + _BUDGET
        for seed in range(seeds):
            if seed and time.monotonic() > deadline:
                break
            _play(env, seed, limit, use_expert=seed == 0 and env.has_expert, deadline=deadline)
    finally:
        env.close()


def _limit(env: AgentEnv, max_turns: int | None) -> int:
    limits = [limit for limit in (env.max_turns, max_turns) if limit is not None]
    if not limits:
        raise UserError(
            f"environment {env.spec.id} has no turn limit, so an episode could last for ever: set env.max_turns in the "
            "run's configuration, register the environment with max_episode_steps, or give it an attribute max_turns."
        )
    return min(limits)


def _play(env: AgentEnv, seed: int, limit: int, use_expert: bool, deadline: float) -> None:
    where = f"reset(seed={seed})"
    texts = _texts(env, seed)
    step: Step | None = None
    try:
        env.reset(seed)
        _ = env.instructions, env.tools  # both may depend on the episode
        for turn in range(limit * env.seats):  # a limit is one of each seat's turns
            where = f"turn {turn + 1} of the episode with seed {seed}"
            action = env.expert() if use_expert else None
            if action is None:
                action = texts[turn % len(texts)]
            where += f", on action {action!r:.80}"
            step = env.step(action)
            if step.terminated or step.truncated:
                return
            if time.monotonic() > deadline:
                return  # too slow to be played to its end here, which says nothing about its end
    except EnvironmentFailure as failure:
        raise _user_error(env.spec.id, where, failure) from failure
    if step is not None and step.success is None:
        raise UserError(
            f'environment {env.spec.id} never says whether an episode succeeded: no info["success"] up to {where}, and '
            'no reward_threshold. Return info["success"] (True or False) with every step, or register the environment '
            "with a reward_threshold."
        )
    if limit == env.max_turns:
        raise UserError(
            f"environment {env.spec.id} declares a limit of {limit} turns but had not ended after {limit} steps (seed "
            f"{seed}): return truncated=True on the last turn, or register it with max_episode_steps={limit} so that "
            "Gymnasium does."
        )


def _texts(env: AgentEnv, seed: int) -> list[str]:
    """What a bad player might say: plain garbage, and calls of a tool that exists with arguments that do not fit."""
    names = [tool.get("function", tool).get("name", "look") for tool in env.tools] or ["look"]
    call = format_call(names[seed % len(names)], nonsense=seed)
    return [*_GARBAGE[seed % len(_GARBAGE) :], call, *_GARBAGE]


def _user_error(name: str, where: str, failure: EnvironmentFailure) -> UserError:
    message = failure.message.removeprefix(f"environment {name}: ")
    return UserError(
        f"environment {name} failed its check ({failure.kind}) at {where}: {message}. {ADVICE[failure.kind]}"
    )
