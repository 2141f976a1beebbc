"""Trust-region credit assignment: from teacher scores to per-token weights.

Imports only torch and `trpd_agents.trajectory` (and the random numbers of `trpd_agents.counter_rng`), so it can be used
with any other trainer: build a `ScoredBatch`, choose a `CreditConfig` or a preset, call `assign_credit`.
"""

from trpd_agents.credit.assign import INVALID_LOG_RATIO, Credit, assign_credit
from trpd_agents.credit.config import (
    GATES,
    GUIDANCE,
    OUTLIERS,
    RULES,
    BernoulliGate,
    ClipOutliers,
    CreditConfig,
    Divergence,
    ForwardKLOutliers,
    HysteresisRule,
    MaskOutliers,
    NoGuidance,
    NoRule,
    OccupancyRule,
    OffGate,
    PrefixGuidance,
    SoftGate,
    ThresholdGate,
)
from trpd_agents.credit.guidance import guided_turns, prefix_share
from trpd_agents.credit.presets import PRESETS, Preset
from trpd_agents.credit.reason import DESCRIPTIONS, Reason

__all__ = [
    "DESCRIPTIONS",
    "GATES",
    "GUIDANCE",
    "INVALID_LOG_RATIO",
    "OUTLIERS",
    "PRESETS",
    "RULES",
    "BernoulliGate",
    "ClipOutliers",
    "Credit",
    "CreditConfig",
    "Divergence",
    "ForwardKLOutliers",
    "HysteresisRule",
    "MaskOutliers",
    "NoGuidance",
    "NoRule",
    "OccupancyRule",
    "OffGate",
    "PrefixGuidance",
    "Preset",
    "Reason",
    "SoftGate",
    "ThresholdGate",
    "assign_credit",
    "guided_turns",
    "prefix_share",
]
