"""An episode that is played in the terminal, as it is stored.

Invariant: an episode that was not played to its end has an error of the kind `interrupted` and no success, so nobody
counts it as a failure. What a person wrote has no tokens: spans are empty, and the texts are all there is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trpd_agents.errors import RunError, UserError
from trpd_agents.textenv import AgentEnv, Step
from trpd_envs.calls import Call, parse_calls

if TYPE_CHECKING:
    from trpd_agents.trajectory import Trajectory

FORMATS = (".jsonl", ".parquet")


@dataclass
class Action:
    """What was played in one turn. `prompt` and `tokens` are what a model was fed before it and sampled."""

    text: str
    author: str  # "person" or "student"
    prompt: Sequence[int] = ()
    tokens: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    complete: bool = True


@dataclass
class Record:
    """One episode, turn by turn: `turns` are what was observed, what was done and what came of it."""

    env: AgentEnv
    seed: int
    opening: str
    instructions: str
    tools: list[dict[str, Any]]
    turns: list[tuple[str, Action, Step]] = field(default_factory=list)
    error: dict[str, str] | None = None
    outcome: str | None = None  # where neither the environment nor an error ended it

    @property
    def observation(self) -> str:
        return self.turns[-1][2].observation if self.turns else self.opening

    @property
    def reward(self) -> float:
        return sum(step.reward for _, _, step in self.turns)

    @property
    def success(self) -> bool | None:
        """None where it was not played to its end."""
        return None if self.error or not self.turns else bool(self.turns[-1][2].success)

    def trajectory(self, number: int) -> Trajectory:
        import numpy as np

        from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn

        tokens: list[int] = []
        logprobs: list[float] = []
        turns = []
        for observation, action, step in self.turns:
            start, middle = len(tokens), len(tokens) + len(action.prompt)
            tokens += [*action.prompt, *action.tokens]
            logprobs += [*([float("nan")] * len(action.prompt)), *action.logprobs]
            stop = Stop.END if action.complete else Stop.LENGTH
            turn = Turn((start, middle), (middle, len(tokens)), action.author, stop, observation, action.text)
            turn.calls = [
                {"name": c.name, "arguments": c.arguments} for c in parse_calls(action.text) if isinstance(c, Call)
            ]
            turn.reward, turn.ok = step.reward, step.ok
            turns.append(turn)
        ended = self.turns[-1][2] if self.turns else None
        outcome = Outcome.TERMINATED if ended and ended.terminated else Outcome.TRUNCATED
        if self.error is not None:
            outcome = Outcome.ERROR
        elif self.outcome is not None:
            outcome = Outcome(self.outcome)
        return Trajectory(
            id=number,
            env_id=self.env.spec.id,
            env_kwargs=dict(self.env.spec.kwargs),
            seed=self.seed,
            tokens=np.array(tokens, dtype=np.int32),
            logprobs=np.array(logprobs, dtype=np.float32),
            turns=turns,
            outcome=outcome,
            success=self.success,
            reward=self.reward,
            final_observation=self.observation,
            error=self.error,
            instructions=self.instructions,
            tools=self.tools,
            hint=self.env.hint,
        )


def require_writable(path: Path) -> None:
    """Refuse a file that exists or cannot be written, before anything is played."""
    if path.suffix not in FORMATS:
        raise UserError(f"--out {path}: a file that ends in {' or '.join(FORMATS)} wanted")
    if path.exists():
        raise UserError(f"--out {path} exists already; name another file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {path}: a file in an existing directory wanted")


def save(path: Path, records: Sequence[Record]) -> None:
    """Write the episodes: as trajectories (Parquet), or their texts alone, an episode a line (JSON)."""
    from trpd_agents.atomic import write_text
    from trpd_agents.storage import write_trajectories

    trajectories = [record.trajectory(number) for number, record in enumerate(records)]
    try:
        if path.suffix == ".parquet":
            write_trajectories(path, trajectories)
        else:
            write_text(path, "".join(json.dumps(_line(t)) + "\n" for t in trajectories))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def _line(t: Trajectory) -> dict[str, Any]:
    names = ("env_id", "env_kwargs", "seed", "outcome", "success", "reward", "error", "instructions", "tools", "hint")
    turns = [
        {name: getattr(turn, name) for name in ("observation", "author", "text", "calls", "reward", "ok")}
        for turn in t.turns
    ]
    return {**{name: getattr(t, name) for name in names}, "turns": turns, "final_observation": t.final_observation}
