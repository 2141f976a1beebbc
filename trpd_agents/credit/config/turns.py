"""The words for whole turns and trajectories: turn divergence, trajectory rules, trajectory filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trpd_agents.credit.config.base import Choice, check_choice, check_count, check_number

# ---- turn divergence -----------------------------------------------------------------------------

Statistic = Literal["tv", "excess", "abs", "k1", "k3", "max", "teacher_logprob"]


@dataclass(frozen=True, kw_only=True)
class Divergence(Choice):
    """How far student and teacher are apart within one turn: see `divergence.py` for each `kind`."""

    kind: Statistic = "tv"
    min_tokens: int = 1  # a turn with fewer action tokens does not count

    def __post_init__(self) -> None:
        check_choice("divergence.kind", self.kind, get_args(Statistic))
        check_count("divergence.min_tokens", self.min_tokens, 1)


DIVERGENCES: dict[str, type] = dict.fromkeys(get_args(Statistic), Divergence)


# ---- trajectory rule: from turns to turn weights -------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoRule(Choice):
    """Every turn has weight 1."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class Thresholds(Choice):
    """What the rules with thresholds on the turn divergence share. Not a choice by itself: see its subclasses.

    With `thresholds="quantile"` the thresholds are shares of the last `window` turns that counted: 0.9 is what nine in
    ten of them stayed below. Until any turn was seen nothing is outside.
    """

    enter: float = 0.3  # outside after a turn diverges by more than this; inf never
    thresholds: Literal["value", "quantile"] = "value"
    window: int = 2048  # turns

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"{self.kind}.thresholds", self.thresholds, ("value", "quantile"))
        check_count(f"{self.kind}.window", self.window, 1)
        self._check_threshold("enter")

    def _check_threshold(self, name: str) -> None:
        if self.thresholds == "quantile":
            check_number(f"{self.kind}.{name}", getattr(self, name), 0, 1)
        else:
            check_number(f"{self.kind}.{name}", getattr(self, name), 0, inf=True)


@dataclass(frozen=True, kw_only=True)
class StopRule(Thresholds):
    """Nothing after the first divergent turn counts (STRIDE 2609.14636, Prune-OPD 2605.07804)."""

    kind: Literal["stop"] = "stop"
    outside_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("stop.outside_weight", self.outside_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class LeakyRule(Thresholds):
    """Divergence beyond `enter` adds up and leaks away; the weight falls exponentially with what is left."""

    kind: Literal["leaky"] = "leaky"
    leak: float = 0.8  # what the sum keeps from one turn to the next
    steepness: float = 5.0  # per unit of divergence

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("leaky.leak", self.leak, 0, 1)
        check_number("leaky.steepness", self.steepness, 0)


@dataclass(frozen=True, kw_only=True)
class HysteresisRule(Thresholds):
    """Leave the region on one divergent turn, return after several agreeing ones: see `rules/hysteresis.py`."""

    kind: Literal["hysteresis"] = "hysteresis"
    leave: float = 0.1  # a turn that diverges by no more than this agrees
    patience: int = 2  # agreeing turns in a row that lead back inside
    evidence: bool = True  # agreeing also needs the environment to have accepted the action, and no repeated call
    outside_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_threshold("leave")
        if self.leave > self.enter:
            raise ValueError(
                f"hysteresis.leave: found {self.leave!r}, wanted at most hysteresis.enter ({self.enter!r}): "
                "with leave above enter one turn could both leave the region and return to it"
            )
        check_count("hysteresis.patience", self.patience, 1)
        check_number("hysteresis.outside_weight", self.outside_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class OccupancyRule(Choice):
    """Trust a turn while the teacher would still have come this way: see `rules/occupancy.py`."""

    kind: Literal["occupancy"] = "occupancy"
    budget: float = 4.0  # nats of log ratio the history may lose; inf trusts everything
    form: Literal["hard", "soft"] = "hard"
    forget: float = 1.0  # what a turn's log ratio keeps of its size at each later turn; 1 forgets nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("occupancy.budget", self.budget, 0, inf=True)
        check_choice("occupancy.form", self.form, ("hard", "soft"))
        check_number("occupancy.forget", self.forget, 0, 1, above_low=True)


@dataclass(frozen=True, kw_only=True)
class SodRule(Choice):
    """Turns weigh less the further they diverge, compared with the first (SOD, 2605.07725)."""

    kind: Literal["sod"] = "sod"
    delta: float = 0.2  # a turn that diverges less than the first weighs at most 1 + delta
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sod.delta", self.delta, 0)
        check_number("sod.eps", self.eps, 0, above_low=True)


@dataclass(frozen=True, kw_only=True)
class TdurRule(Choice):
    """Turns weigh more the further they diverge or the less sure the student was (ATOD, 2606.27814)."""

    kind: Literal["tdur"] = "tdur"


@dataclass(frozen=True, kw_only=True)
class PositionRule(Choice):
    """Weight `decay ** k` for turn k (after IW-OPD, 2606.22600)."""

    kind: Literal["position"] = "position"
    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("position.decay", self.decay, 0, 1, above_low=True)


@dataclass(frozen=True, kw_only=True)
class RandomRule(Choice):
    """Keep each turn with probability `share`, whatever happened in it: the control for every mask."""

    kind: Literal["random"] = "random"
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("random.share", self.share, 0, 1)


Rule = (
    NoRule
    | StopRule
    | LeakyRule
    | HysteresisRule
    | OccupancyRule
    | SodRule
    | TdurRule
    | PositionRule
    | RandomRule
)  # fmt: skip
RULES: dict[str, type] = {
    "none": NoRule,
    "stop": StopRule,
    "leaky": LeakyRule,
    "hysteresis": HysteresisRule,
    "occupancy": OccupancyRule,
    "sod": SodRule,
    "tdur": TdurRule,
    "position": PositionRule,
    "random": RandomRule,
}


# ---- trajectory filter: which trajectories count at all ------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoFilter(Choice):
    """Every trajectory counts."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class MaxDivergenceFilter(Choice):
    """A trajectory counts only if none of its turns diverges by more than `threshold`."""

    kind: Literal["max_divergence"] = "max_divergence"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_divergence.threshold", self.threshold, 0, inf=True)


@dataclass(frozen=True, kw_only=True)
class RewardAlignedFilter(Choice):
    """A trajectory counts if the teacher agrees with its outcome: `(2 R - 1) * sum d >= 0` (RA-OPD, 2608.27960)."""

    kind: Literal["reward_aligned"] = "reward_aligned"


Filter = NoFilter | MaxDivergenceFilter | RewardAlignedFilter
FILTERS: dict[str, type] = {
    "none": NoFilter,
    "max_divergence": MaxDivergenceFilter,
    "reward_aligned": RewardAlignedFilter,
}
