"""Demonstrations: episodes in which an environment's scripted expert acts, as trajectories written by the teacher.

An expert's text is authored, so it is tokenised once, here; everything after that works on ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import AgentEnv, EnvSpec, make
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn
from trpd_envs.tools import Call, parse_calls


def demonstrate(
    spec: EnvSpec, dialogues: Dialogues, seeds: Iterable[int], *, max_turns: int
) -> tuple[list[Trajectory], dict[str, int]]:
    """Play `spec` once per seed with its expert and keep the episodes that succeed.

    Args:
        max_turns: where an episode is given up.

    Returns:
        The successful episodes, and how often the environment failed, by kind.

    Raises:
        UserError: the environment has no expert.
    """
    kept: list[Trajectory] = []
    failures: Counter[str] = Counter()
    for seed in seeds:
        env = make(spec)
        try:
            played = _play(env, dialogues, seed, max_turns)
        except EnvironmentFailure as failure:
            failures[failure.kind] += 1
            continue
        finally:
            env.close()
        if played is not None:
            kept.append(played)
    return kept, dict(failures)


def _play(env: AgentEnv, dialogues: Dialogues, seed: int, max_turns: int) -> Trajectory | None:
    """One episode by the expert; None unless it succeeds."""
    observation = env.reset(seed)
    if not env.has_expert:
        raise UserError(
            f"environment {env.spec.id!r} has no expert() to imitate; give its class a method expert() -> str that "
            "returns the next action, or start from a trained model (remove `imitation`)"
        )
    dialogue = dialogues(env.instructions, env.tools)
    tokens = list(dialogue.start(observation))
    turns: list[Turn] = []
    prompt_start, reward = 0, 0.0
    while len(turns) < max_turns and (text := env.expert()) is not None:
        ids = dialogue.answer(text)
        span = (len(tokens), len(tokens) + len(ids))
        turn = Turn((prompt_start, span[0]), span, "teacher", Stop.END, observation, text)
        turn.calls = [{"name": c.name, "arguments": c.arguments} for c in parse_calls(text) if isinstance(c, Call)]
        tokens.extend(ids)
        prompt_start = span[1]
        turns.append(turn)
        step = env.step(text)
        turn.reward, turn.ok = step.reward, step.ok
        reward += step.reward
        observation = step.observation
        if step.terminated or step.truncated:
            return _trajectory(env.spec, seed, tokens, turns, reward, observation) if step.success else None
        tokens.extend(dialogue.observe(observation, ended=True))
    return None


def _trajectory(
    spec: EnvSpec, seed: int, tokens: list[int], turns: list[Turn], reward: float, observation: str
) -> Trajectory:
    return Trajectory(
        id=seed,
        env_id=spec.id,
        env_kwargs=dict(spec.kwargs),
        seed=seed,
        tokens=np.array(tokens, dtype=np.int32),
        logprobs=np.full(len(tokens), np.nan, dtype=np.float32),
        turns=turns,
        outcome=Outcome.TERMINATED,
        success=True,
        reward=reward,
        final_observation=observation,
    )
