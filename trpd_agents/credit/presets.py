"""Named methods. A preset is a `CreditConfig` and nothing else: whatever it does can be written out in a run's
configuration.

Where a paper works on the tokens of one answer, the preset is its idea on the turns of an episode; what of a paper is
left out is said in the summary.
"""

from __future__ import annotations

from dataclasses import dataclass

from trpd_agents.credit.config import (
    BernoulliGate,
    BernoulliGuidance,
    ClipOutliers,
    ClosedGate,
    CreditConfig,
    DepthCurriculum,
    Divergence,
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    HysteresisRule,
    LeakyRule,
    OccupancyRule,
    PositionRule,
    PrefixGuidance,
    ProbeCurriculum,
    ProximalOutliers,
    RandomRule,
    RescueGuidance,
    RewardAlignedFilter,
    SodRule,
    SoftGate,
    StopRule,
    TdurRule,
    TurnMeanNormaliser,
)


@dataclass(frozen=True)
class Preset:
    """`sources` are arXiv numbers; empty for this project's own."""

    config: CreditConfig
    summary: str
    sources: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    # ---- tokens ----
    "opd": Preset(
        CreditConfig(),
        "On-policy distillation: reverse KL on every token the student sampled, estimated from that token.",
        ("2606.01249",),
    ),
    "opd-mask": Preset(
        CreditConfig(gate=BernoulliGate()),
        "TrOPD's ablation without forward KL and guidance: tokens that the gate rejects carry no loss.",
        ("2606.01249",),
    ),
    "opd-clip": Preset(
        CreditConfig(gate=BernoulliGate(), outlier=ClipOutliers()),
        "TrOPD's ablation without forward KL and guidance: tokens that the gate rejects have their score floored.",
        ("2606.01249",),
    ),
    "reopold": Preset(
        CreditConfig(gate=ClosedGate(), outlier=ClipOutliers()),
        "REOPOLD's reward clipping: the score of every token is floored; without its entropy sampling and two phases.",
        ("2603.11137",),
    ),
    "top-d": Preset(
        CreditConfig(gate=ClosedGate(), outlier=ProximalOutliers(mix=0.2, scaled=False)),
        "TOP-D: every token is scored against a mixture of student and teacher, which bounds the score from below.",
        ("2607.04751",),
    ),
    "eopd": Preset(
        CreditConfig(outlier=EntropyOutliers()),
        "EOPD: reverse KL on every token, and forward KL besides where the teacher itself is undecided.",
        ("2603.07079",),
    ),
    "fkl": Preset(
        CreditConfig(gate=ClosedGate(), outlier=ForwardKLOutliers()),
        "Forward KL on every token and no reverse KL: a control, known to collapse.",
        ("2606.01249",),
    ),
    "tropd": Preset(
        CreditConfig(gate=BernoulliGate(), outlier=ForwardKLOutliers(), guidance=PrefixGuidance()),
        "Token trust region: reverse KL on accepted tokens, forward KL on the others, a shrinking teacher prefix.",
        ("2606.01249",),
    ),
    "tropd-soft": Preset(
        CreditConfig(gate=SoftGate(), outlier=ForwardKLOutliers(), guidance=PrefixGuidance()),
        "TrOPD with the acceptance probability as a weight in place of a draw: same mean gradient, less variance.",
        ("2606.01249",),
    ),
    # ---- turns ----
    "sod": Preset(
        CreditConfig(divergence=Divergence(kind="abs"), rule=SodRule()),
        "SOD: turns weigh less the further they diverge, compared with the first.",
        ("2605.07725",),
    ),
    "atod": Preset(
        CreditConfig(divergence=Divergence(kind="abs"), rule=TdurRule()),
        "ATOD's turn reweighting: turns weigh more the further they diverge or the less sure the student was; "
        "without its annealing to reinforcement learning.",
        ("2606.27814",),
    ),
    "stride": Preset(
        CreditConfig(divergence=Divergence(kind="teacher_logprob"), rule=StopRule(enter=0.9, thresholds="quantile")),
        "STRIDE: nothing counts after the first turn that the teacher finds unlikely, here among the last tenth.",
        ("2609.14636",),
    ),
    "prune-opd": Preset(
        CreditConfig(rule=LeakyRule(leak=1.0)),
        "Prune-OPD: weights fall for good as divergence adds up; on turn divergence, and without cutting rollouts.",
        ("2605.07804",),
    ),
    "iw-opd": Preset(
        CreditConfig(rule=PositionRule()),
        "After IW-OPD: turns weigh less the later they come, in place of its weights by accumulated divergence.",
        ("2606.22600",),
    ),
    "ra-opd": Preset(
        CreditConfig(filter=RewardAlignedFilter()),
        "RA-OPD: only trajectories count on which the teacher agrees with the outcome.",
        ("2608.27960",),
    ),
    # ---- how episodes are played ----
    "guided-opd": Preset(
        CreditConfig(guidance=BernoulliGuidance()),
        "Guided-OPD: the teacher plays each turn with a probability that falls from 1 to 0.",
        ("2606.15912",),
    ),
    "relay-opd": Preset(
        CreditConfig(guidance=RescueGuidance()),
        "Relay-OPD: after a divergent turn the teacher plays the next one and hands back.",
        ("2607.26057",),
    ),
    "tcod": Preset(
        CreditConfig(curriculum=DepthCurriculum()),
        "TCOD: training episodes start with one turn and grow longer step by step.",
        ("2604.24005",),
    ),
    "turn-opd": Preset(
        CreditConfig(curriculum=ProbeCurriculum(), normaliser=TurnMeanNormaliser(share=0.5)),
        "After TurnOPD: episodes grow by a turn once the deepest turns agree; half the loss is a mean over turns.",
        ("2607.05804",),
    ),
    # ---- this project's own ----
    "trajectory": Preset(
        CreditConfig(rule=OccupancyRule(), estimator=FullEstimator()),
        "Trajectory trust region: exact reverse KL on turns whose history the teacher would have reached itself.",
    ),
    "occupancy": Preset(
        CreditConfig(rule=OccupancyRule()),
        "The region of `trajectory` alone: reverse KL from sampled tokens, on histories the teacher would reach.",
    ),
    "hysteresis": Preset(
        CreditConfig(rule=HysteresisRule()),
        "A divergent turn leads outside the region; agreement, and evidence from the environment, lead back.",
    ),
    # ---- controls ----
    "random-turn-mask": Preset(
        CreditConfig(rule=RandomRule()),
        "Control: turns are kept at random, whatever happened in them; set rule.share to what it is compared with.",
    ),
    "sft": Preset(
        CreditConfig(guidance=PrefixGuidance(schedule="constant", turns=10_000, beta=1.0)),
        "Control: the teacher plays every turn of every episode, and the student imitates it.",
    ),
}
