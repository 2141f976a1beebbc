"""Demonstrations: episodes in which an environment's scripted expert acts, as trajectories written by the teacher.

An expert's text is authored, so it is tokenised once, here; everything after that works on ids. With `mistakes` some
turns are played at random in the expert's place. Those are marked as the student's, without log-probabilities, so that
nobody imitates them, and the expert's turns after them show how to go on from where they lead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

import numpy as np

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import AgentEnv, EnvSpec, make
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn
from trpd_envs.tools import Call, parse_calls


def demonstrate(
    spec: EnvSpec, dialogues: Dialogues, seeds: Iterable[int], *, max_turns: int, mistakes: float = 0.0
) -> tuple[list[Trajectory], dict[str, int]]:
    """Play `spec` once per seed with its expert and keep the episodes to imitate.

    These are the episodes that succeed, and those in which the expert has played after a mistake, even if a later one
    lost the task: an episode ends when the expert knows no action any more, so no turn of it was played in vain.

    Args:
        max_turns: where an episode is given up.
        mistakes: in [0, 1), the probability with which a turn is one of the legal actions, drawn evenly, instead of the
            expert's. Nothing but this and an episode's seed decides which.

    Returns:
        The episodes kept, and how often the environment failed, by kind.

    Raises:
        UserError: the environment has no expert, or lists no legal actions to make mistakes with.
    """
    kept: list[Trajectory] = []
    failures: Counter[str] = Counter()
    for seed in seeds:
        try:
            played = play_expert(spec, dialogues, seed, max_turns=max_turns, mistakes=mistakes)
        except EnvironmentFailure as failure:
            failures[failure.kind] += 1
            continue
        authors = [turn.author for turn in played.turns]
        if played.success or ("student" in authors and "teacher" in authors[authors.index("student") :]):
            kept.append(played)
    return kept, dict(failures)


def play_expert(spec: EnvSpec, dialogues: Dialogues, seed: int, *, max_turns: int, mistakes: float = 0.0) -> Trajectory:
    """One episode by the expert, up to its end or to where the expert knows no action, whether it succeeds or not.

    Raises:
        UserError: see `demonstrate`.
        EnvironmentFailure: the environment fell over.
    """
    env = make(spec)
    try:
        return _play(env, dialogues, seed, max_turns, mistakes)
    finally:
        env.close()


def require_demonstrator(env: AgentEnv, mistakes: float = 0.0) -> None:
    """Raise `UserError` unless `env` has what `demonstrate` needs."""
    if not env.has_expert:
        raise UserError(
            f"environment {env.spec.id!r} has no expert() to imitate; give its class a method expert() -> str that "
            "returns the next action, or start from a trained model (remove `imitation`)"
        )
    if mistakes and not env.has_legal_actions:
        raise UserError(_no_legal_actions(env, mistakes))


def _play(env: AgentEnv, dialogues: Dialogues, seed: int, max_turns: int, mistakes: float) -> Trajectory:
    observation = env.reset(seed)
    require_demonstrator(env, mistakes)
    rng = Random(f"mistakes {seed}")
    dialogue = dialogues(env.instructions, env.tools)
    tokens = list(dialogue.start(observation))
    turns: list[Turn] = []
    prompt_start, reward = 0, 0.0
    outcome, success, draw = Outcome.MAX_TURNS, False, None
    while len(turns) < max_turns and (text := env.expert()) is not None:
        author = "student" if rng.random() < mistakes else "teacher"
        if author == "student":
            legal = env.legal_actions()
            if not legal:
                raise UserError(_no_legal_actions(env, mistakes))
            text = rng.choice(legal)
        ids = dialogue.answer(text)
        span = (len(tokens), len(tokens) + len(ids))
        turn = Turn((prompt_start, span[0]), span, author, Stop.END, observation, text)
        turn.calls = [{"name": c.name, "arguments": c.arguments} for c in parse_calls(text) if isinstance(c, Call)]
        tokens.extend(ids)
        prompt_start = span[1]
        turns.append(turn)
        step = env.step(text)
        turn.reward, turn.ok = step.reward, step.ok
        reward += step.reward
        observation = step.observation
        success, draw = bool(step.success), step.draw
        if step.terminated or step.truncated:
            outcome = Outcome.TERMINATED if step.terminated else Outcome.TRUNCATED
            break
        tokens.extend(dialogue.observe(observation, ended=True))
    return Trajectory(
        id=seed,
        env_id=env.spec.id,
        env_kwargs=dict(env.spec.kwargs),
        seed=seed,
        tokens=np.array(tokens, dtype=np.int32),
        logprobs=np.full(len(tokens), np.nan, dtype=np.float32),
        turns=turns,
        outcome=outcome,
        success=success,
        reward=reward,
        final_observation=observation,
        draw=draw,
    )


def _no_legal_actions(env: AgentEnv, mistakes: float) -> str:
    return (
        f"environment {env.spec.id!r} lists no legal actions, and imitation.mistakes={mistakes:g} plays some of them; "
        "give its class a method legal_actions() -> list[str], or set imitation.mistakes to 0"
    )
