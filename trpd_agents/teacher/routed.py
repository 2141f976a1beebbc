"""Several teachers, each for the environments that it knows.

Invariant: every trajectory is scored by exactly one of them, as it would be by that one alone; the results come back
in the order of the trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from trpd_agents.errors import UserError
from trpd_agents.rollout.engine import Completion, Engine, Request, Sampling
from trpd_agents.teacher.base import Teacher
from trpd_agents.trajectory import Scores, Trajectory

_HEADER = 2  # columns in front of a teacher's own hidden states: whose they are, and how many


class RoutedTeacher:
    """Scores a trajectory with the teacher that `route` names for its environment's id.

    Hidden states are handed on with a note of whose they are, because their widths and meanings differ.
    """

    def __init__(self, teachers: Mapping[str, Teacher], route: Callable[[str], str | None]):
        self.teachers = dict(teachers)
        self.route = partial(_routed, route, self.teachers)
        self._names = list(self.teachers)
        self._dtypes: dict[str, torch.dtype] = {}
        engines = {name: teacher.engine for name, teacher in self.teachers.items()}
        playing = {name: engine for name, engine in engines.items() if engine is not None}
        self.engine: Engine | None = RoutedEngine(playing, self.route) if len(playing) == len(engines) else None

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        groups: dict[str, list[int]] = {}
        for i, trajectory in enumerate(trajectories):
            groups.setdefault(self.route(trajectory.env_id), []).append(i)
        found: dict[int, Scores] = {}
        for name, group in groups.items():
            found.update(zip(group, self.teachers[name].score([trajectories[i] for i in group]), strict=True))
        kept = [scores.hidden for scores in found.values() if scores.hidden is not None]
        widest = max((hidden.shape[1] for hidden in kept), default=0)
        # An oracle's rows are on the CPU and a model's where it computes, and they will meet in one micro-batch.
        place = next((hidden.device for hidden in kept if hidden.device.type != "cpu"), torch.device("cpu"))
        for name, group in groups.items():
            for i in group:
                labelled = self._labelled(name, found[i].hidden, widest)
                found[i].hidden = None if labelled is None else labelled.to(place)
        return [found[i] for i in range(len(trajectories))]

    @torch.no_grad()
    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        """log pi_T over the vocabulary, `[n, V]` nats; V is the largest of the teachers in `hidden`."""
        whose = hidden[:, 0].long()
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for index in whose.unique().tolist():
            rows = (whose == index).nonzero()[:, 0]
            name = self._names[index]
            # Two scorings may differ in the width that an oracle's rows have.
            for width in hidden[rows, 1].long().unique().tolist():
                same = rows[hidden[rows, 1] == width]
                own = hidden[same, _HEADER : _HEADER + width].to(self._dtypes[name])
                parts.append((same, self.teachers[name].log_distribution(own)))
        vocabulary = max((part.shape[1] for _, part in parts), default=0)
        found = hidden.new_full((len(hidden), vocabulary), -torch.inf)
        for same, part in parts:
            found[same, : part.shape[1]] = part.to(found)
        return found

    def _labelled(self, name: str, hidden: torch.Tensor | None, widest: int) -> torch.Tensor | None:
        if hidden is None:
            return None
        self._dtypes[name] = hidden.dtype
        label = hidden.new_tensor([self._names.index(name), hidden.shape[1]], dtype=torch.float32)
        filler = hidden.new_zeros((len(hidden), widest - hidden.shape[1]), dtype=torch.float32)
        return torch.cat([label.expand(len(hidden), -1), hidden.float(), filler], dim=1)


def _routed(route: Callable[[str], str | None], teachers: Mapping[str, Teacher], env_id: str) -> str:
    name = route(env_id)
    if name is None or name not in teachers:
        raise UserError(
            f"teacher.routes: {f'no pattern fits {env_id!r}' if name is None else f'{env_id!r} leads to {name!r}'}; "
            f"this run has the teachers {', '.join(teachers)}; add a route to one of them, such as '*'"
        )
    return name


class RoutedEngine:
    """Lets every conversation be played by the engine that is named for its environment. Requests need their `env`."""

    version = 0

    def __init__(self, engines: Mapping[str, Engine], route: Callable[[str], str]):
        self._engines = dict(engines)
        self._route = route

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found: dict[int, Completion] = {}
        for name, group in self._grouped(requests).items():
            found.update(zip(group, self._engines[name].generate([requests[i] for i in group], sampling), strict=True))
        return [found[i] for i in range(len(requests))]

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for name, group in self._grouped(requests).items():
            read = self._engines[name].append([requests[i] for i in group], [counts[i] for i in group])
            found.update(zip(group, read, strict=True))
        return [found[i] for i in range(len(requests))]

    def release(self, conversations: Sequence[int]) -> None:
        for engine in self._engines.values():
            engine.release(conversations)

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        raise NotImplementedError("several models: whose weights are these?")

    def logprobs(self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int) -> list[Scores]:
        raise NotImplementedError("sequences of tokens do not say what environment they are from: score trajectories")

    def _grouped(self, requests: Sequence[Request]) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            if request.env is None:
                raise ValueError("request.env: found None, wanted the environment that the conversation is with")
            groups.setdefault(self._route(request.env.spec.id), []).append(i)
        return groups
