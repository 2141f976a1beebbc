"""Several environments in one run: the seed of an episode decides which of them it is played in.

Invariant: during an episode a mixture is the environment that was drawn, in everything it says of itself, its `spec`
included. So a trajectory names the environment it is from, and that environment alone plays it again from its seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.agent_env import AgentEnv
from trpd_agents.textenv.spec import EnvSpec

MIXTURE = "mixture"
_KEYS = {"id", "kwargs", "weight"}
_FORM = "environments: [{id: KeyChain-v0, weight: 2}, {id: Courier-v0, kwargs: {rooms: 3}}]"


@dataclass(frozen=True)
class Member:
    spec: EnvSpec
    weight: float


def members(spec: EnvSpec) -> list[Member]:
    """What a mixture consists of; any other environment is its own only member.

    Raises:
        UserError: the mixture's arguments are not a list of environments with weights.
    """
    if spec.id != MIXTURE:
        return [Member(spec, 1.0)]
    listed = spec.kwargs.get("environments")
    if set(spec.kwargs) != {"environments"} or not isinstance(listed, Sequence) or not listed:
        raise UserError(f"environment {MIXTURE!r}: wanted kwargs of the form {_FORM}; found {dict(spec.kwargs)!r:.200}")
    return [_member(entry) for entry in listed]


def _member(entry: Any) -> Member:
    if not isinstance(entry, Mapping) or not {"id"} <= set(entry) <= _KEYS:
        raise UserError(f"environment {MIXTURE!r}: wanted entries as in {_FORM}; found {entry!r:.200}")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise UserError(f"environment {MIXTURE!r}: the weight of {entry['id']!r} is a number > 0; found {weight!r}")
    spec = EnvSpec(entry["id"], dict(entry.get("kwargs") or {}))
    if spec.id == MIXTURE:
        raise UserError(f"environment {MIXTURE!r}: a mixture in a mixture; list its environments in the outer one")
    return Member(spec, float(weight))


def drawn(spec: EnvSpec, seed: int) -> EnvSpec:
    """The environment that the episode of `seed` is played in: a function of the two alone."""
    if spec.id != MIXTURE:
        return spec
    entries = members(spec)
    ends = list(accumulate(member.weight for member in entries))
    # Not seeded with the number itself: an environment that seeds Python's generator with it would draw the same.
    point = Random(f"{MIXTURE} {seed}").random() * ends[-1]
    return next(member.spec for member, end in zip(entries, ends, strict=True) if point < end)


class MixedEnv(AgentEnv):
    """An environment that becomes one of several at each reset. Before the first one it is what all of them are."""

    def __init__(self, spec: EnvSpec):
        from trpd_agents.textenv.resolve import make  # which makes mixtures, too

        self._make = make
        self._mixture = spec
        first = make(members(spec)[0].spec)
        super().__init__(first.env, spec)
        self._playing = False

    @property
    def max_turns(self) -> int | None:
        """The largest limit of all; None if one of them has none."""
        limits = self._of_all("max_turns")
        return None if None in limits else max(limits)

    @max_turns.setter
    def max_turns(self, limit: int | None) -> None:
        """What one of them alone would have."""

    @property
    def has_expert(self) -> bool:
        return super().has_expert if self._playing else all(self._of_all("has_expert"))

    @property
    def has_legal_actions(self) -> bool:
        return super().has_legal_actions if self._playing else all(self._of_all("has_legal_actions"))

    def reset(self, seed: int) -> str:
        chosen = self._make(drawn(self._mixture, seed))
        self.close()
        self.env, self.spec, self.reward_threshold = chosen.env, chosen.spec, chosen.reward_threshold
        self.action_limit = chosen.action_limit
        self._playing = True
        return super().reset(seed)

    def _of_all(self, name: str) -> list[Any]:
        found = []
        for member in members(self._mixture):
            env = self._make(member.spec)
            found.append(getattr(env, name))
            env.close()
        return found
