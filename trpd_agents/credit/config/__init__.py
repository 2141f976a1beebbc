"""The words in which a method is written: one small frozen dataclass per choice, and `CreditConfig` around them.

Invariant: an object of this package is valid, whoever made it: ranges are checked on construction. Only the standard
library is imported, so the words can be used without our configuration files; `__pydantic_config__` lets pydantic
validate the same classes from dictionaries. `KINDS` leads from a part and a `kind` to the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trpd_agents.credit.config.play import (
    CURRICULA,
    GUIDANCE,
    BernoulliGuidance,
    Curriculum,
    DepthCurriculum,
    Guidance,
    NoCurriculum,
    NoGuidance,
    PrefixGuidance,
    ProbeCurriculum,
    RescueGuidance,
)
from trpd_agents.credit.config.tokens import (
    ESTIMATORS,
    GATES,
    NORMALISERS,
    OUTLIERS,
    ActionTokensNormaliser,
    BernoulliGate,
    ClipOutliers,
    ClosedGate,
    EntropyOutliers,
    Estimator,
    ForwardKL,
    ForwardKLOutliers,
    FullEstimator,
    Gate,
    KeptTokensNormaliser,
    MaskOutliers,
    Normaliser,
    OffGate,
    Outlier,
    ProximalOutliers,
    SampledEstimator,
    SoftGate,
    ThresholdGate,
    TopKEstimator,
    TurnMeanNormaliser,
)
from trpd_agents.credit.config.turns import (
    DIVERGENCES,
    FILTERS,
    RULES,
    Divergence,
    Filter,
    HysteresisRule,
    LeakyRule,
    MaxDivergenceFilter,
    NoFilter,
    NoRule,
    OccupancyRule,
    PositionRule,
    RandomRule,
    RewardAlignedFilter,
    Rule,
    SodRule,
    StopRule,
    TdurRule,
    Thresholds,
)

KINDS: dict[str, Mapping[str, type]] = {
    "gate": GATES,
    "outlier": OUTLIERS,
    "divergence": DIVERGENCES,
    "rule": RULES,
    "filter": FILTERS,
    "guidance": GUIDANCE,
    "curriculum": CURRICULA,
    "estimator": ESTIMATORS,
    "normaliser": NORMALISERS,
}
"""Every part of a method, and what it can be."""


@dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """A method. The defaults are plain on-policy distillation."""

    __pydantic_config__ = {"extra": "forbid"}
    gate: Gate = field(default_factory=OffGate)
    outlier: Outlier = field(default_factory=MaskOutliers)
    divergence: Divergence = field(default_factory=Divergence)
    rule: Rule = field(default_factory=NoRule)
    filter: Filter = field(default_factory=NoFilter)
    guidance: Guidance = field(default_factory=NoGuidance)
    curriculum: Curriculum = field(default_factory=NoCurriculum)
    estimator: Estimator = field(default_factory=SampledEstimator)
    normaliser: Normaliser = field(default_factory=ActionTokensNormaliser)

    def __post_init__(self) -> None:
        if self.exact and isinstance(self.outlier, ClipOutliers | ProximalOutliers):
            raise ValueError(
                f"outlier.kind: found {self.outlier.kind!r} with estimator {self.estimator.kind!r}, wanted 'mask', "
                "'forward_kl' or 'entropy': it bounds the score of the sampled token, which a sum over the vocabulary "
                "does not use"
            )

    @property
    def exact(self) -> bool:
        """Whether the reverse KL needs the teacher's whole distribution."""
        return not isinstance(self.estimator, SampledEstimator)

    @property
    def forward_kl(self) -> ForwardKL | None:
        """How forward KL is taken, if this method takes any."""
        return self.outlier if isinstance(self.outlier, ForwardKL) else None


__all__ = [
    "CURRICULA",
    "DIVERGENCES",
    "ESTIMATORS",
    "FILTERS",
    "GATES",
    "GUIDANCE",
    "KINDS",
    "NORMALISERS",
    "OUTLIERS",
    "RULES",
    "ActionTokensNormaliser",
    "BernoulliGate",
    "BernoulliGuidance",
    "ClipOutliers",
    "ClosedGate",
    "CreditConfig",
    "Curriculum",
    "DepthCurriculum",
    "Divergence",
    "EntropyOutliers",
    "Estimator",
    "Filter",
    "ForwardKL",
    "ForwardKLOutliers",
    "FullEstimator",
    "Gate",
    "Guidance",
    "HysteresisRule",
    "KeptTokensNormaliser",
    "LeakyRule",
    "MaskOutliers",
    "MaxDivergenceFilter",
    "NoCurriculum",
    "NoFilter",
    "NoGuidance",
    "NoRule",
    "Normaliser",
    "OccupancyRule",
    "OffGate",
    "Outlier",
    "PositionRule",
    "PrefixGuidance",
    "ProbeCurriculum",
    "ProximalOutliers",
    "RandomRule",
    "RescueGuidance",
    "RewardAlignedFilter",
    "Rule",
    "SampledEstimator",
    "SodRule",
    "SoftGate",
    "StopRule",
    "TdurRule",
    "ThresholdGate",
    "Thresholds",
    "TopKEstimator",
    "TurnMeanNormaliser",
]
