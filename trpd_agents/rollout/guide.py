"""Who plays the next turn of an episode: the student, or a teacher that guides it.

Invariant: what a guide decides about an episode depends on that episode alone, so episodes may share a batch, a process
or a run with any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.credit.config import (
    BernoulliGuidance,
    Divergence,
    Guidance,
    NoGuidance,
    PrefixGuidance,
    RescueGuidance,
)
from trpd_agents.credit.guidance import leads, plans_turns
from trpd_agents.rollout.engine import Engine
from trpd_agents.rollout.live import Live
from trpd_agents.trajectory import ScoredBatch, Stop


class Guide(Protocol):
    """Decides turn by turn; `engine` samples the turns it takes."""

    @property
    def engine(self) -> Engine: ...

    def read(self, student: Engine, live: Sequence[Live]) -> None:
        """Called before each round: let engines read what was said, where that is quicker than when they answer."""
        ...

    def leads(self, episode: int, turn: int) -> bool:
        """Whether the teacher plays turn `turn` of the episode with this key. Asked once per turn, in order."""
        ...

    def review(self, live: Sequence[Live]) -> None:
        """Look at the last turn of episodes that go on; the student played it."""
        ...

    def release(self, episodes: Sequence[int]) -> None:
        """Forget episodes that have ended."""
        ...


def make_guide(
    guidance: Guidance, divergence: Divergence, engine: Engine | None, progress: float, seed: int
) -> Guide | None:
    """The guide of a step at `progress` of the run, None when the student plays everything.

    Raises:
        ValueError: guidance is wanted, but the teacher has no engine to play with.
    """
    if isinstance(guidance, NoGuidance) or not plans_turns(guidance, progress):
        return None
    if engine is None:
        raise ValueError(f"guidance.kind: found {guidance.kind!r}, wanted 'none': this teacher cannot play")
    if isinstance(guidance, RescueGuidance):
        return Rescue(engine, guidance, divergence)
    return Plan(engine, guidance, progress, seed)


@dataclass(frozen=True)
class Plan:
    """The teacher plays the turns that `guidance` plans for it, whatever the student does."""

    engine: Engine
    guidance: PrefixGuidance | BernoulliGuidance
    progress: float
    seed: int = 0

    def read(self, student: Engine, live: Sequence[Live]) -> None:
        if isinstance(self.guidance, BernoulliGuidance):  # a prefix is handed over once, by all episodes together
            read_along(student, live)
            read_along(self.engine, live)

    def leads(self, episode: int, turn: int) -> bool:
        return leads(self.guidance, self.progress, self.seed, episode, turn)

    def review(self, live: Sequence[Live]) -> None:
        pass

    def release(self, episodes: Sequence[int]) -> None:
        self.engine.release(episodes)


class Rescue:
    """The teacher takes over after a turn at which the student went another way, and hands back (2607.26057).

    Its engine reads along, which it would have to do before its first turn anyway; it stops reading an episode whose
    budget is spent.
    """

    def __init__(self, engine: Engine, guidance: RescueGuidance, divergence: Divergence):
        self.engine = engine
        self.guidance = guidance
        self.method = CreditConfig(divergence=divergence)
        self._left: dict[int, int] = {}  # turns the teacher may still play, in episodes it has played in
        self._ahead: dict[int, int] = {}  # turns of the rescue that is going on

    def read(self, student: Engine, live: Sequence[Live]) -> None:
        read_along(student, live)

    def leads(self, episode: int, turn: int) -> bool:
        if not self._ahead.get(episode):
            return False
        self._ahead[episode] -= 1
        self._left[episode] -= 1
        return True

    def review(self, live: Sequence[Live]) -> None:
        budget = self.guidance.budget
        watched = [run for run in live if self._left.get(run.episode.key, budget) > 0]
        if not watched:
            return
        spans = [run.turns[-1].action for run in watched]
        requests = [run.request(self.engine, end=end) for run, (_, end) in zip(watched, spans, strict=True)]
        lt = self.engine.append(requests, [end - start for start, end in spans])
        credit = assign_credit(last_turns(watched, [torch.from_numpy(row) for row in lt]), self.method)
        far = credit.turn_counts & (credit.turn_divergence > self.guidance.enter)
        for run, too_far in zip(watched, far[:, 0].tolist(), strict=True):
            if too_far:
                left = self._left.setdefault(run.episode.key, budget)
                self._ahead[run.episode.key] = min(self.guidance.turns, left)

    def release(self, episodes: Sequence[int]) -> None:
        self.engine.release(episodes)
        for episode in episodes:
            self._left.pop(episode, None)
            self._ahead.pop(episode, None)


def read_along(engine: Engine, live: Sequence[Live]) -> None:
    """Give `engine` everything that was said, so that episodes whose turns it plays in different rounds stay in step:
    those that catch up alone would hold up all others in their batch.
    """
    engine.append([run.request(engine) for run in live], [0] * len(live))


def last_turns(live: Sequence[Live], lt: Sequence[torch.Tensor]) -> ScoredBatch:
    """The last turn of each episode as a batch of trajectories of one turn; `lt` are the teacher's scores of it."""
    turns = [run.turns[-1] for run in live]
    ls = [torch.tensor(run.logprobs[turn.action[0] : turn.action[1]]) for run, turn in zip(live, turns, strict=True)]
    action = _padded([torch.ones(len(row), dtype=torch.bool) for row in ls])
    return ScoredBatch(
        action=action,
        guided=torch.zeros_like(action),
        turn=torch.where(action, 0, -1),
        ls=_padded(ls),
        lt=_padded(lt),
        ok=torch.tensor([[turn.ok] for turn in turns]),
        complete=torch.tensor([[turn.stop is Stop.END] for turn in turns]),
        trajectory_id=torch.tensor([run.episode.key for run in live]),
        teacher_available=torch.ones(len(turns), dtype=torch.bool),
    )


def _padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
