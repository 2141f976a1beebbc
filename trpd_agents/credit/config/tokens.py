"""The words for single tokens: gate, outliers, estimator of the reverse KL, normaliser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trpd_agents.credit.config.base import Choice, check_choice, check_count, check_number

# ---- token gate: which tokens' reverse KL is trusted ---------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OffGate(Choice):
    """Every token is trusted."""

    kind: Literal["off"] = "off"


@dataclass(frozen=True, kw_only=True)
class ClosedGate(Choice):
    """No token is trusted: all of them are outliers."""

    kind: Literal["closed"] = "closed"


@dataclass(frozen=True, kw_only=True)
class BernoulliGate(Choice):
    """Trust a token with probability `exp(min(d + slack, 0))`, the acceptance of speculative decoding (2606.01249)."""

    kind: Literal["bernoulli"] = "bernoulli"
    slack: float = 0.0  # nats; 0 is TrOPD, inf trusts everything

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bernoulli.slack", self.slack, 0, inf=True)


@dataclass(frozen=True, kw_only=True)
class SoftGate(Choice):
    """Weigh a token by that probability instead of drawing: same mean gradient, less variance."""

    kind: Literal["soft"] = "soft"
    slack: float = 0.0  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("soft.slack", self.slack, 0, inf=True)


@dataclass(frozen=True, kw_only=True)
class ThresholdGate(Choice):
    """Trust a token iff `d >= -slack`."""

    kind: Literal["threshold"] = "threshold"
    slack: float = 1.0  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold.slack", self.slack, 0, inf=True)


Gate = OffGate | ClosedGate | BernoulliGate | SoftGate | ThresholdGate
GATES: dict[str, type] = {
    "off": OffGate,
    "closed": ClosedGate,
    "bernoulli": BernoulliGate,
    "soft": SoftGate,
    "threshold": ThresholdGate,
}


# ---- outliers: what happens to tokens the gate rejects -------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MaskOutliers(Choice):
    """Rejected tokens carry no loss."""

    kind: Literal["mask"] = "mask"


@dataclass(frozen=True, kw_only=True)
class ClipOutliers(Choice):
    """Rejected tokens keep their reverse KL with the score floored: `max(d, floor)` (REOPOLD, 2603.11137)."""

    kind: Literal["clip"] = "clip"
    floor: float = math.log(0.1) / (1 - 0.1)  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("clip.floor", self.floor, -math.inf, 0)


@dataclass(frozen=True, kw_only=True)
class ProximalOutliers(Choice):
    """Rejected tokens get the score towards a mixture of student and teacher (TOP-D, 2607.04751).

    `log(mix * rho + 1 - mix)`, divided by `mix` when `scaled`, which makes it `d` to first order around `rho = 1`.
    """

    kind: Literal["proximal"] = "proximal"
    mix: float = 0.9  # the teacher's part of the mixture
    scaled: bool = True  # the paper does not scale, with mix 0.1 to 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("proximal.mix", self.mix, 0, 1, above_low=True)
        if self.mix == 1:
            raise ValueError("proximal.mix: found 1, wanted less: the mixture would be the teacher itself")


@dataclass(frozen=True, kw_only=True)
class ForwardKL(Choice):
    """How forward KL on the teacher's most likely tokens is taken. Not a choice by itself: see its subclasses."""

    top_k: int = 64  # tokens
    tail: bool = False  # add one bucket for all other tokens, which makes the truncated sum a KL again
    renormalise: bool = False  # compare the two distributions given that the token is one of the top ones
    gradient: Literal["direct", "score"] = "direct"  # through the student's logits, or as the sampled token's score

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(f"{self.kind}.top_k", self.top_k, 1)
        check_choice(f"{self.kind}.gradient", self.gradient, ("direct", "score"))
        if self.tail and self.renormalise:
            raise ValueError(
                f"{self.kind}.tail: found true together with renormalise, wanted one of them: both make the truncated "
                "sum a KL, and a renormalised distribution has no tail"
            )


@dataclass(frozen=True, kw_only=True)
class ForwardKLOutliers(ForwardKL):
    """Rejected tokens get forward KL on the teacher's top-k instead of reverse KL (TrOPD, 2606.01249)."""

    kind: Literal["forward_kl"] = "forward_kl"


@dataclass(frozen=True, kw_only=True)
class EntropyOutliers(ForwardKL):
    """Rejected tokens carry no reverse KL; wherever the teacher itself is undecided forward KL is added (EOPD)."""

    kind: Literal["entropy"] = "entropy"
    top_k: int = 16
    threshold: float = 0.8  # nats of the teacher's entropy above which forward KL is added

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("entropy.threshold", self.threshold, 0)


Outlier = MaskOutliers | ClipOutliers | ProximalOutliers | ForwardKLOutliers | EntropyOutliers
OUTLIERS: dict[str, type] = {
    "mask": MaskOutliers,
    "clip": ClipOutliers,
    "proximal": ProximalOutliers,
    "forward_kl": ForwardKLOutliers,
    "entropy": EntropyOutliers,
}


# ---- estimator of the reverse KL -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SampledEstimator(Choice):
    """From the sampled token alone (K1): one teacher number per token, high variance."""

    kind: Literal["sampled"] = "sampled"


@dataclass(frozen=True, kw_only=True)
class TopKEstimator(Choice):
    """Over the student's most likely tokens and one bucket for all others; needs the teacher's whole distribution."""

    kind: Literal["top_k"] = "top_k"
    top_k: int = 16  # tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("top_k.top_k", self.top_k, 1)


@dataclass(frozen=True, kw_only=True)
class FullEstimator(Choice):
    """Exact, over the vocabulary; needs the teacher's whole distribution."""

    kind: Literal["full"] = "full"


Estimator = SampledEstimator | TopKEstimator | FullEstimator
ESTIMATORS: dict[str, type] = {"sampled": SampledEstimator, "top_k": TopKEstimator, "full": FullEstimator}


# ---- normaliser: what the sums are divided by ----------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ActionTokensNormaliser(Choice):
    """All action tokens of the global batch, masked or not: masking never inflates what is left."""

    kind: Literal["action_tokens"] = "action_tokens"


@dataclass(frozen=True, kw_only=True)
class KeptTokensNormaliser(Choice):
    """Action tokens with a weight in either KL stream: the step keeps its size however much is masked."""

    kind: Literal["kept_tokens"] = "kept_tokens"


@dataclass(frozen=True, kw_only=True)
class TurnMeanNormaliser(Choice):
    """`share` of the mean over turns of their token means, the rest of the mean over all tokens (TurnOPD,
    2607.05804)."""

    kind: Literal["turn_mean"] = "turn_mean"
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("turn_mean.share", self.share, 0, 1)


Normaliser = ActionTokensNormaliser | KeptTokensNormaliser | TurnMeanNormaliser
NORMALISERS: dict[str, type] = {
    "action_tokens": ActionTokensNormaliser,
    "kept_tokens": KeptTokensNormaliser,
    "turn_mean": TurnMeanNormaliser,
}
