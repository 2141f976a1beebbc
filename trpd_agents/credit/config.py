"""The words in which a method is written: one small frozen dataclass per choice, and `CreditConfig` around them.

Invariant: an object of this module is valid, whoever made it: ranges are checked on construction. Only the standard
library is imported, so the words can be used without our configuration files; `__pydantic_config__` lets pydantic
validate the same classes from dictionaries. `GATES`, `OUTLIERS`, `RULES` and `GUIDANCE` lead from a `kind` to its
class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

_FORBID_EXTRA = {"extra": "forbid"}


def _check_number(
    name: str, value: float, low: float, high: float = math.inf, *, above_low: bool = False, inf: bool = False
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (low < value if above_low else low <= value) and value <= high and (inf or math.isfinite(value)):
        return
    bound = f"a number {'>' if above_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
    raise ValueError(f"{name}: found {value!r}, wanted {bound}{' (inf allowed)' if inf else ''}")


def _check_count(name: str, value: int, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: found {value!r}, wanted a whole number >= {low}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: found {value!r}, wanted one of {', '.join(allowed)}")


class _Choice:
    """What all choices share. `kind` names the class in a written configuration and cannot name another one."""

    __pydantic_config__ = _FORBID_EXTRA
    kind: str

    def __post_init__(self) -> None:
        _check_choice(f"{type(self).__name__}.kind", self.kind, (type(self).kind,))


# ---- token gate: which tokens' reverse KL is trusted ---------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OffGate(_Choice):
    """Every token is trusted."""

    kind: Literal["off"] = "off"


@dataclass(frozen=True, kw_only=True)
class BernoulliGate(_Choice):
    """Trust a token with probability `exp(min(d + slack, 0))`, the acceptance of speculative decoding (2606.01249)."""

    kind: Literal["bernoulli"] = "bernoulli"
    slack: float = 0.0  # nats; 0 is TrOPD, inf trusts everything

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("bernoulli.slack", self.slack, 0, inf=True)


@dataclass(frozen=True, kw_only=True)
class SoftGate(_Choice):
    """Weigh a token by that probability instead of drawing: same mean gradient, less variance."""

    kind: Literal["soft"] = "soft"
    slack: float = 0.0  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("soft.slack", self.slack, 0, inf=True)


@dataclass(frozen=True, kw_only=True)
class ThresholdGate(_Choice):
    """Trust a token iff `d >= -slack`."""

    kind: Literal["threshold"] = "threshold"
    slack: float = 1.0  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("threshold.slack", self.slack, 0, inf=True)


Gate = OffGate | BernoulliGate | SoftGate | ThresholdGate
GATES: dict[str, type] = {"off": OffGate, "bernoulli": BernoulliGate, "soft": SoftGate, "threshold": ThresholdGate}


# ---- outliers: what happens to tokens the gate rejects -------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MaskOutliers(_Choice):
    """Rejected tokens carry no loss."""

    kind: Literal["mask"] = "mask"


@dataclass(frozen=True, kw_only=True)
class ClipOutliers(_Choice):
    """Rejected tokens keep their reverse KL with the score floored: `max(d, floor)` (REOPOLD, 2603.11137)."""

    kind: Literal["clip"] = "clip"
    floor: float = math.log(0.1) / (1 - 0.1)  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("clip.floor", self.floor, -math.inf, 0)


@dataclass(frozen=True, kw_only=True)
class ForwardKLOutliers(_Choice):
    """Rejected tokens get forward KL on the teacher's top-k, differentiated directly (TrOPD, 2606.01249)."""

    kind: Literal["forward_kl"] = "forward_kl"
    top_k: int = 64  # tokens
    tail: bool = False  # add one bucket for all other tokens, which makes the truncated sum a KL again

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("forward_kl.top_k", self.top_k, 1)


Outlier = MaskOutliers | ClipOutliers | ForwardKLOutliers
OUTLIERS: dict[str, type] = {"mask": MaskOutliers, "clip": ClipOutliers, "forward_kl": ForwardKLOutliers}


