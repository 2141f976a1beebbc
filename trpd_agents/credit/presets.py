"""Named methods. A preset is a `CreditConfig` and nothing else: whatever it does can be written out in a run's
configuration."""

from __future__ import annotations

from dataclasses import dataclass

from trpd_agents.credit.config import (
    BernoulliGate,
    CreditConfig,
    ForwardKLOutliers,
    FullEstimator,
    OccupancyRule,
    PrefixGuidance,
)


@dataclass(frozen=True)
class Preset:
    """`sources` are arXiv numbers; empty for this project's own."""

    config: CreditConfig
    summary: str
    sources: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    "opd": Preset(
        CreditConfig(),
        "On-policy distillation: reverse KL on every token the student sampled, estimated from that token.",
        ("2606.01249",),
    ),
    "tropd": Preset(
        CreditConfig(gate=BernoulliGate(), outlier=ForwardKLOutliers(), guidance=PrefixGuidance()),
        "Token trust region: reverse KL on accepted tokens, forward KL on the others, a shrinking teacher prefix.",
        ("2606.01249",),
    ),
    "trajectory": Preset(
        CreditConfig(rule=OccupancyRule(), estimator=FullEstimator()),
        "Trajectory trust region: exact reverse KL on turns whose history the teacher would have reached itself.",
    ),
}
