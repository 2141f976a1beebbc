"""What was right at each turn of a stored episode: its environment, played again.

Invariant: the environment goes through the very states it went through when the episode was recorded, or an error says
that it did not. Its seed, arguments and the recorded actions decide the states; every observation is compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from trpd_agents.errors import EnvironmentFailure, RunError, UserError
from trpd_agents.textenv import AgentEnv, EnvSpec, make
from trpd_agents.trajectory import Trajectory
from trpd_envs.tools import Call, parse_calls

_SHOWN = 200  # characters of an observation that an error repeats


@dataclass(frozen=True)
class Options:
    """Texts of actions in one state. `optimal` begin a shortest way to success; with none of them the task is lost."""

    optimal: tuple[str, ...]
    legal: tuple[str, ...]

    def is_optimal(self, text: str) -> bool:
        """Whether `text` is one of the optimal actions, however it is written."""
        return action_key(text) in {action_key(optimal) for optimal in self.optimal}


@dataclass(frozen=True)
class Replay:
    """The options at every turn of an episode, and what its dialogue began with."""

    options: list[Options]
    instructions: str
    tools: list[dict[str, Any]]


def action_key(text: str) -> str:
    """Equal for two texts that are the same action.

    With tool calls in it an action is its calls, names and arguments, in their order; without any it is the text
    without white space around it. Calls that cannot be parsed are no calls.
    """
    calls = [[call.name, call.arguments] for call in parse_calls(text) if isinstance(call, Call)]
    return json.dumps(calls, sort_keys=True) if calls else text.strip()


def optimal_at_turns(trajectory: Trajectory) -> list[Options]:
    """The optimal and the legal actions before each turn of `trajectory`, `[K]`.

    Raises:
        UserError: the environment has no expert.
        RunError: played again it fell over or behaved differently, so its seed does not decide the episode.
    """
    return replay(trajectory).options


def replay(trajectory: Trajectory) -> Replay:
    """Like `optimal_at_turns`, with the instructions and tools of the episode."""
    spec = EnvSpec(trajectory.env_id, dict(trajectory.env_kwargs))
    env = make(spec)
    try:
        return _replay(env, trajectory)
    except EnvironmentFailure as failure:
        raise RunError(
            f"environment {spec.id}: the episode of seed {trajectory.seed} cannot be played again to find what was "
            f"right in it: {failure.message}"
        ) from failure
    finally:
        env.close()


def require_expert(env: AgentEnv) -> None:
    """Raise `UserError` unless something in `env` knows what is right."""
    if not env.has_expert:
        raise UserError(
            f"environment {env.spec.id!r} has no expert(), and the oracle teacher asks it what is right; give its "
            "class a method expert() -> str | None that returns the next action, or take a teacher of kind 'local'"
        )


def _replay(env: AgentEnv, trajectory: Trajectory) -> Replay:
    observation = env.reset(trajectory.seed)
    require_expert(env)
    instructions, tools = env.instructions, env.tools
    options: list[Options] = []
    ended = False
    for number, turn in enumerate(trajectory.turns):
        if ended or observation != turn.observation:
            found = "had ended" if ended else f"observed {observation!r:.{_SHOWN}}"
            raise RunError(
                f"environment {env.spec.id} is not deterministic under its seed: played again with seed "
                f"{trajectory.seed} and the same actions, it {found} before turn {number + 1}, where it was recorded "
                f"to observe {turn.observation!r:.{_SHOWN}}; draw everything random from what reset(seed=...) seeds, "
                "and nothing in expert(), optimal_actions() or legal_actions()"
            )
        options.append(Options(_distinct(env.optimal_actions()), _distinct(env.legal_actions())))
        if number + 1 < len(trajectory.turns):  # what the last action led to shows no state that was acted in
            step = env.step(turn.text)
            observation, ended = step.observation, step.terminated or step.truncated
    return Replay(options, instructions, tools)


def _distinct(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