# ---- turn divergence -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Divergence(_Choice):
    """How far student and teacher are apart within one turn. `tv`: one minus the mean acceptance `min(rho, 1)`."""

    kind: Literal["tv"] = "tv"
    min_tokens: int = 1  # a turn with fewer action tokens does not count

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("divergence.min_tokens", self.min_tokens, 1)


# ---- trajectory rule: from turns to turn weights -------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoRule(_Choice):
    """Every turn has weight 1."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class OccupancyRule(_Choice):
    """Trust a turn while the teacher would still have come this way: see `rules/occupancy.py`."""

    kind: Literal["occupancy"] = "occupancy"
    budget: float = 4.0  # nats of log ratio the history may lose; inf trusts everything
    form: Literal["hard", "soft"] = "hard"
    forget: float = 1.0  # what a turn's log ratio keeps of its size at each later turn; 1 forgets nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("occupancy.budget", self.budget, 0, inf=True)
        _check_choice("occupancy.form", self.form, ("hard", "soft"))
        _check_number("occupancy.forget", self.forget, 0, 1, above_low=True)


@dataclass(frozen=True, kw_only=True)
class HysteresisRule(_Choice):
    """Leave the region on one divergent turn, return after several agreeing ones: see `rules/hysteresis.py`."""

    kind: Literal["hysteresis"] = "hysteresis"
    enter: float = 0.3  # outside after a turn diverges by more than this; inf never
    leave: float = 0.1  # a turn that diverges by no more than this agrees
    patience: int = 2  # agreeing turns in a row that lead back inside
    evidence: bool = True  # agreeing also needs the environment to have accepted the action
    outside_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("hysteresis.enter", self.enter, 0, inf=True)
        _check_number("hysteresis.leave", self.leave, 0, inf=True)
        if self.leave > self.enter:
            raise ValueError(
                f"hysteresis.leave: found {self.leave!r}, wanted at most hysteresis.enter ({self.enter!r}): "
                "with leave above enter one turn could both leave the region and return to it"
            )
        _check_count("hysteresis.patience", self.patience, 1)
        _check_number("hysteresis.outside_weight", self.outside_weight, 0, 1)


Rule = NoRule | OccupancyRule | HysteresisRule
RULES: dict[str, type] = {"none": NoRule, "occupancy": OccupancyRule, "hysteresis": HysteresisRule}


# ---- guidance: turns the teacher plays -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoGuidance(_Choice):
    """The student plays every turn."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class PrefixGuidance(_Choice):
    """The teacher plays a shrinking share of the first turns; the student imitates them (TrOPD on turns)."""

    kind: Literal["prefix"] = "prefix"
    beta: float = 1e-3  # weight of a guided token's negative log-likelihood
    turns: int = 8  # turns the teacher typically needs; all of them are guided at step 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("prefix.beta", self.beta, 0)
        _check_count("prefix.turns", self.turns, 1)


Guidance = NoGuidance | PrefixGuidance
GUIDANCE: dict[str, type] = {"none": NoGuidance, "prefix": PrefixGuidance}


# ---- the whole -----------------------------------------------------------------------------------

Estimator = Literal["sampled", "full"]


@dataclass(frozen=True)
class CreditConfig:
    """A method. The defaults are plain on-policy distillation.

    `estimator` of the reverse KL: `sampled` needs one teacher number per token and has a high variance; `full` sums
    over the vocabulary and needs the teacher's whole distribution.
    """

    __pydantic_config__ = _FORBID_EXTRA
    gate: Gate = field(default_factory=OffGate)
    outlier: Outlier = field(default_factory=MaskOutliers)
    divergence: Divergence = field(default_factory=Divergence)
    rule: Rule = field(default_factory=NoRule)
    guidance: Guidance = field(default_factory=NoGuidance)
    estimator: Estimator = "sampled"

    def __post_init__(self) -> None:
        _check_choice("estimator", self.estimator, get_args(Estimator))
        if self.estimator == "full" and isinstance(self.outlier, ClipOutliers):
            raise ValueError(
                "outlier.kind: found 'clip' with estimator 'full', wanted 'mask' or 'forward_kl': clipping bounds the "
                "score of the sampled token, which the sum over the vocabulary does not use"
            )
