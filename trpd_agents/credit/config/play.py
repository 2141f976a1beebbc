"""The words for how episodes are played: guidance by the teacher, and the curriculum on their depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trpd_agents.credit.config.base import Choice, check_choice, check_count, check_number

# ---- guidance: turns the teacher plays -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoGuidance(Choice):
    """The student plays every turn."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class Imitated(Choice):
    """What all guidance shares. Not a choice by itself: see its subclasses."""

    beta: float = 1e-3  # weight of a guided token's negative log-likelihood

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(f"{self.kind}.beta", self.beta, 0)


@dataclass(frozen=True, kw_only=True)
class PrefixGuidance(Imitated):
    """The teacher plays the first turns, a shrinking share of them, and the student imitates them (TrOPD on turns)."""

    kind: Literal["prefix"] = "prefix"
    turns: int = 8  # turns the teacher typically needs; all of them are guided at the start
    schedule: Literal["cosine", "constant"] = "cosine"  # constant: these turns stay the teacher's to the end

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("prefix.turns", self.turns, 1)
        check_choice("prefix.schedule", self.schedule, ("cosine", "constant"))


@dataclass(frozen=True, kw_only=True)
class BernoulliGuidance(Imitated):
    """The teacher plays each turn with a probability that falls from 1 to 0 (Guided-OPD, 2606.15912)."""

    kind: Literal["bernoulli"] = "bernoulli"
    until: float = 0.8  # share of the run after which the teacher plays no more

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bernoulli.until", self.until, 0, 1, above_low=True)


@dataclass(frozen=True, kw_only=True)
class RescueGuidance(Imitated):
    """After a divergent turn of the student the teacher plays the next ones and hands back (Relay-OPD, 2607.26057)."""

    kind: Literal["rescue"] = "rescue"
    enter: float = 0.5  # turn divergence above which the teacher takes over
    turns: int = 1  # turns of one rescue
    budget: int = 3  # turns of all rescues of an episode

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rescue.enter", self.enter, 0, inf=True)
        check_count("rescue.turns", self.turns, 1)
        check_count("rescue.budget", self.budget, 1)


Guidance = NoGuidance | PrefixGuidance | BernoulliGuidance | RescueGuidance
GUIDANCE: dict[str, type] = {
    "none": NoGuidance,
    "prefix": PrefixGuidance,
    "bernoulli": BernoulliGuidance,
    "rescue": RescueGuidance,
}


# ---- curriculum: how many turns a training episode may have --------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoCurriculum(Choice):
    """Training episodes are as long as the environment lets them be."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class DepthCurriculum(Choice):
    """Training episodes end after `1 + floor(step / every)` turns (TCOD, 2604.24005)."""

    kind: Literal["depth"] = "depth"
    every: int = 5  # steps after which one turn more is allowed

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("depth.every", self.every, 1)


@dataclass(frozen=True, kw_only=True)
class ProbeCurriculum(Choice):
    """One turn more is allowed whenever the deepest allowed turns no longer diverge (after TurnOPD, 2607.05804)."""

    kind: Literal["probe"] = "probe"
    threshold: float = 0.2  # mean turn divergence at the deepest allowed turn, at most, to go one deeper
    start: int = 1  # turns allowed at the start

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("probe.threshold", self.threshold, 0, inf=True)
        check_count("probe.start", self.start, 1)


Curriculum = NoCurriculum | DepthCurriculum | ProbeCurriculum
CURRICULA: dict[str, type] = {"none": NoCurriculum, "depth": DepthCurriculum, "probe": ProbeCurriculum}
